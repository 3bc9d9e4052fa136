"""Lightning attention: linear attention with one constant decay per head."""

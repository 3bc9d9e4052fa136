"""Names, fetches, verifies and keeps models from hubs; imports no torch."""

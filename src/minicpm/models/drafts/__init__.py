"""Small models that guess what a decoder says next, from its hidden states (EAGLE-2, EAGLE-3)."""

"""Image files to the numbers a model sees; only `decoding` and `viewing` need Pillow, and none torch."""

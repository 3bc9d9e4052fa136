"""The programs that `peers.py` compares, each in a worker process of its own."""

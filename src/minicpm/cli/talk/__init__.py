"""A conversation at a terminal, over any `ChatModel`."""

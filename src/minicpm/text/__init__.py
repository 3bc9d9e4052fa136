"""Messages to token ids, and a token stream back to content, reasoning and tool calls."""

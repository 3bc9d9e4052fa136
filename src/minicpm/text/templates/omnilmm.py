"""OmniLMM: turns under a role line, closed by the end-of-sequence token, as Zephyr has them."""

from __future__ import annotations

from minicpm.text.templates.conversation import Conversation

# The published demo begins every conversation with it.
SYSTEM = (
    "You are an artificial intelligence assistant, which gives helpful, detailed, and polite answers to the "
    "human's questions."
)


def render(conversation: Conversation) -> str:
    """The turns, the usual system turn first where the conversation has none of its own."""
    end = conversation.eos or "</s>"
    turns = conversation.turns
    opened = [] if turns[0]["role"] == "system" else [{"role": "system", "content": SYSTEM}]
    body = "".join(f"<|{turn['role']}|>\n{turn['content']}{end}\n" for turn in [*opened, *turns])
    return body + ("<|assistant|>\n" if conversation.generate else "")

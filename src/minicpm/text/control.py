"""Which entries of a vocabulary steer the model, and so may be written by a template only."""

from __future__ import annotations

from collections.abc import Collection

# Markers of the family's dialects that some vocabularies hold as added tokens without flagging them special.
DIALECT_MARKERS = frozenset(
    {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
    | {
        "<tools>",
        "</tools>",
        "<function",
        "</function>",
        "<param",
        "</param>",
        "<tool_sep>",
        "<tool_def_sep>",
    }
)

# Ends and beginnings of turns; they frame an answer and are no part of it.
TURN_MARKERS = frozenset({"<|im_start|>", "<|im_end|>"})


def is_control(spelling: str, *, special: bool, named: Collection[str]) -> bool:
    """Whether an added token is a control token; `named` are the bos, eos, pad and unk spellings."""
    bracketed = spelling.startswith("<|") and spelling.endswith("|>")
    return special or bracketed or spelling in named or spelling in DIALECT_MARKERS

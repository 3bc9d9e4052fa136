"""Tells from a checkpoint's own template how the model is spoken to, where its config cannot say."""

from __future__ import annotations

from minicpm.text.templates import BuiltIn, built_in


def recognise(source: str, fallback: BuiltIn, dialect: str) -> tuple[BuiltIn, str]:
    """The format whose markers and switches `source` uses, and the dialect of its tool calls.

    Call markers are conclusive: no family uses another's. Without any, turn markers decide the format and
    `dialect` stays; a template with neither leaves both as they were given.
    """
    if '<function name="' in source and '<param name="' in source:
        return built_in("minicpm5"), "xml-fn"
    if "<|tool_call_start|>" in source:
        return _with_calls(source, fallback), "py-call"
    if "<|im_start|>" in source and not fallback.markers & {"<|im_start|>"}:
        return built_in("chatml"), dialect
    if "<用户>" in source:
        return built_in("minicpm-v1"), "none"
    return fallback, dialect


def _with_calls(source: str, fallback: BuiltIn) -> BuiltIn:
    if fallback.suffixes:
        return fallback
    return built_in("nano" if "enable_thinking" in source else "chatml")

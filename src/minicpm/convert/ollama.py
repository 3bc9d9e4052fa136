"""The Modelfile by which Ollama takes a GGUF file: template, stops and parameters."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from minicpm.checkpoint.folder import Checkpoint
from minicpm.config import ModelConfig
from minicpm.models import registry
from minicpm.text.chat import Message
from minicpm.text.format import ChatFormat

MODELFILE = "Modelfile"
_NO_THOUGHT = "<think>\n\n</think>\n\n"
_CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n%s{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
_BEFORE_ANSWERS = f'{{{{ if eq .Role "assistant" }}}}{_NO_THOUGHT}{{{{ end }}}}'
_V1 = (
    '{{- range .Messages }}{{ if eq .Role "user" }}<用户>{{ .Content }}<AI>{{ else }}{{ .Content }}{{ end }}'
    "{{ end }}"
)
_QUIET = f"{{{{ if and $.IsThinkSet (not $.Think) }}}}{_NO_THOUGHT}{{{{ end }}}}"
_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
_TALK: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
)


def modelfile(file_name: str, checkpoint: Checkpoint, config: ModelConfig) -> str:
    """A Modelfile for the GGUF file of this name beside it.

    A template is given where one of ours in Ollama's form writes what the checkpoint's own writes; else
    Ollama is left to the one inside the file.
    """
    known = registry.family(config.family)
    chat = ChatFormat.from_folder(checkpoint.path, template=known.template, dialect=known.dialect)
    lines = [f"FROM ./{file_name}", *_template(chat)]
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in _stops(chat)]
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(checkpoint.generation).items()]
    return "\n".join(lines) + "\n"


def _template(chat: ChatFormat) -> list[str]:
    bos = chat.tokenizer.names.get("bos_token", "")
    written, quiet = chat.prompt_text(_TALK), chat.prompt_text(_TALK, thinking="off")
    start = bos if bos and written.startswith(bos) else ""
    for template, render in _KNOWN:
        if start + render(_TALK) == written:
            # A first token that the tokenizer adds is not written as well.
            head = "" if chat.tokenizer.add_bos else start
            return [f'TEMPLATE """{head}{template}{_QUIET if quiet == written + _NO_THOUGHT else ""}"""']
    return ["# The model's own template, inside the file, is none that is known here in Ollama's form."]


def _chatml(turns: tuple[Message, ...], before_answers: str = "") -> str:
    """What `_CHATML` writes."""
    opened = {"assistant": before_answers}
    framed = (f"{t['role']}\n{opened.get(t['role'], '')}{t['content']}<|im_end|>\n" for t in turns)
    return "".join(f"<|im_start|>{turn}" for turn in framed) + "<|im_start|>assistant\n"


def _v1(turns: tuple[Message, ...]) -> str:
    """What `_V1` writes."""
    return "".join(f"<用户>{t['content']}<AI>" if t["role"] == "user" else str(t["content"]) for t in turns)


# Each with what it writes; MiniCPM5 has an empty thought before each answer of the history.
_KNOWN: tuple[tuple[str, Callable[[tuple[Message, ...]], str]], ...] = (
    (_CHATML % "", _chatml),
    (_CHATML % _BEFORE_ANSWERS, partial(_chatml, before_answers=_NO_THOUGHT)),
    (_V1, _v1),
)


def _stops(chat: ChatFormat) -> list[str]:
    """The spellings that end an answer, and those that begin a turn."""
    names = chat.tokenizer.special_ids
    ends = [spelling for spelling, number in names.items() if number in chat.tokenizer.eos_ids]
    turns = [spelling for spelling in ("<|im_start|>",) if spelling in names]
    return list(dict.fromkeys([*ends, *turns]))


def _parameters(generation: Mapping[str, Any]) -> dict[str, Any]:
    if generation.get("do_sample") is False:
        return {"temperature": 0}
    stated = {name: generation.get(key) for key, name in _PARAMETERS.items()}
    return {name: value for name, value in stated.items() if type(value) in (int, float)}

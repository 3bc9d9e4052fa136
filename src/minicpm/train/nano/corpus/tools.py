"""Function calling: requests with tools, questions back, plain answers beside tools, and telling results."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

from minicpm.train.nano.corpus import arithmetic, smalltalk
from minicpm.train.nano.corpus.chat import Exchange, assistant, instructed, mode, talk, user
from minicpm.train.nano.corpus.tool_table import FUNCTIONS, Function
from minicpm.train.nano.corpus.tool_values import Said, pick, schema
from minicpm.train.nano.sample import Sample, chat_sample

NO_TOOL = (
    "I have no function for that. I am a tiny demo model.",
    "我没有可以做这件事的函数。我是一个很小的演示模型。",
)
BOTH = ((" Also: ", " And: ", " And then: "), ("另外，", "还有，", "然后，"))


class Param(NamedTuple):
    """A parameter as one sample shows it."""

    key: str
    shown: str
    pool: str
    required: bool


class Shown(NamedTuple):
    """A function under the names that one sample uses."""

    function: Function
    name: str
    params: tuple[Param, ...]

    @property
    def tool(self) -> dict[str, Any]:
        """The function in OpenAI's shape."""
        properties = {p.shown: schema(p.pool) for p in self.params}
        parameters = {
            "type": "object",
            "properties": properties,
            "required": [p.shown for p in self.params if p.required],
        }
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.function.about, "parameters": parameters},
        }


class Request(NamedTuple):
    """A request, the call it asks for, and the spoken values by first alias."""

    text: str
    shown: Shown
    arguments: dict[str, Any]
    spoken: dict[str, str]

    @property
    def call(self) -> dict[str, Any]:
        """The call in OpenAI's shape, arguments as a mapping."""
        return {"type": "function", "function": {"name": self.shown.name, "arguments": self.arguments}}


def show(rng: Random, function: Function) -> Shown:
    """Choose the aliases, the first ones most often."""

    def alias(names: list[str]) -> str:
        return names[0] if rng.random() < 0.5 else rng.choice(names)

    params = []
    for item in function.params.split():
        names, pool = item.lstrip("?").split(":")
        aliases = names.split("|")
        params.append(Param(aliases[0], alias(aliases), pool, not item.startswith("?")))
    return Shown(function, alias(function.names.split()), tuple(params))


def mentioned(template: str) -> set[str]:
    """The placeholders of a template."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def request(rng: Random, shown: Shown, zh: bool, held: bool = False) -> Request:
    """A random request for this function; `held` takes every open argument value from the exams' side."""
    template = rng.choice(shown.function.zh if zh else shown.function.en)
    used = [p for p in shown.params if p.key in mentioned(template)]
    said: Mapping[str, Said] = {p.key: pick(rng, p.pool, zh, held) for p in used}
    spoken = {key: value.spoken for key, value in said.items()}
    text = template.format(**spoken)
    return Request(text[:1].upper() + text[1:], shown, {p.shown: said[p.key].value for p in used}, spoken)


def choose(rng: Random, count: int) -> list[Shown]:
    """`count` functions whose shown names all differ."""
    while True:
        chosen = [show(rng, function) for function in rng.sample(FUNCTIONS, count)]
        if len({shown.name for shown in chosen}) == count:
            return chosen


def thought(requests: list[Request], zh: bool) -> str:
    """What the call is for, in the words of the function list."""
    first = requests[0].shown
    if len(requests) > 1:
        names = (" 和 " if zh else " and ").join(r.shown.name for r in requests)
        return f"用户要做两件事。我调用 {names}。" if zh else f"The user wants two things. I call {names}."
    about = first.function.about
    return (
        f"功能：{about} 我调用 {first.name}。" if zh else f"The user wants this: {about} I call {first.name}."
    )


def _call_turn(requests: list[Request], zh: bool) -> list[dict[str, Any]]:
    joint = "" if zh else " "
    text = joint.join(r.text for r in requests)
    return [user(text), {**assistant("", thought(requests, zh)), "tool_calls": [r.call for r in requests]}]


def _result_turn(rng: Random, asked: Request, zh: bool) -> list[dict[str, Any]]:
    fields = [item.split(":") for item in asked.shown.function.result.split()]
    output = {name: pick(rng, pool, zh) for name, pool in fields}
    told = asked.shown.function.tell[zh].format(
        **asked.spoken, **{name: said.spoken for name, said in output.items()}
    )
    content = json.dumps({name: said.value for name, said in output.items()}, ensure_ascii=False)
    return [
        {"role": "tool", "content": content},
        assistant(told, "结果来了，我告诉用户。" if zh else "The result is here. I tell the user."),
    ]


def _spoken_only(asked: Request, zh: bool) -> bool:
    """Whether the telling needs only what the request said and what the result holds."""
    result = {item.split(":")[0] for item in asked.shown.function.result.split()}
    return mentioned(asked.shown.function.tell[zh]) <= set(asked.spoken) | result


def _calling(rng: Random, shown: list[Shown], zh: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        asked = request(rng, rng.choice(shown), zh)
        if len(shown) > 1 and rng.random() < 0.08:
            other = rng.choice([s for s in shown if s is not asked.shown])
            return messages + _call_turn([asked, request(rng, other, zh)], zh)
        messages += _call_turn([asked], zh)
        if not _spoken_only(asked, zh) or rng.random() < 0.25:
            return messages
        messages += _result_turn(rng, asked, zh)
    return messages if rng.random() < 0.5 or len(messages) < 4 else messages[:-2]


def _asking_back(rng: Random, shown: list[Shown], zh: bool) -> list[dict[str, Any]]:
    function = rng.choice(shown).function
    text, question = function.lack[2:] if zh else function.lack[:2]
    reason = "缺少参数，我要问一下。" if zh else "An argument is missing. I ask for it."
    return [user(text), assistant(question, reason)]


def plain(rng: Random, shown: list[Shown], zh: bool) -> Exchange:
    """A question that needs no function, or one that none of the shown functions serves."""
    style = rng.random()
    if style < 0.35:
        names = {s.function.names for s in shown}
        absent = [f for f in FUNCTIONS if f.names not in names]
        reason = "没有合适的函数。" if zh else "No function fits."
        return Exchange(request(rng, show(rng, rng.choice(absent)), zh).text, NO_TOOL[zh], reason)
    if style < 0.65:
        return arithmetic.exchange(rng, arithmetic.problem(rng), zh)
    return smalltalk.exchange(rng, zh)


def tools(rng: Random) -> Sample:
    """One conversation with a list of one to five functions."""
    zh = rng.random() < 0.38
    shown = choose(rng, rng.choice((1, 2, 2, 3, 3, 4, 5)))
    listed = [s.tool for s in shown]
    style = rng.random()
    if style < 0.12:
        return talk(rng, "tools", [plain(rng, shown, zh)], tools=listed)
    messages = _asking_back(rng, shown, zh) if style < 0.2 else _calling(rng, shown, zh)
    return chat_sample("tools", instructed(rng, messages), tools=listed, thinking=mode(rng))

"""Describes a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicpm.cli.complete import model_names
from minicpm.cli.options import option, whole_number

if TYPE_CHECKING:
    from minicpm.text.chat import Message

_EXAMPLE = ("You are helpful.", "Hello!", "Hello. What can I do?", "Count to three.")


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="nano, a folder, or a pulled ORG/NAME.", autocompletion=model_names
        ),
    ],
    *,
    template: Annotated[
        bool, option("--template", help="Print the chat template and a conversation written with it.")
    ] = False,
    context: Annotated[
        list[int] | None,
        option("--context", parser=whole_number, help="Say the memory at this many tokens; repeatable."),
    ] = None,
    sparsity: Annotated[
        str | None,
        option(
            "--sparsity", metavar="TEXT", help="Measure the share of neurons that this text leaves at zero."
        ),
    ] = None,
    revision: Annotated[str | None, option("--revision", help="Branch, tag or commit.")] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Describe a model: architecture, sizes, context, memory, template, licence; nothing is downloaded.

    A published model that was not pulled is described from what this version knows of it.
    """
    from minicpm.cli import description
    from minicpm.cli.output import print_json, print_lines

    folder = _folder(model, revision)
    if template:
        _print_template(_needed(folder, model, "template"))
        return
    if sparsity is not None:
        _print_sparsity(_needed(folder, model, "weights"), model, sparsity, json)
        return
    if folder is None:
        document = description.describe_config(_published(model), context or None)
        document["notes"].append(f"Not pulled; described as published. `minicpm pull {model}` fetches it.")
    else:
        document = description.describe_folder(folder, context or None)
    if json:
        print_json({"model": model, **document})
    else:
        print_lines(_lines(model, document))


def _folder(name: str, revision: str | None) -> Path | None:
    """The folder of a model that is here, None for a hub name that is not."""
    from minicpm.checkpoint import resolve
    from minicpm.errors import Offline

    try:
        return resolve(name, revision=revision, offline=True)
    except Offline:
        return None


def _needed(folder: Path | None, name: str, what: str) -> Path:
    from minicpm.errors import NotACheckpoint

    if folder is None:
        raise NotACheckpoint(
            f"{name} was not pulled, so nothing of its {what} is here. `minicpm pull {name}` helps."
        )
    return folder


def _published(name: str) -> Any:
    from minicpm.cli.lazy import nearest
    from minicpm.errors import NotACheckpoint
    from minicpm.models.published import published

    rows = {repository: row for row in published() for repository in row.repositories}
    if name not in rows:
        raise NotACheckpoint(
            f"{name} was not pulled, and it is none of the published models known here.{nearest(name, rows)} "
            f"`minicpm pull {name}` fetches it."
        )
    return rows[name].raw


def _lines(name: str, document: dict[str, Any]) -> list[str]:
    from minicpm.cli.talk.printable import printable
    from minicpm.cli.units import lines

    return [printable(line) for line in lines([("model", name), *_rows(document)])]


def _rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    from minicpm.cli.codes import codes_lines
    from minicpm.cli.units import size

    rows = [
        ("folder", d.get("path", "")),
        ("family", f"{d['family']} ({d['title']}), {', '.join(d['architecture'] or ['not named'])}"),
        ("for", f"`minicpm {d['use']}`"),
        ("parameters", f"{d['parameters']:,}"),
        ("layers", f"{d['layers']} of width {d['hidden']:,}, feed-forward {_feed_forward(d)}"),
        ("heads", f"{d['heads']} query, {d['kv_heads']} key-value, of width {d['head_dim']}"),
        ("vocabulary", f"{d['vocabulary']:,}{_output_head(d)}"),
        ("context", f"{d['context']:,} tokens" + (f", up to {d['reach']:,}" * (d["reach"] > d["context"]))),
        ("rope", d["rope"]),
        ("attention", d["attention"]),
        ("ends at", ", ".join(map(str, d["eos_ids"]))),
    ]
    if "path" in d:
        stored = f"{size(d['bytes'])} as {', '.join(d['stored_as'])} in {d['tensors']} tensors"
        rows += [("weights", stored), *codes_lines(d["quantized"]), ("ternary", _ternary(d["ternary"]))]
        rows += [*_chat_rows(d), ("licence", d["licence"] or "not stated in the folder")]
    rows += [("memory", "\n".join(map(_memory, d["memory"]))), ("rounded", _rounded(d["rounded"]))]
    return [row for row in rows if row[1]] + [("note", note) for note in d["notes"]]


def _feed_forward(d: dict[str, Any]) -> str:
    return f"{d['intermediate']:,}" + (f", {d['feed_forward']}" if d["feed_forward"] else "")


def _ternary(packing: dict[str, Any] | None) -> str:
    from minicpm.cli.units import size

    if packing is None:
        return ""
    groups = "rows" if packing["group"] == "row" else f"groups of {packing['group']}"
    return (
        f"yes, in {groups}: {packing['bits_per_weight']:.2f} bits per packed weight, "
        f"{size(packing['packed_bytes'])} instead of {size(packing['plain_bytes'])}"
    )


def _rounded(sizes: dict[str, Any] | None) -> str:
    from minicpm.cli.units import size

    return "\n".join(
        f"{size(found['bytes'])} of weights with `--weights {name}`, {found['bits_per_weight']:.2f} bits each"
        for name, found in (sizes or {}).items()
    )


def _output_head(d: dict[str, Any]) -> str:
    if d["use"] != "chat":
        return ""
    return f", output head {'tied' if d['tied'] else 'of its own'}"


def _chat_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    """How a model is spoken to; nothing for one that does not chat."""
    if "template_hash" not in d:
        return []
    return [
        ("tokenizer", f"{d['tokenizer_size']:,} tokens"),
        ("template", f"{d['template_origin']}, sha256 {d['template_hash'][:16]}"),
        ("tool calls", d["tool_dialect"]),
    ]


def _memory(m: dict[str, Any]) -> str:
    from minicpm.cli.units import size

    fits = "" if m["fits"] else ", more than is free here"
    rounded = m["int8_cache_bytes"]
    less = "" if rounded is None else f" ({size(rounded)} with `--kv int8`)"
    return (
        f"{size(m['needed_bytes'])} at {m['context']:,} tokens: {size(m['weight_bytes'])} of weights as "
        f"{m['held_as']}, {size(m['cache_bytes'])} of cache{less}{fits}"
    )


def _print_template(folder: Path) -> None:
    from minicpm.checkpoint import open_checkpoint
    from minicpm.cli.description import chat_format, use
    from minicpm.cli.talk.printable import printable
    from minicpm.errors import BadInput
    from minicpm.models.registry import parse
    from minicpm.text.template_files import read_own_template

    checkpoint = open_checkpoint(folder)
    config = parse(checkpoint.raw_config)
    if (verb := use(config)) != "chat":
        raise BadInput(f"{folder} has no chat template: its model is for `minicpm {verb}`.")
    chat = chat_format(checkpoint.path, config.family)
    own = read_own_template(checkpoint.path)
    print(f"# {chat.template_origin} template, sha256 {chat.template_hash}")
    if own is not None and chat.template_origin == "checkpoint":
        print(printable(own.default))
    roles = ("system", "user", "assistant", "user")
    messages: list[Message] = [
        {"role": role, "content": text} for role, text in zip(roles, _EXAMPLE, strict=True)
    ]
    print("# a conversation written with it")
    print(printable(chat.prompt_text(messages)))


def _print_sparsity(folder: Path, name: str, text: str, as_json: bool) -> None:
    from minicpm.cli import sparsity
    from minicpm.cli.output import print_json, print_lines

    found = sparsity.measure(folder, text)
    if as_json:
        print_json({"model": name, "sparsity": found})
    else:
        print_lines(sparsity.lines(found))

"""Writes docs/models.md from the registry: `python -m minicpm.models.docs > docs/models.md`."""

import sys
from collections.abc import Iterable, Sequence

from minicpm.config import (
    MLA,
    Dense,
    FATReLU,
    FeedForward,
    Mixer,
    ModelConfig,
    MoE,
    parameter_count,
    reach,
)
from minicpm.config.memory import weight_bytes
from minicpm.config.rope import rope_words
from minicpm.models.abilities import abilities
from minicpm.models.companions import companions
from minicpm.models.published import Published, published
from minicpm.models.registry import family, parse

_TITLE = """# Models

Every published checkpoint this version loads. This page is generated from the registry by
`python -m minicpm.models.docs > docs/models.md`, and a test keeps it current. A checkpoint's own
config.json always wins over these values.
"""

_SIZES = """## Sizes

*Heads* are query heads / key-value heads x their width; where keys and values are made from a *latent*,
its numbers + those of the rotated key are all that is remembered of a token. *Context* is the native
one; *reach* is the largest that `--context` accepts, by a published factor table or the model's own
scaling. A *tied* model uses its embedding as output head; models that embed or rerank have none.
*Bytes* are those of the weights in bfloat16; the projections of a *ternary* model can be packed into
about two bits per weight.
"""

_SOURCES = """## Where they are, and how they are spoken to

Checkpoints of one family share a config reader. *Template* and *tools* name the built-in chat
template and tool-call dialect, used where a checkpoint brings no template of its own.
"""

_ABILITIES = """## What each supports

*Sparse* is InfLLM-V2, *linear* lightning attention, *latent* MLA. *Speculation* means that a draft's
guesses can be verified and dropped. Any dense model can attend sparsely by `--sparse on`; the word
stands where a model was trained to.
"""

_COMPANIONS = """## Beside a model

Drafts load by `minicpm.load_draft`, adapters by `minicpm.load(..., adapters=...)`.
"""

_UNVERIFIED = """## Not confirmed

Values above that no readable source confirms. They matter only until the checkpoint's own config is
read.
"""


def models_table() -> str:
    """The whole of docs/models.md."""
    rows = published()
    sizes = _table(
        "model layers hidden heads feed-forward vocabulary context reach rope tied parameters bytes".split(),
        (_size_cells(row, parse(row.raw)) for row in rows),
    )
    sources = _table(
        "model family architecture template tools repositories".split(), map(_source_cells, rows)
    )
    supported = _table(["model", "supports"], ([row.name, ", ".join(abilities(row))] for row in rows))
    beside = _table(
        "name for use form repository".split(),
        ([c.name, c.model, c.use, c.form, f"`{c.repository}`"] for c in companions()),
    )
    unverified = "".join(f"- {row.name}: {', '.join(row.unverified)}.\n" for row in rows if row.unverified)
    parts = (_SIZES, sizes, _ABILITIES, supported, _COMPANIONS, beside, _SOURCES, sources)
    return "\n".join([_TITLE, *parts, _UNVERIFIED, unverified])


def _size_cells(row: Published, config: ModelConfig) -> list[str]:
    weights = f"{weight_bytes(config, 'bfloat16') / 1e9:.2f} GB"
    return [
        row.name,
        str(len(config.layers)),
        str(config.hidden),
        _heads_cell(config),
        _ffn_cell(config.layers[0].ffn),
        str(config.vocab),
        str(config.context),
        str(reach(config)),
        rope_words(config.rope),
        _head_cell(config),
        f"{parameter_count(config):,}",
        f"{weights}, ternary" if row.ternary else weights,
    ]


def _head_cell(config: ModelConfig) -> str:
    """Whether the output head is the embedding; nothing for models without one."""
    if not config.causal:
        return "-"
    return "yes" if config.tied else "no"


def _heads_cell(config: ModelConfig) -> str:
    """Those of every kind of layer, in order of appearance."""
    return "<br>".join(dict.fromkeys(_heads(layer.mixer) for layer in config.layers))


def _heads(mixer: Mixer) -> str:
    heads = f"{mixer.heads} / {mixer.kv_heads} x {mixer.head_dim}"
    match mixer:
        case MLA():
            return f"{heads}, latent {mixer.kv_rank} + {mixer.rope}"
    return heads


def _ffn_cell(ffn: FeedForward) -> str:
    match ffn:
        case Dense(act=FATReLU(threshold)):
            return f"{ffn.intermediate}, FATReLU {threshold:g}"
        case Dense():
            return str(ffn.intermediate)
        case MoE():
            return f"{ffn.experts} x {ffn.intermediate}, {ffn.chosen} used"


def _source_cells(row: Published) -> list[str]:
    known = family(row.family)
    return [
        row.name,
        f"{known.name} ({known.title})",
        f"`{row.raw['architectures'][0]}`",
        known.template,
        known.dialect,
        "<br>".join(f"`{repository}`" for repository in row.repositories),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(models_table())

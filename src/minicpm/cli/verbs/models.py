"""Lists the models that this version can load."""

from typing import Annotated, Any

from minicpm.cli.options import option


def command(*, json: Annotated[bool, option("--json", help="Print one JSON document.")] = False) -> None:
    """List the models that this version can load.

    Any folder or hub repository whose config.json names one of the families loads as well.
    """
    from minicpm.cli.output import print_json, print_lines
    from minicpm.cli.units import columns

    rows, beside = _rows(), _beside()
    if json:
        print_json([*rows, *beside])
        return
    heading = ("MODEL", "FOR", "PARAMETERS", "CONTEXT", "NAME TO PULL", "SUPPORTS")
    print_lines(columns([heading, *map(_cells, rows)]))
    print_lines(
        ["", *columns([("BESIDE A MODEL", "IS", "NAME TO PULL", "FORM"), *map(_beside_cells, beside)])]
    )
    print_lines(["", "`minicpm chat NAME` pulls a model for chat and talks with it; --json lists all names."])


def _packaged() -> list[dict[str, Any]]:
    """The row of the model inside the package; none in an installation without it."""
    from minicpm.checkpoint import open_checkpoint, resolve
    from minicpm.cli.description import describe_config
    from minicpm.errors import NotACheckpoint
    from minicpm.models.abilities import abilities
    from minicpm.models.published import Published

    try:
        raw = open_checkpoint(resolve("nano")).raw_config
    except NotACheckpoint:
        return []
    same = ("use", "family", "title", "parameters", "context", "reach")
    described = describe_config(raw)
    packaged = Published("nano", ("nano",), described["family"], raw, described["parameters"])
    return [
        {
            "model": "nano",
            "repositories": ["nano"],
            **{key: described[key] for key in same},
            "supports": list(abilities(packaged)),
            "unverified": [],
        }
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from minicpm.cli.units import amount

    name = row["repositories"][0]
    supports = ", ".join(row["supports"])
    return row["model"], row["use"], amount(row["parameters"]), f"{row['context']:,}", name, supports


def _rows() -> list[dict[str, Any]]:
    from minicpm.cli.description import use
    from minicpm.config import parameter_count, reach
    from minicpm.models.abilities import abilities
    from minicpm.models.published import published
    from minicpm.models.registry import family, parse

    rows = _packaged()
    for model in published():
        config = parse(model.raw)
        rows.append(
            {
                "model": model.name,
                "use": use(config),
                "family": model.family,
                "title": family(model.family).title,
                "repositories": list(model.repositories),
                "parameters": parameter_count(config) if model.parameters is None else model.parameters,
                "context": config.context,
                "reach": reach(config),
                "supports": list(abilities(model)),
                "unverified": list(model.unverified),
            }
        )
    return rows


def _beside() -> list[dict[str, Any]]:
    """Drafts and adapters, which load beside a model."""
    from minicpm.models.companions import companions

    return [
        {
            "model": c.name,
            "use": c.use,
            "of": c.model,
            "form": c.form,
            "repositories": [c.repository],
        }
        for c in companions()
    ]


def _beside_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return row["model"], f"{row['use']} of {row['of']}", row["repositories"][0], row["form"]

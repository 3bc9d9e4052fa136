"""Lists the models that are on this machine."""

from typing import Annotated

from minicpm.cli.options import option


def command(*, json: Annotated[bool, option("--json", help="Print one JSON document.")] = False) -> None:
    """List the models in the cache; "nano" lies inside the package and is always there."""
    from dataclasses import asdict

    from minicpm.checkpoint import LocalModel, list_models
    from minicpm.cli.output import print_json, print_lines
    from minicpm.cli.units import columns, size

    def cells(model: LocalModel) -> tuple[str, ...]:
        state = "complete" if model.complete else f"partial; `minicpm pull {model.name}` continues"
        return model.name, model.commit[:12], ", ".join(model.revisions), size(model.bytes), state

    models = list_models()
    if json:
        print_json([asdict(model) for model in models])
    elif models:
        print_lines(columns([("NAME", "COMMIT", "REVISION", "SIZE", "STATE"), *map(cells, models)]))
    else:
        print("No models were pulled yet. `minicpm chat` talks with nano, the model inside the package;")
        print("`minicpm models` lists what can be pulled.")

"""Arguments that several verbs take."""

from typing import Annotated

import typer

from minicpm.cli.complete import model_names
from minicpm.cli.options import option
from minicpm.cli.talk.settings import ThinkingChoice

ChatModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="nano, a folder, ORG/NAME or ms:ORG/NAME.", autocompletion=model_names
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder, ORG/NAME or ms:ORG/NAME.", autocompletion=model_names),
]
System = Annotated[str | None, option("--system", help="System message.")]
Images = Annotated[
    list[str] | None,
    option("--image", metavar="FILE", help="PNG, JPEG or WebP to show first; may be given several times."),
]
Thinking = Annotated[
    ThinkingChoice, option("--thinking", help="Think first; auto: as the model does by itself.")
]

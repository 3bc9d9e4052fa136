"""Options of verbs: written by hand, or made from the fields of the dataclass that the Python API takes."""

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

DEBUG = "minicpm.debug"
"""Where a context's `meta` says that tracebacks are wanted."""


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option; environment variables are explained once, by the program, not with every option."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **({"show_envvar": False} | more))


def whole_number(text: Any) -> Any:
    """Parses an option's value; what is no text is a default and stays."""
    return _number(text, int, "a whole number")


def number(text: Any) -> Any:
    """Parses an option's value; what is no text is a default and stays."""
    return _number(text, float, "a number")


def _number(text: Any, kind: type, wanted: str) -> Any:
    try:
        return kind(text) if isinstance(text, str) else text
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not {wanted}.") from error


def from_fields(
    name: str, kind: type, chosen: Iterable[str], *, panel: str, given_only: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replaces a function's parameter `name` by one option for each chosen field of the dataclass `kind`.

    The function gets a `kind` made from them; with `given_only`, for defaults that lie elsewhere, it gets a
    dictionary of the options that were given. The help of an option is its field's docstring.
    """
    docs, hints = field_docs(kind), get_type_hints(kind)
    wanted = [field for field in fields(kind) if field.name in set(chosen)]
    made = [_parameter(f, hints[f.name], docs.get(f.name, ""), panel, given_only) for f in wanted]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def gather(**options: Any) -> None:
            values = {field.name: options.pop(field.name) for field in wanted}
            given = {key: value for key, value in values.items() if value not in (None, [], ())}
            function(**options, **{name: given if given_only else kind(**values)})

        kept = [p for p in inspect.signature(function).parameters.values() if p.name != name]
        return with_parameters(gather, [*kept, *made], function.__doc__)

    return decorate


def with_debug(function: Callable[..., None]) -> Callable[..., None]:
    """Adds --debug to a verb, so that it may follow the verb as well."""
    flag = option("--debug", help="Show tracebacks of errors.", callback=note_debug, is_eager=True)
    debug = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, flag]
    )

    def same(*, debug: bool, **options: Any) -> None:
        function(**options)

    return with_parameters(same, [*inspect.signature(function).parameters.values(), debug], function.__doc__)


def with_parameters(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter], doc: str | None
) -> Callable[..., None]:
    """Gives a function the signature and docstring that typer is to see."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__doc__ = doc
    return function


def field_docs(kind: type) -> Mapping[str, str]:
    """The docstrings under a dataclass's fields, each as one line; they exist in the source only."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[field.target.id] = " ".join(text.value.split())
    return docs


def plain_type(hint: Any) -> Any:
    """The type of one value on a command line: X of X | None, list[X] of Sequence[X]."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is not None and issubclass(get_origin(hint), Sequence):
        return list[get_args(hint)[0]]  # type: ignore[misc]
    return hint


def _parameter(field: Field[Any], hint: Any, doc: str, panel: str, given_only: bool) -> inspect.Parameter:
    kind = plain_type(hint)
    default = None if given_only else field.default
    assert default is not MISSING, f"the field {field.name} has no default"
    more = {"parser": _PARSERS[kind]} if kind in _PARSERS else {}
    made = option(f"--{field.name.replace('_', '-')}", help=doc, panel=panel, **more)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind | None if default is None else kind, made],
    )


_PARSERS = {int: whole_number, float: number}


def note_debug(context: typer.Context, asked: bool) -> None:
    """Remembers that tracebacks are wanted, also those of the program's own mistakes."""
    if asked:
        context.meta[DEBUG] = True
        sys.excepthook = sys.__excepthook__

"""Strict names of repositories, revisions and commits, so that none can become a path or an address."""

from dataclasses import dataclass

from minicpm.checkpoint.files import shown
from minicpm.errors import BadInput

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_HEX = frozenset("0123456789abcdef")
_LONGEST = 96
_MODELSCOPE = "ms:"


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository: its hub ("hf" or "ms"), organization and name, both checked."""

    hub: str
    org: str
    name: str

    @property
    def repo(self) -> str:
        """ORG/NAME, as hubs write it."""
        return f"{self.org}/{self.name}"

    @property
    def folder(self) -> str:
        """The name of its folder in the cache; "--" cannot occur in a part, so it is unambiguous."""
        prefix = "" if self.hub == "hf" else f"{self.hub}--"
        return f"{prefix}{self.org}--{self.name}"

    def __str__(self) -> str:
        return self.repo if self.hub == "hf" else f"{self.hub}:{self.repo}"


def parse_name(text: str) -> HubName:
    """`ORG/NAME` or `ms:ORG/NAME`; raises BadInput for anything else."""
    hub, rest = ("ms", text.removeprefix(_MODELSCOPE)) if text.startswith(_MODELSCOPE) else ("hf", text)
    parts = rest.split("/")
    if len(parts) != 2 or not all(map(_is_part, parts)):
        raise BadInput(
            f"{shown(repr(text))} is not a model name. Names are ORG/NAME or ms:ORG/NAME, of letters, "
            f"digits, '-', '_' and '.', each part at most {_LONGEST} long."
        )
    return HubName(hub, *parts)


def from_folder(folder: str) -> HubName | None:
    """The name whose `folder` this is, or None."""
    hub, rest = ("ms", folder.removeprefix("ms--")) if folder.count("--") == 2 else ("hf", folder)
    parts = rest.split("--")
    if len(parts) != 2 or not all(map(_is_part, parts)):
        return None
    name = HubName(hub, *parts)
    return name if name.folder == folder else None


def _is_part(part: str) -> bool:
    return (
        0 < len(part) <= _LONGEST
        and set(part) <= _ALLOWED
        and part[0] not in "-."
        and part[-1] not in "-."
        and "--" not in part
        and ".." not in part
    )


def check_revision(revision: str) -> str:
    """A branch, tag, reference or commit; raises BadInput for what cannot be one."""
    parts = revision.split("/")
    if len(revision) > 200 or not all(map(_is_part, parts)):
        raise BadInput(
            f"{shown(repr(revision))} is not a revision. Give a branch or tag name such as main, or a commit."
        )
    return revision


def is_commit(text: object) -> bool:
    """True for a full commit: 40 or 64 lowercase hexadecimal digits."""
    return isinstance(text, str) and len(text) in {40, 64} and set(text) <= _HEX


def is_sha256(text: object) -> bool:
    """True for 64 lowercase hexadecimal digits."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= _HEX

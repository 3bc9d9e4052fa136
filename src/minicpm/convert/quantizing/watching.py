"""Watches a block run: in which order its projections are given what, and the moments of their inputs."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

from minicpm.convert.quantizing.flow import Run
from minicpm.layers.block import Block
from minicpm.quant.hessian import Moments

_MIXER = "self_attn."
_NUMBER = re.compile(r"\d+")

Stage = tuple[str, ...]
"""Names of projections in a block, of which none has inputs that depend on another of them."""


class _Enough(Exception):
    """Ends a forward whose rest is of no interest."""


@torch.no_grad()
def stages(block: Block, names: Iterable[str], run: Run) -> list[Stage]:
    """The projections of these names in the order in which they are to be rounded.

    Those of one input are together, and so are all experts' of one kind, wherever tokens go.
    """
    calls: list[tuple[str, Tensor]] = []
    with _watched(block, names, lambda name, x: calls.append((name, x))):
        block(run.h, run.step)
    kinds: list[set[str]] = []
    inputs: list[list[Tensor]] = []
    for name, x in calls:
        kind = _NUMBER.sub("*", name)
        known = (i for i, seen in enumerate(inputs) if kind in kinds[i] or any(x is y for y in seen))
        if (place := next(known, None)) is None:
            place = len(kinds)
            kinds.append(set())
            inputs.append([])
        kinds[place].add(kind)
        inputs[place].append(x)
    found = [tuple(name for name in names if _NUMBER.sub("*", name) in kind) for kind in kinds]
    assert sum(map(len, found)) == len(list(names)), "every projection is called by its block"
    return found


@torch.no_grad()
def moments(block: Block, names: Sequence[str], runs: Iterable[Run], *, skipped: int) -> dict[str, Moments]:
    """Moments of the inputs of these projections by name, without the first `skipped` positions.

    Those of the same inputs share one; an expert that nobody chose has none.
    """
    collector = _Collector()
    for run in runs:
        rows = run.beyond(skipped)
        collector.begin(names, rows)
        with _watched(block, names, collector, rows=rows), suppress(_Enough):
            block(run.h, run.step)
    return collector.by_name()


class _Collector:
    """Adds inputs to moments; an input that several projections share is counted once."""

    def __init__(self) -> None:
        self._leader: dict[str, str] = {}
        self._moments: dict[str, Moments] = {}

    def begin(self, names: Iterable[str], rows: Tensor) -> None:
        """A forward follows, of which these rows count."""
        self._rows = rows
        self._now: list[tuple[Tensor, str]] = []
        self._left = set(names)

    def __call__(self, name: str, x: Tensor) -> None:
        leader = next((leader for seen, leader in self._now if seen is x), None)
        if leader is None:
            self._now.append((x, name))
            self._add(name, x[self._rows] if name.startswith(_MIXER) else x)
        self._leader[name] = leader or name
        self._left.discard(name)
        if not self._left:
            raise _Enough

    def by_name(self) -> dict[str, Moments]:
        """The moments of every projection that was called."""
        return {name: self._moments[leader] for name, leader in self._leader.items()}

    def _add(self, name: str, x: Tensor) -> None:
        if name not in self._moments:
            self._moments[name] = Moments.of_width(x.shape[-1], x.device)
        self._moments[name].add(x)


@contextmanager
def _watched(
    block: Block, names: Iterable[str], see: Callable[[str, Tensor], None], *, rows: Tensor | None = None
) -> Iterator[None]:
    """Let `see` be called with the inputs of projections: [T, I], in a feed-forward of `rows` only.

    A feed-forward treats each row by itself, so leaving rows out changes none of the others, and rows that
    are sorted by expert need not be found again. Its output then is of use for nothing else.
    """

    def seeing(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: see(name, args[0])

    with ExitStack() as hooks:
        if rows is not None:
            trim = block.mlp.register_forward_pre_hook(lambda module, args: (args[0][rows],))
            hooks.callback(trim.remove)
            hooks.callback(block.mlp.register_forward_hook(_stop).remove)
        for name in names:
            handle = block.get_submodule(name).register_forward_pre_hook(seeing(name))
            hooks.callback(handle.remove)
        yield


def _stop(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    raise _Enough

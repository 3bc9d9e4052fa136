"""Holds adapters beside the weights of a decoder, to be chosen for every sequence."""

from minicpm.checkpoint.adapters.fitting import fitted, read_updates, text_projections
from minicpm.checkpoint.adapters.folder import Adapter
from minicpm.checkpoint.adapters.reach import unreached
from minicpm.checkpoint.files import listed, shown
from minicpm.errors import BadParameter
from minicpm.layers.lora import AdaptedLinear, make_adaptable
from minicpm.models.decoder import Decoder


def attach(decoder: Decoder, name: str, adapter: Adapter) -> None:
    """Let segments of a batch name this adapter as `name`; those that name none give the same bits as before.

    Prepared or not, the decoder keeps its weights. Raises WeightMismatch when the adapter is for another
    model, NotFinite, or BadParameter for a name in use and for projections that this model does not call as
    it is prepared. No forward may run meanwhile.
    """
    if not name or name in decoder.adapters.names:
        raise BadParameter(
            f"The adapter name {shown(name)!r} is {'in use' if name else 'empty'}. Give another one."
        )
    changed = fitted(adapter, decoder)
    updates = read_updates(adapter, changed, decoder.dtype)
    made = {path: make_adaptable(decoder, path, decoder.adapters) for path in changed}
    if lost := unreached(decoder, made):
        raise BadParameter(
            f"The adapter in {shown(str(adapter.path))} changes projections that this model computes without "
            f"calling them on the rows of a batch: {listed(lost)}. Held beside the weights it would be lost "
            "there; merge it into the model instead."
        )
    for path, projection in made.items():
        projection.updates[name] = updates[path]
    decoder.adapters.names.add(name)


def detach(decoder: Decoder, name: str) -> None:
    """Forget an adapter; BadParameter when there is none of this name."""
    decoder.adapters.require(name)
    decoder.adapters.names.discard(name)
    for projection in text_projections(decoder).values():
        if isinstance(projection, AdaptedLinear):
            projection.updates.pop(name, None)
            projection.merged.pop(name, None)

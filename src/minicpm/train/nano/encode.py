"""Samples to token ids with their learn mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from minicpm.train.nano.sample import Sample


class Encoded(NamedTuple):
    """Token ids of a sample and, for each, whether the loss is taken on predicting it."""

    ids: list[int]
    learn: list[bool]


def encode_samples(tokenizer: Tokenizer, samples: Sequence[Sample]) -> list[Encoded]:
    """Encode many samples at once; special-token spellings inside texts stay text.

    Parts begin at token boundaries, so that encoding them apart equals encoding the whole.
    """
    distinct = {part.text: None for sample in samples for part in sample.parts if not part.control}
    kept = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch_fast(list(distinct), add_special_tokens=False)
    tokenizer.encode_special_tokens = kept
    special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    ids_of = {text: encoding.ids for text, encoding in zip(distinct, encodings, strict=True)}
    result = []
    for sample in samples:
        ids: list[int] = []
        learn: list[bool] = []
        for part in sample.parts:
            piece = [special[part.text]] if part.control else ids_of[part.text]
            ids += piece
            learn += [part.learn] * len(piece)
        result.append(Encoded(ids, learn))
    return result


def encode_sample(tokenizer: Tokenizer, sample: Sample) -> Encoded:
    """Encode one sample."""
    return encode_samples(tokenizer, [sample])[0]

"""Builds the fast BPE tokenizer that equals a SentencePiece model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicpm.text.sentencepiece import Kind, SentencePieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORD_MARKER = "\u2581"


def build_bpe(model: SentencePieces, *, legacy: bool) -> Tokenizer:
    """A `tokenizers` BPE with the same vocabulary, as a published tokenizer.json of the model has it.

    `legacy` puts the word marker before every stretch of text between special tokens; otherwise only the
    first stretch gets one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {piece: number for number, piece in enumerate(model.pieces)}
    (unknown,) = model.of_kind(Kind.UNKNOWN)
    merges = merges_from_scores(vocabulary, model.scores)
    bytes_known = Kind.BYTE in model.kinds
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=bytes_known)
    )
    if legacy:
        marks = [normalizers.Prepend(WORD_MARKER), normalizers.Replace(" ", WORD_MARKER)]
        backend.normalizer = normalizers.Sequence(marks)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=WORD_MARKER, prepend_scheme="first", split=False
        )
    steps = [decoders.Replace(WORD_MARKER, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    controls = model.of_kind(Kind.UNKNOWN, Kind.CONTROL)
    backend.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in controls])
    return backend


def merges_from_scores(vocabulary: dict[str, int], scores: tuple[float, ...]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, best score of the third first.

    SentencePiece joins the pair whose result scores highest; a merge list applies its first entry first,
    so the list in falling score is the same rule. Ways to one result are in the order of their ids, as in
    the published files.
    """
    found: list[tuple[str, str]] = []
    for piece, _ in sorted(vocabulary.items(), key=lambda entry: scores[entry[1]], reverse=True):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        found += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return found

"""Reads a raw config with types checked, every problem collected and every unread key noticed."""

from collections.abc import Mapping
from reprlib import Repr
from typing import Any

from minicpm.errors import BadConfig, UnreadConfig

# Far above any model, and small enough that the product of three sizes still counts in 64 bits.
LARGEST_SIZE = 2**20
LARGEST_NUMBER = 1e12

# Keys of Hugging Face configs that change nothing in a forward pass of these models. How weights are
# quantized is read where their files are.
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation _commit_hash add_cross_attention architectures attention_dropout
    auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward classifier_dropout
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing id2label initializer_range is_decoder is_encoder_decoder
    label2id length_penalty max_length min_length model_type mup_denominator name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores prefix pretraining_tp problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id shift_labels
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version transformers.js_config typical_p
    quantization quantization_config unsloth_fixed unsloth_version use_bfloat16 use_cache use_return_dict
    resid_pdrop embd_pdrop
    """.split()
)


class RawConfig:
    """A tracked view of a raw mapping; `finish` raises all that was found wrong at once."""

    def __init__(self, raw: Mapping[str, Any], *, where: str = "config.json") -> None:
        self._raw = raw
        self._where = where
        self._read: set[str] = set()
        self._refused: set[str] = set()
        self._children: list[RawConfig] = []
        self.problems: list[str] = []

    def has(self, key: str) -> bool:
        """True when the key is present and not null; does not count as reading it."""
        return self._raw.get(key) is not None

    def sound(self, *keys: str) -> bool:
        """True when none of these keys was refused, so that their values may be compared."""
        return self._refused.isdisjoint(keys)

    def _take(self, key: str) -> Any:
        self._read.add(key)
        return self._raw.get(key)

    def integer(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = LARGEST_SIZE
    ) -> int:
        """An integer from `least` to `most`; the default when absent, a problem when there is none."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._refuse(key, value, f"an integer from {least} to {most}")
            return max(least, 1)
        return value

    def number(self, key: str, default: float | None = None, *, least: float | None = None) -> float:
        """A positive number of at most 1e12, or one from `least` on."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not _is_number(value, least):
            self._refuse(key, value, "a positive number" if least is None else f"a number from {least:g} on")
            return 1.0
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._refuse(key, value, "true or false")
            return default
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self._refuse(key, value, "a string")
            return default
        return value

    def numbers(self, key: str, length: int | None) -> tuple[float, ...]:
        """A list of `length` positive numbers; None accepts any length."""
        value = self._take(key)
        wanted = "a list of positive numbers" if length is None else f"a list of {length} positive numbers"
        if not isinstance(value, list) or not all(map(_is_number, value)):
            self._refuse(key, value, wanted)
        elif length is not None and len(value) != length:
            self._refuse(key, f"a list of {len(value)}", wanted, quote=False)
        else:
            return tuple(map(float, value))
        return (1.0,) * (length or 1)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._take(key)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            self._refuse(key, value, "a list of strings")
            return ()
        return tuple(value)

    def token(self, key: str, default: int | None) -> int | None:
        """A token id or null."""
        ids = self.tokens(key, () if default is None else (default,))
        return ids[0] if ids else None

    def tokens(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """One token id, or a list of them."""
        value = self._take(key)
        if value is None:
            return default
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            self._refuse(key, value, "a token id or a list of them")
            return default
        return tuple(ids)

    def child(self, key: str) -> "RawConfig | None":
        """A nested mapping, tracked too; None when absent or null."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._refuse(key, value, "an object")
            return None
        nested = RawConfig(value, where=f"{key} in {self._where}")
        self._children.append(nested)
        return nested

    def expect(self, key: str, allowed: tuple[object, ...], why: str) -> None:
        """Read a key whose only understood values are `allowed` or absence."""
        value = self._take(key)
        if value is not None and value not in allowed:
            self._refused.add(key)
            self.problem(f"{key} is {_short(value)}: {why}")

    def ignore(self, *keys: str) -> None:
        """Mark keys as known and without effect here."""
        self._read.update(keys)

    def problem(self, text: str) -> None:
        """Note a problem to be raised by `finish`."""
        self.problems.append(f"{text} ({self._where})")

    def _refuse(self, key: str, value: object, wanted: str, *, quote: bool = True) -> None:
        self._refused.add(key)
        if value is None:
            self.problem(f"{key} is missing, where {wanted} is needed")
        else:
            self.problem(f"{key} is {_short(value) if quote else value}, where {wanted} is needed")

    def _all_problems(self) -> list[str]:
        return self.problems + [p for child in self._children for p in child._all_problems()]

    @property
    def unread(self) -> list[str]:
        """Keys of its own that were neither read nor ignored and are not known to be harmless, sorted."""
        return sorted(set(self._raw) - self._read - HARMLESS)

    def _unread(self) -> list[str]:
        own = [f"{key} ({self._where})" for key in self.unread]
        return own + [key for child in self._children for key in child._unread()]

    def finish(self) -> None:
        """Raise BadConfig with all problems, else UnreadConfig with all unread keys."""
        problems = self._all_problems()
        if problems:
            raise BadConfig(
                "This model's config cannot be used: "
                + "; ".join(problems)
                + ". Correct config.json, or fetch it again."
            )
        unread = self._unread()
        if unread:
            raise UnreadConfig(
                "This model's config has keys that nothing here reads: "
                + ", ".join(unread)
                + ". Loading it anyway could ignore part of the model, so it is refused. "
                "Remove keys you know to be without effect, or use a version that supports them."
            )


def _is_number(value: object, least: float | None = None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= LARGEST_NUMBER:
        return False
    return value > 0 if least is None else value >= least


def _short(value: object) -> str:
    """repr, cut where a config holds something long or deep in a wrong place."""
    cutter = Repr()
    cutter.maxstring = cutter.maxother = cutter.maxlong = 60
    return cutter.repr(value)

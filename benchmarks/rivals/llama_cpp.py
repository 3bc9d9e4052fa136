"""The worker of llama.cpp, through the C interface that llama-cpp-python binds."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp as lib

from rivals import gguf_file
from rivals.weights import Raw, key
from rivals.worker import Unsupported, main

# Tokens whose keys and values are repeated to make a longer context.
PIECE = 512
# What llama-bench takes; a prompt is computed in parts of 512 of it.
BATCH = 2048
# Position -1 as the end of a range stands for infinity.
_END = -1
_FORMATS = {
    "bf16": ("BF16", None),
    "int8": ("Q8_0", lib.LLAMA_FTYPE_MOSTLY_Q8_0),
    "int4": ("Q4_0", lib.LLAMA_FTYPE_MOSTLY_Q4_0),
}


class LlamaError(Exception):
    """Raised when a call of the library fails, of which the log says more."""


def _succeed(result: object, what: str) -> None:
    if not result:
        raise LlamaError(f"{what} failed")


class Sequences:
    """A context of the library and the sequences in it, each `length` tokens long after `rewind`."""

    def __init__(
        self, model: lib.llama_model_p, *, length: int, room: int, streams: int, threads: int
    ) -> None:
        self._length, self._streams = length, streams
        # A lone sequence is filled by way of a second one in the same cells.
        settings = _settings(room, streams, threads, flash=length == 0)
        self._context = lib.llama_init_from_model(model, settings)
        _succeed(self._context, "llama_init_from_model")
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(BATCH, 0, 1)
        self._outputs = 1
        if length:
            self._fill_one() if streams == 1 else self._fill_all()

    def rewind(self) -> None:
        """Forget what came after the first tokens."""
        for seq in range(self._streams):
            _succeed(lib.llama_memory_seq_rm(self._memory, seq, self._length, _END), "llama_memory_seq_rm")
        self._lengths = [self._length] * self._streams

    def prefill(self, ids: Sequence[int], seq: int = 0) -> None:
        """Append ids to a sequence; logits of the last one."""
        start = self._lengths[seq]
        for first in range(0, len(ids), BATCH):
            piece = ids[first : first + BATCH]
            rows = [(token, start + first + i, seq) for i, token in enumerate(piece)]
            self._decode(rows, first_output=len(rows) - 1)
        self._lengths[seq] += len(ids)
        self._outputs = 1

    def step(self, ids: Sequence[int]) -> None:
        """Append one id to each sequence; logits of all."""
        self._decode([(token, self._lengths[seq], seq) for seq, token in enumerate(ids)], first_output=0)
        self._lengths = [length + 1 for length in self._lengths]
        self._outputs = len(ids)

    def logits(self, vocabulary: int) -> list[float]:
        """Of the first row that has some."""
        return lib.llama_get_logits_ith(self._context, -self._outputs)[:vocabulary]

    def close(self) -> None:
        """Free the context."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)

    def _decode(self, rows: Sequence[tuple[int, int, int]], *, first_output: int) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, seq) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq
            batch.logits[i] = i >= first_output
        _succeed(lib.llama_decode(self._context, batch) == 0, "llama_decode")
        lib.llama_synchronize(self._context)

    def _fill_one(self) -> None:
        """Repeat a piece: load it as the second sequence, move it to its place, let the first have it."""
        piece = min(PIECE, self._length)
        self._lengths = [0, 0]
        self.prefill(_some_ids(piece), seq=1)
        state = self._saved(1)
        for start in range(0, self._length, piece):
            self._load(state, 1)
            _succeed(lib.llama_memory_seq_rm(self._memory, 1, self._length - start, _END), "trimming")
            lib.llama_memory_seq_add(self._memory, 1, 0, _END, start)
            lib.llama_memory_seq_cp(self._memory, 1, 0, _END, _END)
            _succeed(lib.llama_memory_seq_rm(self._memory, 1, _END, _END), "removing")
        last = lib.llama_memory_seq_pos_max(self._memory, 0)
        _succeed(last == self._length - 1, f"filling {self._length} tokens, the last at {last},")

    def _fill_all(self) -> None:
        """Compute the first sequence and copy it to the others."""
        self._lengths = [0] * self._streams
        self.prefill(_some_ids(self._length))
        state = self._saved(0)
        for seq in range(1, self._streams):
            self._load(state, seq)

    def _saved(self, seq: int) -> ctypes.Array:
        size = lib.llama_state_seq_get_size(self._context, seq)
        state = (ctypes.c_uint8 * size)()
        _succeed(
            lib.llama_state_seq_get_data(self._context, state, size, seq) == size, "llama_state_seq_get_data"
        )
        return state

    def _load(self, state: ctypes.Array, seq: int) -> None:
        size = lib.llama_state_seq_set_data(self._context, state, len(state), seq)
        _succeed(size == len(state), "llama_state_seq_set_data")


def _some_ids(count: int) -> list[int]:
    return [(17 * i + 3) % 32000 for i in range(count)]


def _settings(room: int, streams: int, threads: int, *, flash: bool) -> lib.llama_context_params:
    """With flash attention prompts are faster, but decoding with a context can be much slower."""
    settings = lib.llama_context_default_params()
    settings.n_ctx = streams * (-(-room // 256) * 256)
    settings.n_batch = BATCH
    settings.n_ubatch = 512
    settings.n_seq_max = max(streams, 2)
    settings.kv_unified = streams == 1
    settings.n_threads = settings.n_threads_batch = threads
    kinds = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED, lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
    settings.flash_attn_type = kinds[flash]
    return settings


class Loaded:
    """A model file and the sequences of the work at hand."""

    def __init__(self, path: Path, threads: int) -> None:
        self._model = lib.llama_model_load_from_file(bytes(path), lib.llama_model_default_params())
        _succeed(self._model, "llama_model_load_from_file")
        self._threads = threads
        self._held: tuple[int, int, int] | None = None
        self._sequences: Sequences | None = None

    def begin(self, context: int, room: int, streams: int) -> None:
        """Those of last time, rewound, when they are the same."""
        if self._sequences is None or self._held != (context, room, streams):
            self._free()
            self._sequences = Sequences(
                self._model, length=context, room=room, streams=streams, threads=self._threads
            )
            self._held = (context, room, streams)
        self._sequences.rewind()

    def prefill(self, ids: Sequence[int]) -> None:
        """In batches."""
        self._live.prefill(ids)

    def step(self, ids: Sequence[int]) -> None:
        """All sequences in one batch."""
        self._live.step(ids)

    def logits(self) -> list[float]:
        """Of the first sequence."""
        return self._live.logits(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model)))

    def close(self) -> None:
        """Free all."""
        self._free()
        lib.llama_model_free(self._model)

    @property
    def _live(self) -> Sequences:
        assert self._sequences is not None, "begin comes first"
        return self._sequences

    def _free(self) -> None:
        if self._sequences is not None:
            self._sequences.close()
        self._sequences = None


class LlamaCpp:
    """llama.cpp on the CPU."""

    def __init__(self, threads: int, folder: Path) -> None:
        self._threads, self._folder = threads, folder
        lib.llama_backend_init()

    def versions(self) -> dict[str, str]:
        """Of the bindings; they come with the library's sources."""
        return {"llama-cpp-python": lib.__version__}

    def open(self, raw: Raw, weights: str, *, sparse: bool) -> Loaded:
        """From the file of an earlier run, if there is one."""
        del sparse
        if weights not in _FORMATS:
            raise Unsupported(f"no counterpart of {weights} weights")
        return Loaded(self._file(raw, weights), self._threads)

    def _file(self, raw: Raw, weights: str) -> Path:
        name, kind = _FORMATS[weights]
        path = self._folder / "gguf" / f"{key(raw)}-{name}.gguf"
        if path.exists():
            return path
        if kind is None:
            gguf_file.write(path, raw)
        else:
            _quantize(self._file(raw, "bf16"), path, kind, self._threads)
        return path


def _quantize(source: Path, target: Path, kind: int, threads: int) -> None:
    settings = lib.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, threads
    part = target.with_suffix(".part")
    result = lib.llama_model_quantize(bytes(source), bytes(part), ctypes.byref(settings))
    _succeed(result == 0, "llama_model_quantize")
    part.rename(target)


if __name__ == "__main__":
    main(LlamaCpp)

"""The worker of OpenVINO: a stateful model exported by optimum-intel, its request driven directly."""

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

import numpy as np
import openvino as ov
from openvino import opset13

from rivals.weights import Raw, key
from rivals.worker import Unsupported, main

# Tokens whose keys and values are repeated to make a longer context.
PIECE = 512


def _export(raw: Raw, weights: str, folder: Path) -> None:
    """Write the folded Llama and let optimum-intel convert and quantize it."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    from rivals.folded import llama

    formats = {
        "int4": {"bits": 4, "sym": True, "group_size": 64, "ratio": 1.0},
        "int8": {"bits": 8, "sym": True},
    }
    if weights not in formats:
        raise Unsupported(f"{weights} weights are left out of the comparison with OpenVINO")
    source, target = folder.with_suffix(".source"), folder.with_suffix(".part")
    llama(raw).save_pretrained(source)
    quantization = OVWeightQuantizationConfig(**formats[weights])
    model = OVModelForCausalLM.from_pretrained(
        source, export=True, compile=False, quantization_config=quantization
    )
    model.save_pretrained(target)
    rmtree(source)
    target.rename(folder)


def _keep_last_logits(model: ov.Model) -> None:
    """Only the last position goes through the head, as openvino-genai does it."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    first, stop, step, axis = (opset13.constant(np.array([x], np.int64)) for x in (-1, 2**62, 1, 1))
    last = opset13.slice(node.input_value(0), first, stop, step, axis)
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class Loaded:
    """A compiled model and the state in its request."""

    def __init__(self, core: ov.Core, folder: Path, threads: int) -> None:
        model = core.read_model(folder / "openvino_model.xml")
        _keep_last_logits(model)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._compiled = core.compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._inputs = {port.get_any_name() for port in model.inputs}
        self._held: tuple[int, int] | None = None
        self._past = 0

    def begin(self, context: int, _room: int, streams: int) -> None:
        """The state of last time, some tokens longer by now, when it is the same; else a repeated piece."""
        if context and self._held == (context, streams):
            return
        self._request.reset_state()
        self._past = 0
        if context:
            self._fill(context, streams)
        self._held = (context, streams)

    def prefill(self, ids: Sequence[int]) -> None:
        """In one inference."""
        self._feed(np.array([ids], np.int64))

    def step(self, ids: Sequence[int]) -> None:
        """All sequences in one inference."""
        self._feed(np.array(ids, np.int64)[:, None])

    def logits(self) -> Sequence[float]:
        """Of the first sequence."""
        return self._request.get_tensor("logits").data[0, -1]

    def close(self) -> None:
        """Forget the model."""
        del self._request, self._compiled

    def _fill(self, context: int, streams: int) -> None:
        piece = min(PIECE, context)
        self._feed(np.arange(streams * piece).reshape(streams, piece) % 32000)
        if piece == context:
            return
        for state in self._request.query_state():
            rows = np.resize(np.arange(piece), context)
            state.state = ov.Tensor(np.ascontiguousarray(state.state.data[:, :, rows]))
        self._past = context

    def _feed(self, ids: np.ndarray) -> None:
        streams, count = ids.shape
        total = self._past + count
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((streams, total), np.int64),
            "position_ids": np.tile(np.arange(self._past, total), (streams, 1)),
            "beam_idx": np.arange(streams, dtype=np.int32),
        }
        self._request.infer({name: feed for name, feed in feeds.items() if name in self._inputs})
        self._past = total


class OpenVINO:
    """OpenVINO's CPU plugin."""

    def __init__(self, threads: int, folder: Path) -> None:
        self._core, self._threads, self._folder = ov.Core(), threads, folder

    def versions(self) -> dict[str, str]:
        """Of the runtime."""
        return {"openvino": ov.__version__.split("-")[0]}

    def open(self, raw: Raw, weights: str, *, sparse: bool) -> Loaded:
        """From the folder of an earlier run, if there is one."""
        del sparse
        folder = self._folder / "openvino" / f"{key(raw)}-{weights}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _export(raw, weights, folder)
        return Loaded(self._core, folder, self._threads)


if __name__ == "__main__":
    main(OpenVINO)

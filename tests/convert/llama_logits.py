"""Run by the tests with an interpreter that has llama_cpp: prints logits of token ids, float32 in base64.

Arguments: a GGUF file, the ids with commas between, and possibly the GGUF file of a LoRA.
"""

import base64
import sys

import llama_cpp


def main(model: str, ids: str, lora: str | None = None) -> None:
    """Everything in float32, one thread."""
    loaded = llama_cpp.Llama(
        model,
        n_ctx=64,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        lora_path=lora,
        type_k=0,
        type_v=0,
        verbose=False,
    )
    tokens = [int(number) for number in ids.split(",")]
    loaded.eval(tokens)
    print(base64.b64encode(loaded.scores[: len(tokens)].astype("<f4").tobytes()).decode())


main(*sys.argv[1:])

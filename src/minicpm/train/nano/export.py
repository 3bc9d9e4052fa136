"""Writes trained weights as a complete Hugging Face folder."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from minicpm.models.decoder import Decoder
from minicpm.train.nano.model import raw_config

_GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [2, 4],
    "pad_token_id": 2,
    "do_sample": False,
    "max_new_tokens": 512,
}


def export(decoder: Decoder, folder: Path, *, tokenizer_folder: Path) -> Path:
    """bf16 weights, config, generation settings and tokenizer files in `folder`, replacing what was there."""
    part = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(tokenizer_folder, part)
    weights = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in decoder.named_parameters()}
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    (part / "model.safetensors").chmod(0o644)  # the library makes it readable to its owner alone
    (part / "config.json").write_text(json.dumps(raw_config(decoder.config.vocab), indent=2) + "\n")
    (part / "generation_config.json").write_text(json.dumps(_GENERATION, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder

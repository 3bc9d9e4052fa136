"""Every text model of the family once more, slow and obvious: an oracle that shares no code with the package.

It reads a raw config.json and named tensors, and computes in float64, one sequence at a time, one head at a
time, with whole score matrices and no cache.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_WITHOUT_MUP = ("LlamaForCausalLM", "OmniLMMForCausalLM")
_SEEING_ALL = ("MiniCPMModel", "MiniCPMForSequenceClassification")
_EMBEDDING = "embed_tokens.weight"


class SlowModel:
    """A checkpoint's forward for one sequence of ids [T] int64; results are float64.

    Names may carry any prefix in front of `embed_tokens`, `layers` and `norm`.
    """

    def __init__(self, raw: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        self.raw = dict(raw)
        self.state = {name: weight.double() for name, weight in state.items()}
        prefixes = {name.removesuffix(_EMBEDDING) for name in state if name.endswith(_EMBEDDING)}
        (self.prefix,) = prefixes
        self.kind = raw["architectures"][0]
        self.eps = raw.get("rms_norm_eps", 1e-6)

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states [T, D] after the final norm."""
        depth = self.raw["num_hidden_layers"]
        h = self._model(_EMBEDDING)[ids] * self.raw.get("scale_emb", 1)
        s = 1.0 if self.kind in _WITHOUT_MUP else self.raw.get("scale_depth", 1) / math.sqrt(depth)
        for index in range(depth):
            w = self._layer(index)
            a = _rms(h, w["input_layernorm.weight"], self.eps)
            h = h + s * self._mix(a, w, index)
            h = h + s * self._feed_forward(_rms(h, w["post_attention_layernorm.weight"], self.eps), w)
        return _rms(h, self._model("norm.weight"), self.eps)

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [T, V]."""
        heads = [w for name, w in self.state.items() if name.endswith("lm_head.weight")]
        head = heads[0] if heads else self._model(_EMBEDDING)
        plain = self.kind in _WITHOUT_MUP
        scale = 1.0 if plain else self.raw["hidden_size"] / self.raw.get("dim_model_base", 1)
        return self.hidden(ids) / scale @ head.T

    def _model(self, name: str) -> Tensor:
        return self.state[self.prefix + name]

    def _layer(self, index: int) -> dict[str, Tensor]:
        start = f"{self.prefix}layers.{index}."
        return {n.removeprefix(start): w for n, w in self.state.items() if n.startswith(start)}

    def _mix(self, a: Tensor, w: Mapping[str, Tensor], index: int) -> Tensor:
        if "self_attn.kv_b_proj.weight" in w:
            return self._latent(a, w)
        if "mixer_types" in self.raw and self.raw["mixer_types"][index].startswith("lightning"):
            return self._lightning(a, w)
        return self._softmax(a, w)

    def _softmax(self, a: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        """Grouped-query attention to all that is seen, or to chosen blocks of it."""
        heads = self.raw["num_attention_heads"]
        width = self.raw.get("head_dim") or self.raw["hidden_size"] // heads
        q, k, v = (_split(a, w[f"self_attn.{name}_proj.weight"], width) for name in "qkv")
        unturned = q, k
        if self.raw.get("attn_use_rope", True):
            q, k = self._turn(q), self._turn(k)
        group = heads // k.shape[1]
        causal = self.kind not in _SEEING_ALL
        seen = _causal(len(a)) if causal else torch.ones(len(a), len(a), dtype=torch.bool)
        outs = []
        for shared in range(k.shape[1]):
            mine = slice(shared * group, (shared + 1) * group)
            choosing = unturned if (self.raw.get("sparse_config") or {}).get("use_nope") else (q, k)
            allowed = seen & self._chosen(choosing[0][:, mine], choosing[1][:, shared])
            outs += [
                _attend(q[:, head], k[:, shared], v[:, shared], allowed)
                for head in range(mine.start, mine.stop)
            ]
        out = torch.stack(outs, 1).flatten(1)
        if "self_attn.o_gate.weight" in w:
            out = out * (a @ w["self_attn.o_gate.weight"].T).sigmoid()
        return out @ w["self_attn.o_proj.weight"].T

    def _chosen(self, q: Tensor, k: Tensor) -> Tensor:
        """Which tokens each position may read, [T, T], by InfLLM-V2 for q [T, G, d] and k [T, d]."""
        allowed = torch.ones(len(q), len(q), dtype=torch.bool)
        sparse = self.raw.get("sparse_config")
        if sparse is None:
            return allowed
        size, stride, block = sparse["kernel_size"], sparse["kernel_stride"], sparse.get("block_size", 64)
        local = sparse["window_size"] // block
        for position in range(max(sparse["dense_len"] - 1, 0), len(q)):
            kernels = range(0, position + 2 - size, stride)  # first tokens of whole windows in the past
            scores: dict[int, float] = {}
            if kernels:
                means = torch.stack([k[first : first + size].mean(0) for first in kernels])
                shares = (means @ q[position].T / math.sqrt(k.shape[1])).softmax(0).sum(1)
                for first, share in zip(kernels, shares.tolist(), strict=True):
                    for met in range(first // block, (first + size - 1) // block + 1):
                        scores[met] = max(scores.get(met, 0.0), share)
            here = position // block
            forced = [b for b in range(here + 1) if b < sparse.get("init_blocks", 1) or b >= here - local]
            scores |= dict.fromkeys(forced, math.inf)
            order = sorted(range(here + 1), key=lambda b: (-scores.get(b, 0.0), b))
            kept = order[: sparse["topk"] + local]
            allowed[position] = torch.isin(torch.arange(len(q)) // block, torch.tensor(kept))
        return allowed

    def _latent(self, a: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        """Latent attention with keys and values written out."""
        raw, heads = self.raw, self.raw["num_attention_heads"]
        nope, rope = raw["qk_nope_head_dim"], raw["qk_rope_head_dim"]
        value = raw.get("v_head_dim") or raw["hidden_size"] // heads
        squeezed = _rms(a @ w["self_attn.q_a_proj.weight"].T, w["self_attn.q_a_layernorm.weight"], 1e-6)
        q = _split(squeezed, w["self_attn.q_b_proj.weight"], nope + rope)
        latent, key = (a @ w["self_attn.kv_a_proj_with_mqa.weight"].T).split([raw["kv_lora_rank"], rope], 1)
        latent = _rms(latent, w["self_attn.kv_a_layernorm.weight"], 1e-6)
        k_nope, v = _split(latent, w["self_attn.kv_b_proj.weight"], nope + value).split([nope, value], 2)
        q_nope, q_rope = q.split([nope, rope], 2)
        q = torch.cat([q_nope, self._turn(q_rope)], 2)
        k = torch.cat([k_nope, self._turn(key[:, None]).expand(-1, heads, -1)], 2)
        seen = _causal(len(a))
        out = torch.stack([_attend(q[:, h], k[:, h], v[:, h], seen) for h in range(heads)], 1)
        return out.flatten(1) @ w["self_attn.o_proj.weight"].T

    def _lightning(self, a: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        """Linear attention, one token after another."""
        raw, width = self.raw, self.raw["lightning_head_dim"]
        q, k, v = (_split(a, w[f"self_attn.{name}_proj.weight"], width) for name in "qkv")
        if "self_attn.q_norm.weight" in w:
            q = _rms(q, w["self_attn.q_norm.weight"], self.eps)
            k = _rms(k, w["self_attn.k_norm.weight"], self.eps)
        if raw.get("lightning_use_rope", True):
            q, k = self._turn(q), self._turn(k)
        heads = raw["lightning_nh"]
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
        scale = {"1/sqrt(d)": width**-0.5, "1/d": 1 / width}.get(raw.get("lightning_scale", "1/sqrt(d)"), 1.0)
        decay = torch.exp(-_slopes(heads))[:, None, None]
        state, outs = torch.zeros(heads, width, width, dtype=torch.float64), []
        for q_t, k_t, v_t in zip(q, k, v, strict=True):
            state = decay * state + k_t[:, :, None] * v_t[:, None, :]
            outs.append(scale * (q_t[:, :, None] * state).sum(1))
        out = torch.stack(outs).flatten(1)
        if "self_attn.o_norm.weight" in w:
            out = _rms(out, w["self_attn.o_norm.weight"], self.eps)
        if "self_attn.z_proj.weight" in w:
            out = out * (a @ w["self_attn.z_proj.weight"].T).sigmoid()
        return out @ w["self_attn.o_proj.weight"].T

    def _feed_forward(self, b: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        if "mlp.gate.weight" not in w:
            return self._gated(b, *(w[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))
        out = []
        for row in b:
            shares = (w["mlp.gate.weight"] @ row).softmax(0)
            best = shares.argsort(descending=True, stable=True)[: self.raw["num_experts_per_tok"]]
            experts = [[w[f"mlp.experts.{e}.w{n}.weight"] for n in (1, 3, 2)] for e in best.tolist()]
            parts = [p * self._gated(row, *each) for p, each in zip(shares[best], experts, strict=True)]
            out.append(torch.stack(parts).sum(0) / shares[best].sum())
        return torch.stack(out)

    def _gated(self, b: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        x = b @ gate.T
        if self.raw.get("hidden_act") == "fatrelu":
            acted = torch.where(x > self.raw.get("hidden_act_param", 0.01), x, 0.0)
        else:
            acted = x * x.sigmoid()
        return (acted * (b @ up.T)) @ down.T

    def _turn(self, x: Tensor) -> Tensor:
        """x [T, H, d] rotated by position: pairs are (i, i + d/2)."""
        frequencies, size = self._rope(x.shape[-1], len(x))
        angles = torch.arange(len(x), dtype=torch.float64)[:, None, None] * frequencies
        low, high = x.chunk(2, -1)
        cos, sin = angles.cos() * size, angles.sin() * size
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def _rope(self, width: int, length: int) -> tuple[Tensor, float]:
        """Frequencies [d/2] for a sequence of this length, and what cosines and sines are multiplied by."""
        theta, most = self.raw.get("rope_theta", 10000.0), self.raw["max_position_embeddings"]
        scaling = self.raw.get("rope_scaling") or {}
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        powers = torch.arange(0, width, 2, dtype=torch.float64) / width
        if kind == "dynamic" and length > most:
            grown = scaling["factor"] * length / most - (scaling["factor"] - 1)
            return (theta * grown ** (width / (width - 2))) ** -powers, 1.0
        if kind in ("longrope", "su"):
            original = scaling.get("original_max_position_embeddings", most)
            factors = scaling["long_factor" if most > original else "short_factor"]
            size = math.sqrt(1 + math.log(most / original) / math.log(original)) if most > original else 1.0
            return theta**-powers / torch.tensor(factors, dtype=torch.float64), size
        return theta**-powers, 1.0


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _split(a: Tensor, weight: Tensor, width: int) -> Tensor:
    """a [T, D] projected and cut into heads, [T, H, d]."""
    return (a @ weight.T).unflatten(1, (-1, width))


def _causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """One head: q and k [T, d], v [T, e], allowed [T, T]."""
    scores = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(~allowed, -math.inf)
    return scores.softmax(1) @ v


def _slopes(heads: int) -> Tensor:
    """ALiBi's slopes [H] (arXiv 2108.12409): between powers of two, every second one of twice as many."""
    below = 2 ** int(math.log2(heads))
    doubled = [2 ** (-4 * (h + 1) / below) for h in range(2 * below)]
    return torch.tensor(
        [2 ** (-8 * (h + 1) / below) for h in range(below)] + doubled[::2][: heads - below],
        dtype=torch.float64,
    )

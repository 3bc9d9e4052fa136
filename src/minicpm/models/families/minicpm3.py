"""MiniCPM3ForCausalLM: the muP decoder with latent attention (MiniCPM3-4B)."""

from minicpm.config import MLA, LayerConfig, ModelConfig, RawConfig
from minicpm.models.families.dense import Defaults, read_ffn, read_shape
from minicpm.models.families.mup import mup_config

_DEFAULTS = Defaults(context=32768, norm_eps=1e-5)
# Published readers of this family give different values to these when they are missing.
_WITHOUT_DEFAULT = ("rms_norm_eps", "scale_emb", "scale_depth", "dim_model_base")
_REFUSED = MLA(1, 1, 1, 1, 1, 1)  # stands for sizes that were refused


def parse(raw: RawConfig) -> ModelConfig:
    """The config of a MiniCPM3 checkpoint."""
    for key in _WITHOUT_DEFAULT:
        if not raw.has(key):
            raw.problem(f"{key} is missing, and this family has no one default for it")
    hidden = raw.integer("hidden_size")
    mixer = _read_mla(raw, hidden)
    layer = LayerConfig(mixer, read_ffn(raw))
    shape = read_shape(raw, _DEFAULTS, layer, hidden=hidden, rotary=mixer.rope)
    return mup_config(raw, shape, family="minicpm3")


def _read_mla(raw: RawConfig, hidden: int) -> MLA:
    """Latent attention; a value head is as wide as hidden / heads unless `v_head_dim` says otherwise."""
    heads = raw.integer("num_attention_heads")
    mixer = MLA(
        heads=heads,
        q_rank=raw.integer("q_lora_rank"),
        kv_rank=raw.integer("kv_lora_rank"),
        nope=raw.integer("qk_nope_head_dim"),
        rope=raw.integer("qk_rope_head_dim"),
        value=raw.integer("v_head_dim", max(hidden // heads, 1)),
    )
    sizes = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    if not raw.sound("hidden_size", "num_attention_heads", *sizes):
        raw.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
        return _REFUSED
    _refuse_contradictions(raw, mixer, hidden)
    return mixer


def _refuse_contradictions(raw: RawConfig, mixer: MLA, hidden: int) -> None:
    heads, width = mixer.heads, mixer.head_dim
    raw.expect("num_key_value_heads", (heads,), f"each of the {heads} query heads has its own key and value")
    raw.expect("qk_head_dim", (width,), f"qk_nope_head_dim and qk_rope_head_dim make {width}")
    raw.expect(
        "head_dim",
        (mixer.rope, width),
        f"query and key heads are {width} wide, their rotated part {mixer.rope}",
    )
    if not raw.has("v_head_dim") and hidden % heads:
        raw.problem(
            f"hidden_size {hidden} is no multiple of num_attention_heads {heads}, and there is no v_head_dim"
        )
    if mixer.rope % 2:
        raw.problem(f"qk_rope_head_dim {mixer.rope} is odd, rotary embedding needs pairs")
    if mixer.value > width:
        raw.problem(f"value heads {mixer.value} wide are wider than query and key heads, which have {width}")

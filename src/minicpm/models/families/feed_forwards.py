"""Reads which feed-forward a muP decoder has: dense with SiLU or FATReLU, or experts."""

from minicpm.config import Activation, Dense, FATReLU, FeedForward, MoE, RawConfig, SiLU

# ProSparse (arXiv 2402.13516, section 4) shifts its thresholds to this; the config's own value wins.
_FATRELU_THRESHOLD = 0.01


def read_feed_forward(raw: RawConfig) -> FeedForward:
    """Experts where `num_experts` is above zero, else a dense feed-forward."""
    width = raw.integer("intermediate_size")
    experts = raw.integer("num_experts", 0, least=0)
    if experts and raw.sound("num_experts"):
        return _read_experts(raw, width, experts)
    raw.ignore("num_experts_per_tok")
    return Dense(width, _read_activation(raw))


def _read_experts(raw: RawConfig, width: int, experts: int) -> MoE:
    raw.expect("hidden_act", ("silu",), "experts are only known with silu")
    raw.expect("hidden_act_param", (), "experts are only known with silu, which takes no parameter")
    chosen = raw.integer("num_experts_per_tok")
    if raw.sound("num_experts_per_tok") and chosen > experts:
        raw.problem(f"num_experts_per_tok {chosen} is more than num_experts {experts}")
    return MoE(width, experts, chosen)


def _read_activation(raw: RawConfig) -> Activation:
    kind = raw.text("hidden_act", "silu")
    if kind == "fatrelu":
        return FATReLU(raw.number("hidden_act_param", _FATRELU_THRESHOLD, least=0))
    if kind != "silu":
        raw.problem(f"hidden_act is {kind!r}: only silu and fatrelu are known for this family")
    raw.expect("hidden_act_param", (), "only fatrelu takes a parameter")
    return SiLU()

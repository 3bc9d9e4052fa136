"""How fast an answer was, in one line."""

from minicpm.text.events import End


def speed_line(end: End) -> str:
    """Tokens and rates of prompt and answer; the first token belongs to the prompt's time."""
    usage, timings = end.usage, end.timings
    computed = usage.prompt_tokens - usage.cached_tokens
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    prompt = f"prompt {usage.prompt_tokens:,} tokens{cached}"
    answer = f"answer {usage.completion_tokens:,} tokens"
    if timings is not None:
        prompt += _rate(computed, timings.prefill_s)
        answer += _rate(usage.completion_tokens - 1, timings.decode_s)
    return f"{prompt} · {answer}{_ENDS.get(end.reason, '')}"


_ENDS = {"length": " · cut at the limit of tokens", "abort": " · stopped", "error": " · ended by an error"}


def _rate(tokens: int, seconds: float) -> str:
    return f" at {tokens / seconds:,.0f}/s" if tokens > 0 and seconds > 0 else ""

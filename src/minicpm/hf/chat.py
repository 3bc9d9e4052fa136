"""The `chat` method of the published model classes, for scripts written for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from minicpm.errors import PromptTooLong
from minicpm.models.registry import family
from minicpm.text.templates import Conversation, built_in

Turn = Mapping[str, str]

# The markers between which version 1 wrote a user's turn; where one appears, the next turn has begun.
_NEXT_TURN = ("<AI>", "<用户>")


class PublishedChat:
    """Adds `chat` to a model that generates; `minicpm.load` has a fuller one."""

    def chat(  # noqa: PLR0917 - the order is the published one
        self,
        tokenizer: Any,
        query: str,
        history: Sequence[Turn] | None = None,
        role: str = "user",
        max_length: int = 4096,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float = 0.8,
        temperature: float = 0.3,
        logits_processor: Any = None,
        **options: Any,
    ) -> tuple[str, list[Turn]]:
        """The answer to `query`, and the history with both; the history given stays as it is.

        `max_length` bounds prompt and answer together; raises PromptTooLong where nothing is left for the
        answer. Further options go to `generate`. The template is the tokenizer's, else the family's built-in
        one.
        """
        model: Any = self
        turns = [*(history or ()), {"role": role, "content": query}]
        inputs = tokenizer(_prompt(tokenizer, turns, model.model.shape.family), return_tensors="pt")
        prompt = inputs["input_ids"].shape[1]
        if prompt >= max_length:
            raise PromptTooLong(
                f"The conversation has {prompt} tokens, and max_length {max_length} bounds prompt and answer "
                "together. Raise max_length, or leave turns out of the history."
            )
        settings: dict[str, Any] = {"top_p": top_p, "temperature": temperature} if do_sample else {}
        settings |= {"max_new_tokens": max_length - prompt}
        with torch.no_grad():
            ids = model.generate(
                **inputs.to(model.device),
                num_beams=num_beams,
                do_sample=do_sample,
                logits_processor=logits_processor,
                **(settings | options),
            )[0, prompt:].tolist()
        response = _cut(tokenizer.decode(_without_end(ids, model.generation_config.eos_token_id)))
        return response, [*turns, {"role": "assistant", "content": response}]


def _prompt(tokenizer: Any, turns: list[Turn], family_name: str) -> str:
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    template = built_in(family(family_name).template)
    return template.render(Conversation([dict(turn) for turn in turns], [], None, generate=True))


def _without_end(ids: list[int], ends: int | Sequence[int] | None) -> list[int]:
    known = {ends} if isinstance(ends, int) else set(ends or ())
    return ids[:-1] if ids and ids[-1] in known else ids


def _cut(text: str) -> str:
    """Up to where the model went on to speak for someone else."""
    return text[: min((at for mark in _NEXT_TURN if (at := text.find(mark)) >= 0), default=len(text))]

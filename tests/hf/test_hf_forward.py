"""One forward: padding, positions, embeddings, loss, gradients, hidden states, and the cache it returns."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from minicpm.cache import Batch
from minicpm.errors import BadParameter
from minicpm.hf import MiniCPMCache
from minicpm.hf.names import CACHE_NAMES, cache_of

ONE = "minicpm4-8b"
LENGTHS = (1, 9, 70, 33)


@pytest.fixture
def rows(ids):
    return [ids(1, count, seed=count)[0] for count in LENGTHS]


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_each_row_alone(
    opened, decoder, family, rows, padded, side, use_cache, assert_near
):
    tokens, mask = padded(rows, side)
    with torch.no_grad():
        logits = opened(family)(tokens, attention_mask=mask, use_cache=use_cache).logits
        for row, real, got in zip(rows, mask.bool(), logits, strict=True):
            assert_near(got[real], decoder(family).logits_for(row))
            assert not got[~real].any(), "padding scores nothing"


def test_padding_in_the_middle_is_left_out(opened, decoder, rows, assert_near):
    row = rows[2]
    mask = torch.arange(len(row)) % 3 != 1
    with torch.no_grad():
        got = opened(ONE)(row[None], attention_mask=mask[None]).logits[0, mask]
        assert_near(got, decoder(ONE).logits_for(row[mask]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["counted", "columns", "one row for all"])
def test_positions_as_transformers_writes_them_change_nothing(opened, rows, padded, side, kind):
    tokens, mask = padded(rows, side)
    columns = torch.arange(tokens.shape[1])[None]
    positions = {
        "counted": (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0),
        "columns": columns.expand_as(tokens),
        "one row for all": columns,
    }[kind]
    with torch.no_grad():
        model = opened(ONE)
        for use_cache in (False, True):
            plain = model(tokens, attention_mask=mask, use_cache=use_cache).logits
            given = model(tokens, attention_mask=mask, use_cache=use_cache, position_ids=positions).logits
            assert torch.equal(plain, given)


def test_sequences_packed_into_one_row_do_not_see_each_other(opened, decoder, family, rows, assert_near):
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    with torch.no_grad():
        got = opened(family)(torch.cat(rows)[None], position_ids=positions, use_cache=False).logits[0]
        for part, row in zip(got.split(LENGTHS), rows, strict=True):
            assert_near(part, decoder(family).logits_for(row))


def test_scaled_embeddings_stand_for_ids(opened, family, rows, padded):
    tokens, mask = padded(rows, "left")
    model = opened(family)
    embeds = model.get_input_embeddings()(tokens) * model.config.scale_emb
    with torch.no_grad():
        for use_cache in (False, True):
            by_ids = model(tokens, attention_mask=mask, use_cache=use_cache).logits
            by_embeds = model(inputs_embeds=embeds, attention_mask=mask, use_cache=use_cache).logits
            assert torch.equal(by_ids, by_embeds)


def test_the_loss_is_torchs_cross_entropy_of_the_next_token(opened, family, rows, padded):
    tokens, mask = padded(rows, "right")
    labels = tokens.masked_fill(mask == 0, -100)
    out = opened(family)(tokens, attention_mask=mask, labels=labels)
    flat = out.logits[:, :-1].flatten(0, 1)
    expected = cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(out.loss, expected)
    summed = opened(family)(tokens, attention_mask=mask, labels=labels, num_items_in_batch=7).loss
    count = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(summed, expected * count / 7)


def test_the_first_token_after_padding_is_not_asked_of_the_padding(opened, rows, padded):
    losses = []
    for side in ("left", "right"):
        tokens, mask = padded(rows, side)
        labels = tokens.masked_fill(mask == 0, -100)
        losses.append(opened(ONE)(tokens, attention_mask=mask, labels=labels).loss)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_the_decoders(fresh, decoder, family, rows, padded, training, assert_near):
    tokens, mask = padded(rows, "left")
    model, direct = fresh(family).train(training), copy.deepcopy(decoder(family))
    model(tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)).loss.backward()
    logits = direct.logits(direct(Batch.of_sequences(*rows)))
    parts = zip(logits.split(LENGTHS), rows, strict=True)
    total = sum(cross_entropy(part[:-1], row[1:], reduction="sum") for part, row in parts if len(row) > 1)
    (total / sum(count - 1 for count in LENGTHS)).backward()
    ours = dict(model.named_parameters())
    for name, weight in direct.named_parameters():
        assert_near(ours[name].grad, weight.grad)


def test_hidden_states_begin_with_the_embeddings_and_end_with_the_norm(opened, family, rows, padded):
    tokens, mask = padded(rows, "left")
    model = opened(family)
    with torch.no_grad():
        out = model(tokens, attention_mask=mask, output_hidden_states=True)
        states = out.hidden_states
        assert len(states) == len(model.model.layers) + 1
        real = mask.bool()
        embedded = model.get_input_embeddings()(tokens) * model.config.scale_emb
        assert torch.equal(states[0][real], embedded[real])
        decoder = model.model.decoder(lm_head=model.lm_head)
        torch.testing.assert_close(decoder.logits(states[-1][real]), out.logits[real])
        assert all(not state[~real].any() for state in states)
    assert model(tokens).hidden_states is None


def test_only_the_logits_to_keep_are_computed(opened, rows, padded, assert_near):
    tokens, mask = padded(rows, "left")
    model = opened(ONE)
    with torch.no_grad():
        whole = model(tokens, attention_mask=mask).logits

        def kept(keep):
            return model(tokens, attention_mask=mask, logits_to_keep=keep).logits

        assert_near(kept(1), whole[:, -1:])
        assert_near(kept(5), whole[:, -5:])
        assert_near(kept(torch.tensor([3, -1])), whole[:, [3, -1]])
        assert_near(kept(torch.tensor([[0], [69], [5], [60]])), whole[range(4), [0, 69, 5, 60]][:, None])
        chosen = mask.bool() & (torch.arange(70) % 2 == 0)
        assert_near(kept(chosen), whole[chosen])


def test_without_return_dict_there_is_a_tuple(opened, rows):
    logits, cache = opened(ONE).eval()(rows[1][None], return_dict=False)
    assert logits.shape == (1, 9, opened(ONE).config.vocab_size)
    assert isinstance(cache, MiniCPMCache)


def test_eager_attention_is_the_reference(fresh, opened, rows, assert_near):
    model = fresh(ONE)
    model.set_attn_implementation("eager")
    assert model.model.decoder().backend.name == "reference"
    with torch.no_grad():
        assert_near(model(rows[2][None]).logits, opened(ONE)(rows[2][None]).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cuts", [(1,), (20, 21), (64,)], ids=str)
def test_a_batch_in_pieces_equals_the_batch_at_once(opened, family, rows, padded, side, cuts, assert_near):
    """Masks may end in the middle of a piece, and the cache grows as it goes."""
    tokens, mask = padded(rows, side)
    model, parts, cache = opened(family), [], None
    with torch.no_grad():
        whole = model(tokens, attention_mask=mask, use_cache=False).logits
        for start, stop in zip((0, *cuts), (*cuts, tokens.shape[1]), strict=True):
            if not mask[:, start:stop].any():
                continue
            out = model(
                tokens[:, start:stop],
                attention_mask=mask[:, :stop],
                cache=cache,
                use_cache=True,
                position_ids=torch.arange(start, stop)[None],
            )
            cache = cache_of(out)
            assert cache.get_seq_length() == stop
            parts.append(out.logits)
    assert_near(torch.cat(parts, dim=1), whole)
    assert cache.lengths == list(LENGTHS)


def test_a_copied_cache_goes_its_own_way(opened, family, rows, assert_near):
    model, (_, short, long, other) = opened(family), rows
    with torch.no_grad():
        prefix = cache_of(model(long[None]))
        for tail in (short, other):
            cache = copy.deepcopy(prefix)
            got = model(tail[None], cache=cache).logits
            whole = model(torch.cat((long, tail))[None]).logits
            assert_near(got, whole[:, len(long) :])
    assert prefix.get_seq_length() == len(long)


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_taken_under_its_new_and_its_old_name(opened, rows, name, assert_near):
    model = opened(ONE)
    whole = torch.cat((rows[2], rows[1]))[None]
    with torch.no_grad():
        for door, field in ((model, "logits"), (model.model, "last_hidden_state")):
            out = door(rows[1][None], **{name: _cached(model, rows, 2)})
            assert_near(getattr(out, field), getattr(door(whole), field)[:, len(rows[2]) :])
            assert cache_of(out).get_seq_length() == whole.shape[1]


def test_rows_of_a_cache_are_chosen_repeated_and_cut(opened, rows, padded, assert_near):
    tokens, mask = padded(rows, "left")
    model = opened(ONE)
    more = torch.tensor([[7], [8], [9], [10], [11]])

    def held():
        return cache_of(model(tokens, attention_mask=mask))

    def following(cache, which, columns):
        past = mask[which, :columns]
        real = torch.cat((past, torch.ones(len(which), 1, dtype=past.dtype)), dim=1)
        got = model(more[: len(which)], attention_mask=real, cache=cache).logits
        told = torch.cat((tokens[which, :columns], more[: len(which)]), dim=1)
        assert_near(got, model(told, attention_mask=real).logits[:, -1:])

    with torch.no_grad():
        cache = held()
        cache.reorder_cache(torch.tensor([2, 2, 0, 1, 3]))
        assert cache.batch_size == 5
        following(cache, [2, 2, 0, 1, 3], 70)
        cache = held()
        cache.batch_select_indices(torch.tensor([3, 1]))
        cache.batch_repeat_interleave(2)
        following(cache, [3, 3, 1, 1], 70)
        for kept in (69, 3):
            cache = held()
            cache.crop(kept - 70)
            assert cache.get_seq_length() == kept
            following(cache, [0, 1, 2, 3], kept)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert_near(
            model(tokens, attention_mask=mask, cache=cache).logits,
            model(tokens, attention_mask=mask).logits,
        )


def test_a_running_state_is_not_cut_in_the_middle(opened, rows):
    model = opened("minicpm-sala")
    with torch.no_grad():
        cache = cache_of(model(rows[2][None]))
    assert not cache.is_croppable
    with pytest.raises(BadParameter, match="cannot take back its last 3 tokens"):
        cache.crop(-3)
    assert cache.get_seq_length() == 70


def test_a_cache_that_nobody_asked_for_does_not_stand_before_gradients(opened, rows):
    model = opened(ONE)
    cache = cache_of(model(rows[1][None]))
    with pytest.raises(BadParameter, match=r"recorded gradients.*torch.no_grad"):
        model(rows[1][None], cache=cache)
    model.train()
    try:
        assert cache_of(model(rows[1][None])) is None
    finally:
        model.eval()


def test_a_cache_passes_gradients_or_refuses(fresh, rows, assert_near):
    plain, cached = fresh(ONE), fresh(ONE)
    for model, use_cache in ((plain, False), (cached, True)):
        model(rows[2][None], use_cache=use_cache, labels=rows[2][None]).loss.backward()
    for (name, ours), theirs in zip(cached.named_parameters(), plain.parameters(), strict=True):
        assert theirs.grad.any(), name
        assert_near(ours.grad, theirs.grad)
    with pytest.raises(BadParameter, match="do not pass through the running states"):
        fresh("minicpm-sala")(rows[2][None], use_cache=True)


def _cached(model, rows, row=1):
    with torch.no_grad():
        return cache_of(model(rows[row][None]))


REFUSED = {
    "neither": (lambda m, r: {}, "0 of input_ids and inputs_embeds were given"),
    "both": (
        lambda m, r: {"input_ids": r[1][None], "inputs_embeds": torch.zeros(1, 9, 64)},
        "2 of input_ids and inputs_embeds were given",
    ),
    "nothing real": (
        lambda m, r: {"input_ids": r[1][None], "attention_mask": torch.zeros(1, 9)},
        r"shape \[1, 9\] has no token",
    ),
    "a mask of four dimensions": (
        lambda m, r: {"input_ids": r[1][None], "attention_mask": torch.zeros(1, 1, 9, 9)},
        r"attention_mask has the shape \[1, 1, 9, 9\], where \[1, 9\] is needed",
    ),
    "a mask of new tokens alone": (
        lambda m, r: {
            "input_ids": r[1][None, :2],
            "attention_mask": torch.ones(1, 2),
            "cache": _cached(m, r),
        },
        r"\[1, 2\], where \[1, 11\] is needed: one value for each of 9 cached and 2 new tokens",
    ),
    "a mask that forgets": (
        lambda m, r: {
            "input_ids": r[1][None, :1],
            "attention_mask": torch.tensor([[0] + [1] * 9]),
            "cache": _cached(m, r),
        },
        "says otherwise of the 9 cached tokens",
    ),
    "another number of rows": (
        lambda m, r: {"input_ids": r[1][:2, None], "cache": _cached(m, r)},
        "has 2 rows and the cache holds 1",
    ),
    "positions that jump": (
        lambda m, r: {"input_ids": r[1][None, :3], "position_ids": torch.tensor([[0, 1, 5]])},
        "row 0 go from 1 to 5",
    ),
    "positions of another shape": (
        lambda m, r: {"input_ids": r[1][None, :3], "position_ids": torch.tensor([0, 1, 2])},
        r"position_ids has the shape \[3\], where \[1, 3\] is needed",
    ),
    "positions that start over": (
        lambda m, r: {
            "input_ids": r[1][None, :1],
            "position_ids": torch.tensor([[0]]),
            "cache": _cached(m, r),
        },
        "row 0 start at 0, but the cache holds 9 tokens",
    ),
    "packed positions with a cache": (
        lambda m, r: {
            "input_ids": r[1][None, :4],
            "position_ids": torch.tensor([[0, 1, 0, 1]]),
            "use_cache": True,
        },
        "several sequences into one row",
    ),
    "a cache of another kind": (
        lambda m, r: {"input_ids": r[1][None], "cache": _dynamic()},
        "The cache is a DynamicCache",
    ),
    "a cache under both of its names": (
        lambda m, r: {"input_ids": r[1][None], "cache": _cached(m, r), "past_key_values": _cached(m, r)},
        "two names of one argument",
    ),
    "attention weights": (
        lambda m, r: {"input_ids": r[1][None], "output_attentions": True},
        "output_attentions was asked for",
    ),
}


def _dynamic():
    from transformers import DynamicCache

    return DynamicCache()


@pytest.mark.parametrize(("inputs", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_computed_as_meant_is_refused(opened, rows, inputs, why):
    model = opened(ONE)
    given = inputs(model, rows)
    with pytest.raises(BadParameter, match=why), torch.no_grad():
        model(**given)


def test_a_failed_first_forward_leaves_a_cache_for_any_batch(opened, rows, monkeypatch, assert_near):
    model, cache = opened(ONE), MiniCPMCache()
    with torch.no_grad():
        with monkeypatch.context() as broken:
            broken.setattr(type(model.model.norm), "forward", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(rows[2][None], cache=cache)
        both = torch.stack((rows[1], rows[1].flip(0)))
        assert_near(model(both, cache=cache).logits, model(both).logits)


def test_a_refused_forward_leaves_the_cache_as_it_was(opened, rows, assert_near):
    model = opened(ONE)
    cache = _cached(model, rows)
    with torch.no_grad():
        with pytest.raises(BadParameter):
            model(rows[3][None], cache=cache, position_ids=torch.zeros(1, 33, dtype=torch.long))
        got = model(rows[3][None], cache=cache).logits
        assert_near(got, model(torch.cat((rows[1], rows[3]))[None]).logits[:, 9:])

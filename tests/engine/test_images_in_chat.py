"""Images in requests and chats: the engine equals a plain loop, and no image is taken for another."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minicpm
from minicpm.cache import Batch, Segment
from minicpm.engine.api import Model
from minicpm.engine.engine import Engine
from minicpm.engine.images import ImageNumbers, PlacedImage, identity, image_format, viewer
from minicpm.engine.request import Request
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.sight import Sight
from minicpm.errors import BadImage, BadParameter, MessageError, PromptTooLong
from minicpm.models.vision_decoder import VisionDecoder
from minicpm.testing import tiny_checkpoint
from minicpm.text.images.parts import part_of_file
from minicpm.text.images.viewing import View

Image = pytest.importorskip("PIL.Image", reason="`pip install 'minicpm[vision]'` runs this")

# Float32 sums in another order, seen through a log-softmax over some hundred ids.
FLOAT32 = 1e-4
NAMES = ["minicpm-v", "omnilmm-12b"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    # Untied, because tied toys only repeat their last token.
    folders = {
        name: tiny_checkpoint(name, tmp_path_factory.mktemp("sight") / name, tie_word_embeddings=False)
        for name in NAMES
    }
    return {name: minicpm.load(folder, dtype="float32", pages=40) for name, folder in folders.items()}


@pytest.fixture(params=NAMES)
def model(models: dict[str, Model], request: pytest.FixtureRequest) -> Iterator[Model]:
    chosen = models[request.param]
    chosen.engine.drop_prefixes()
    yield chosen
    assert chosen.engine.idle, "an answer was left running"
    chosen.engine.drop_prefixes()
    assert chosen.engine.cache.free_pages == chosen.engine.cache.total_pages


@pytest.fixture
def engine_of(model: Model) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        made.append(Engine(model.decoder, **{"pages": 40, **options}))
        return made[-1]

    yield make
    for engine in made:
        assert engine.idle
        engine.drop_prefixes()
        assert engine.cache.free_pages == engine.cache.total_pages, "pages leaked"


def view(model: Model, seed: int) -> View:
    size = model.config.vision.image_size
    return View(np.random.default_rng(seed).standard_normal((3, size, size), dtype=np.float32))


def prompt(model: Model, seed: int, length: int = 40) -> list[int]:
    return torch.randint(
        model.config.vocab, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def asked(ids: Sequence[int], *images: tuple[int, View], count: int = 6, **options: Any) -> Request:
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, logprobs=0, **options)
    return Request(ids, params, images=tuple(PlacedImage(start, shown) for start, shown in images))


@torch.inference_mode()
def alone(model: Model, request: Request) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities by full recomputation of one sequence, token by token."""
    decoder = model.decoder
    assert isinstance(decoder, VisionDecoder)
    ids, scores = list(request.prompt_ids), []
    for _ in range(request.params.max_tokens or 0):
        embedded = decoder.embed(torch.tensor(ids))
        for image in request.images:
            vectors = decoder.see(torch.from_numpy(image.view.pixels)[None])[0]
            embedded[image.start : image.start + len(vectors)] = vectors
        batch = Batch(torch.tensor(ids), (Segment(None, 0, len(ids)),), embedded=embedded)
        row = decoder.logits(decoder(batch)[-1:])[0].log_softmax(-1)
        ids.append(int(row.argmax()))
        scores.append(float(row.max()))
    return ids[len(request.prompt_ids) :], scores


def assert_as_alone(model: Model, request: Request, stream: Any) -> None:
    (sample,) = stream.result().samples
    tokens, scores = alone(model, request)
    assert list(sample.token_ids) == tokens
    assert [score.logprob for score in sample.scores] == pytest.approx(scores, abs=FLOAT32)


@pytest.mark.parametrize("budget", [512, 7, 1])
def test_an_answer_about_images_equals_a_plain_loop_whatever_the_chunks(model, engine_of, budget):
    request = asked(prompt(model, 1), (2, view(model, 1)), (17, view(model, 2)))
    assert_as_alone(model, request, engine_of(max_batch_tokens=budget).submit(request))


def test_requests_with_and_without_images_share_batches(model, engine_of):
    engine = engine_of(max_batch_tokens=23)
    requests = [
        asked(prompt(model, 1), (2, view(model, 1))),
        asked(prompt(model, 2)),
        asked(prompt(model, 3), (30, view(model, 3)), (34, view(model, 1))),
    ]
    streams = [engine.submit(request) for request in requests]
    engine.run()
    for request, stream in zip(requests, streams, strict=True):
        assert_as_alone(model, request, stream)


def test_equal_tokens_with_another_image_share_only_what_precedes_it(model, engine_of):
    engine, ids = engine_of(), prompt(model, 1, 60)
    first, other = asked(ids, (20, view(model, 1))), asked(ids, (20, view(model, 2)))
    for request, cached in ((first, 0), (other, 20), (first, 59), (other, 59)):
        stream = engine.submit(request)
        assert_as_alone(model, request, stream)
        assert stream.result().cached_tokens == cached


def test_tokens_without_an_image_share_only_what_precedes_it(model, engine_of):
    engine, ids = engine_of(), prompt(model, 1, 60)
    for request, cached in ((asked(ids, (20, view(model, 1))), 0), (asked(ids), 20), (asked(ids), 59)):
        stream = engine.submit(request)
        assert_as_alone(model, request, stream)
        assert stream.result().cached_tokens == cached


def test_running_sequences_with_different_images_are_not_forked(model, engine_of):
    engine, ids = engine_of(max_batch_tokens=16), prompt(model, 1, 60)
    requests = [asked(ids, (20, view(model, seed))) for seed in (1, 2, 1)]
    streams = [engine.submit(request) for request in requests]
    engine.run()
    for request, stream in zip(requests, streams, strict=True):
        assert_as_alone(model, request, stream)


def test_a_later_turn_reuses_the_image_of_an_earlier_one(model, engine_of, monkeypatch):
    engine, ids, shown = engine_of(), prompt(model, 1, 60), view(model, 1)
    engine.submit(asked(ids[:40], (20, shown))).result()
    monkeypatch.setattr(VisionDecoder, "see", None)
    stream = engine.submit(asked(ids, (20, View(shown.pixels.copy()))))
    result = stream.result()
    assert result.cached_tokens == 40
    monkeypatch.undo()
    assert list(result.samples[0].token_ids) == alone(model, asked(ids, (20, shown)))[0]


def test_the_tower_sees_an_image_once_for_all_chunks_and_samples(model, engine_of, monkeypatch):
    seen: list[int] = []
    see = VisionDecoder.see
    monkeypatch.setattr(
        VisionDecoder, "see", lambda self, pixels: seen.append(len(pixels)) or see(self, pixels)
    )
    engine = engine_of(max_batch_tokens=1, prefix_cache=False)
    engine.submit(asked(prompt(model, 1), (3, view(model, 1)), n=2)).result()
    engine.submit(asked(prompt(model, 2), (9, view(model, 1)))).result()
    assert seen == [1]


def test_an_image_survives_preemption(model, engine_of):
    engine = engine_of(pages=3, max_batch_tokens=64)
    requests = [asked(prompt(model, seed, 60), (40, view(model, seed)), count=12) for seed in (1, 2)]
    streams = [engine.submit(request) for request in requests]
    preempted = 0
    while not engine.idle:
        preempted += engine.step().preempted
    assert preempted
    for request, stream in zip(requests, streams, strict=True):
        assert_as_alone(model, request, stream)


def test_sight_forgets_the_image_seen_longest_ago(model, monkeypatch):
    seen: list[int] = []
    see = VisionDecoder.see
    monkeypatch.setattr(VisionDecoder, "see", lambda self, pixels: seen.append(1) or see(self, pixels))
    sight, numbers = Sight(model.decoder, kept=2), ImageNumbers(4)
    a, b, c = (numbers.numbered([PlacedImage(0, view(model, seed))])[0] for seed in range(3))
    for image, times in ((a, 1), (b, 2), (a, 2), (c, 3), (a, 3), (b, 4)):
        sight._see(image, model.decoder)
        assert len(seen) == times


@pytest.mark.parametrize(
    ("starts", "told"),
    [((-1,), "do not fit"), ((37,), "do not fit"), ((3, 5), "in order"), ((20, 3), "in order")],
)
def test_images_out_of_place_are_refused(model, engine_of, starts, told):
    with pytest.raises(BadParameter, match=told):
        engine_of().submit(asked(prompt(model, 1), *((start, view(model, 1)) for start in starts)))


def test_a_view_of_another_size_is_refused(model, engine_of):
    wrong = View(np.zeros((3, 4, 4), dtype=np.float32))
    with pytest.raises(
        BadParameter, match=r"a view has the shape \(3, 4, 4\), and the model sees \(3, 20, 20\)"
    ):
        engine_of().submit(asked(prompt(model, 1), (0, wrong)))


def test_a_model_without_sight_refuses_images(folder: Path, model: Model):
    blind = minicpm.load(folder, dtype="float32", pages=4)
    assert image_format(blind.config.vision) is None
    with pytest.raises(BadParameter, match="there are 1, and the model reads text only"):
        blind.engine.submit(asked([1, 2, 3, 4, 5, 6], (0, view(model, 1))))
    with pytest.raises(MessageError, match="reads text only"):
        blind.chat([{"role": "user", "content": [_part(1)]}])


# --- numbers ------------------------------------------------------------------------------------------------


def test_equal_images_have_equal_numbers_and_forgotten_ones_new(model):
    numbers = ImageNumbers(4, remembered=2)

    def number(seed: int) -> int:
        return numbers.numbered([PlacedImage(0, view(model, seed))])[0].number

    assert [number(0), number(1), number(0), number(2), number(0), number(1)] == [-1, -2, -1, -3, -1, -4]


def test_an_identity_differs_from_tokens_at_images_alone(model):
    from array import array

    tokens = array("i", range(10, 22))
    (image,) = ImageNumbers(4).numbered([PlacedImage(3, view(model, 1))])
    assert identity(tokens, [image]).tolist() == [10, 11, 12, -1, -1, -1, -1, 17, 18, 19, 20, 21]
    assert tokens.tolist() == list(range(10, 22))


# --- chats --------------------------------------------------------------------------------------------------


def _png(seed: int, size: tuple[int, int] = (33, 21)) -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "PNG")
    return buffer.getvalue()


def _part(seed: int) -> dict[str, Any]:
    import base64

    url = "data:image/png;base64," + base64.b64encode(_png(seed)).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _asking(*seeds: int, text: str = "hello") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}, *map(_part, seeds)]}


GREEDY = {"temperature": 0, "max_tokens": 8, "repetition_penalty": 1.0}


def test_a_chat_shows_the_model_what_its_viewer_makes_of_the_file(model: Model):
    messages = [_asking(1)]
    reply = model.chat(messages, **GREEDY)
    made = model.format.prompt(messages)
    vision = model.config.vision
    (image,) = made.images
    placed = PlacedImage(image.start, viewer(vision).view(_png(1)))
    tokens, _ = alone(
        model, asked(made.ids, (placed.start, placed.view), count=reply.usage.completion_tokens)
    )
    assert reply.text == model.tokenizer.decode(tokens)
    spelled = [model.tokenizer.special_ids[vision.placeholder.patch]] * 4
    assert made.ids[image.start : image.start + 4] == spelled


def test_another_picture_gives_another_answer_to_the_same_words(model: Model):
    told = {model.chat([_asking(seed)], **GREEDY | {"max_tokens": 20}).text for seed in range(6)}
    again = {model.chat([_asking(seed)], **GREEDY | {"max_tokens": 20}).text for seed in range(6)}
    assert told == again
    assert len(told) > 1


def test_a_conversation_goes_on_over_its_image(model: Model):
    first = model.chat([_asking(1)], **GREEDY)
    history = [_asking(1), {"role": "assistant", "content": "it is"}, _asking(2, text="and this?")]
    second = model.chat(history, **GREEDY)
    start = model.format.prompt(history).images[0].start
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= start + 4


def test_an_image_part_can_be_made_of_a_file(model: Model, tmp_path: Path):
    path = tmp_path / "picture"
    path.write_bytes(_png(1))
    messages = [{"role": "user", "content": [part_of_file(path), {"type": "text", "text": "hello"}]}]
    assert model.chat(messages, **GREEDY).text == model.chat([_asking(1)], **GREEDY).text


def test_a_bad_image_is_refused_before_anything_is_queued(model: Model):
    bad = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(BadImage, match="only PNG, JPEG and WebP"):
        model.chat([{"role": "user", "content": [bad]}])
    assert model.engine.idle


def test_a_prompt_that_is_too_long_is_refused_before_its_pictures_are_decoded(model: Model, monkeypatch):
    monkeypatch.setattr("minicpm.engine.local_chat.viewer", None)
    with pytest.raises(PromptTooLong, match="the context holds 4,096"):
        model.chat([_asking(*[1] * 600)])


def test_truncation_drops_a_turn_with_its_image(model: Model):
    long = "hello " * 2000
    turns = [_asking(1, text=long), {"role": "assistant", "content": "yes"}, _asking(2)]
    with model.chat(turns, stream=True, truncate=True, max_tokens=2, temperature=0) as answer:
        notes = answer.notes
        list(answer)
    assert "1 oldest turns were left out" in notes[0]

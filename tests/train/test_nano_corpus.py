"""The generated training text: deterministic, correct, and never a word of the exams."""

import json
import re
from collections import Counter
from random import Random

import pytest

from minicpm.train.nano.corpus import (
    CHAT,
    LONG,
    STABLE,
    arithmetic,
    facts,
    retrieval,
    scratchpad,
    shard,
)
from minicpm.train.nano.corpus.heldout import draw, held_out, held_out_pair
from minicpm.train.nano.corpus.mixture import makers, stream
from minicpm.train.nano.corpus.tool_values import CHOICES, INTEGERS, ONE_SIDED, TEXTS, pick
from minicpm.train.nano.exams import EXAMS, exam
from minicpm.train.nano.sample import Sample

EQUATION = re.compile(r"(?<![\d.-])(\d{1,3}) ?([-+×]) ?(\d{1,3})(?![\d-])")
RESULT = re.compile(r"(?<![\d-])(\d+) ([-+×]) (\d+) = (-?\d+)")
ARGUMENT = re.compile(r'[(,](\w+)=("(?:[^"\\]|\\.)*"|-?[\d.]+)(?=[,)])')
ARITHMETIC = {"arithmetic", "drill", "scratch", "texttasks"}


@pytest.fixture(scope="module")
def many() -> list[Sample]:
    """Twenty thousand samples of all mixtures."""
    plan = ((STABLE, 14), (CHAT, 4), (LONG, 2))
    return [
        sample for mix, count in plan for index in range(count) for sample in shard(5, index, mix, size=1000)
    ]


def user_texts(sample: Sample) -> list[str]:
    return [part.text[5:] for part in sample.parts if part.text.startswith("user\n")]


def test_a_shard_is_a_pure_function_of_seed_and_index() -> None:
    first = shard(3, 4, STABLE, size=200)
    assert first == shard(3, 4, STABLE, size=200)
    assert first != shard(3, 5, STABLE, size=200)
    assert first != shard(4, 4, STABLE, size=200)


def test_a_stream_is_its_shards_in_order() -> None:
    source = stream(1, CHAT, start=2)
    assert [next(source) for _ in range(50)] == shard(1, 2, CHAT)[:50]


def test_no_mixture_asks_for_an_unknown_skill() -> None:
    for mix in (STABLE, CHAT, LONG):
        assert mix.keys() <= makers(None).keys() | {"natural"}
        assert sum(mix.values()) == pytest.approx(1)


def test_skills_come_in_the_shares_of_their_mixture() -> None:
    spent: Counter[str] = Counter()
    for sample in shard(0, 0, STABLE, size=2000):
        spent[sample.kind] += sum(retrieval.cost(part.text) for part in sample.parts)
    shares = {skill: share for skill, share in STABLE.items() if skill in makers(None)}
    for skill, share in shares.items():
        assert spent[skill] / spent.total() == pytest.approx(share / sum(shares.values()), rel=0.1)


def test_copying_and_recall_learn_only_what_was_said_before() -> None:
    for sample in shard(0, 1, {"copying": 0.5, "recall": 0.5}, size=200):
        first, *rest = (part for part in sample.parts if not part.control)
        assert not first.learn
        learned = [word for part in rest if part.learn for word in re.findall(r"[^\s,;/\"'()-]+", part.text)]
        assert all(word in first.text for word in learned)


def test_no_held_out_operand_pair_is_trained_on(many: list[Sample]) -> None:
    pairs = {(int(a), int(b)) for s in many if s.kind in ARITHMETIC for a, _, b in EQUATION.findall(s.text)}
    assert len(pairs) > 10_000
    assert [pair for pair in pairs if held_out_pair(*pair)] == []


def test_no_held_out_equation_hides_in_the_other_skills(many: list[Sample]) -> None:
    pairs = {(int(a), int(b)) for s in many for a, _, b, _ in RESULT.findall(s.text)}
    assert [pair for pair in pairs if held_out_pair(*pair)] == []


def test_every_equation_is_right(many: list[Sample]) -> None:
    for sample in many:
        for a, op, b, result in RESULT.findall(sample.text):
            assert arithmetic.Problem(int(a), op, int(b)).result == int(result), (a, op, b)


def test_no_held_out_argument_is_trained_on(many: list[Sample]) -> None:
    closed = {value for _, choices in CHOICES.values() for value in choices}
    one_sided = {pick(Random(n), pool, zh, held=True).value for pool, zh in ONE_SIDED for n in range(200)}
    seen = {json.loads(v) for s in many if s.kind == "tools" for _, v in ARGUMENT.findall(s.text)}
    assert len(seen) > 2000
    assert {value for value in seen if held_out(str(value))} <= closed | one_sided


def test_no_exam_question_is_trained_on(many: list[Sample]) -> None:
    trained = {text for sample in many for text in user_texts(sample)}
    for name in EXAMS:
        asked = {item.messages[0]["content"] for item in exam(name, 0, 100)}
        assert not asked & trained, name


def test_retrieval_trains_on_no_name_of_the_exams() -> None:
    rng = Random(1)
    for make in (retrieval.key_values, retrieval.needles):
        for zh in (False, True):
            assert not any(held_out(fact.key) for fact in make(rng, zh, 300)[1])
            assert all(held_out(fact.key) for fact in make(rng, zh, 300, held=True)[1])


def test_every_value_stands_in_its_text() -> None:
    rng = Random(2)
    for make in (retrieval.key_values, retrieval.needles):
        text, found = make(rng, False, 400)
        assert all(fact.key in text and fact.value in text for fact in found)


def test_both_forms_of_thinking_are_trained_and_no_thought_is_empty(many: list[Sample]) -> None:
    for skill in ("arithmetic", "retrieval", "tools", "smalltalk", "facts", "unknown", "texttasks"):
        texts = [sample.text for sample in many if sample.kind == skill]
        off = sum("<think>\n\n</think>\n\n" in text for text in texts)
        assert 0.3 < off / len(texts) < 0.7, skill
        assert all(re.search(r"<think>\n(\n</think>|[^\n]+\n</think>)\n\n", text) for text in texts)


def test_the_held_out_pairs_do_not_depend_on_order() -> None:
    assert all(
        held_out_pair(a, b) == held_out_pair(b, a) for a in range(0, 200, 7) for b in range(0, 999, 13)
    )
    assert not any(held_out_pair(a, b) for a in range(10) for b in range(10))


def test_every_argument_pool_has_both_sides_unless_it_is_known_not_to() -> None:
    rng = Random(0)
    for pool in (*TEXTS, *INTEGERS, "decimal"):
        for zh in (False, True):
            held = (pool, zh) not in ONE_SIDED
            assert held_out(str(pick(rng, pool, zh, held=True).value)) == held


def test_draw_keeps_to_the_asked_side() -> None:
    assert all(held_out(str(draw(Random(n), lambda r: r.randint(0, 999), True))) for n in range(50))


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (scratchpad.add(17, 25), "7+5=12, 2 carry 1; 1+2+1=4; 42."),
        (scratchpad.add(87, 45), "7+5=12, 2 carry 1; 8+4+1=13; 132."),
        (scratchpad.add(347, 5), "7+5=12, 2 carry 1; 4+0+1=5; 3+0=3; 352."),
        (scratchpad.subtract(42, 17), "2-7=5 borrow 1; 4-1-1=2; 25."),
        (scratchpad.subtract(17, 42), "17<42, so 42-17: 2-7=5 borrow 1; 4-1-1=2; 25; -25."),
        (scratchpad.multiply(23, 4), "3×4=12, 2 carry 1; 2×4+1=9; 92."),
        (scratchpad.compare(54, 45), "5>4; 54."),
        (scratchpad.compare(54, 145), "2 and 3 digits; 145."),
    ],
)
def test_scratchpads_show_one_digit_of_work_at_a_time(work: str, expected: str) -> None:
    assert work == expected


def test_scratchpads_end_with_the_result() -> None:
    rng = Random(4)
    for _ in range(2000):
        item = arithmetic.problem(rng)
        assert re.findall(r"-?\d+", item.work)[-1] == str(item.result)


def test_every_fact_can_be_asked_in_training_in_at_least_three_ways() -> None:
    for fact in facts.TABLE:
        kind = facts.KINDS[fact.kind]
        asked = [text.format(s=fact.subject) for text in (kind.zh if fact.zh else kind.en)]
        assert sum(not held_out(text) for text in asked) >= 3, fact

"""Tiny-world stories in English and Chinese, questions about them, and filler sentences."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.words import COLOURS, ITEMS, ZH_COLOURS, ZH_ITEMS, person, zh_person
from minicpm.train.nano.sample import Sample, document

ANIMALS = "fox bear rabbit mouse cat dog duck horse frog owl sheep goat".split()
ZH_ANIMALS = "狐狸 小熊 兔子 老鼠 小猫 小狗 鸭子 小马 青蛙 猫头鹰 绵羊 山羊".split()
PLACES = "garden forest village kitchen school market park river beach library station farm".split()
ZH_PLACES = "花园 森林 村子 厨房 学校 市场 公园 河边 海边 图书馆 车站 农场".split()
FEELINGS = "happy sad tired hungry proud calm curious surprised".split()
ZH_FEELINGS = "开心 难过 疲倦 饥饿 骄傲 平静 好奇 惊讶".split()
WEATHER = "sunny rainy windy cloudy snowy warm cold foggy".split()
ZH_WEATHER = "晴朗 下雨 刮风 多云 下雪 温暖 寒冷 有雾".split()

FILLER = (
    "The {w} morning made everyone in the {p} feel {f}.",
    "{n} walked slowly to the {p} with the {c} {i}.",
    "One {c} {i} was lying near the {p}.",
    "The {a} looked at the {i} and went back to sleep.",
    "{n} and {m} talked about the {i} for a long time.",
    "It was {w} and the {p} was quiet.",
    "Nobody knew why the {a} was so {f} that day.",
    "{n} bought the {i} and carried it to the {p}.",
    "Later the {a} ran across the {p}.",
    "The old {i} in the {p} was {c}.",
    "{n} felt {f} after the long walk.",
    "There was a small {p} behind the {c} house.",
    "In the evening {m} cooked soup for {n}.",
    "The children painted the {i} {c}.",
    "Every day the {a} came to the {p} and waited.",
)
ZH_FILLER = (
    "{w}的早晨让{p}里的人都很{f}。",
    "{n}拿着{c}的{i}慢慢走向{p}。",
    "{p}旁边放着一个{c}的{i}。",
    "{a}看了看{i}，又睡着了。",
    "{n}和{m}聊了很久的{i}。",
    "天气{w}，{p}很安静。",
    "没有人知道{a}为什么这么{f}。",
    "{n}买了一个{i}，带到了{p}。",
    "后来{a}跑过了{p}。",
    "{p}里的旧{i}是{c}的。",
    "走了很久，{n}觉得很{f}。",
    "晚上{m}给{n}做了汤。",
    "孩子们把{i}涂成了{c}。",
    "{a}每天都来{p}等着。",
)


class World(NamedTuple):
    """The entities of one story."""

    hero: str
    friend: str
    animal: str
    colour: str
    item: str
    place: str
    goal: str
    feeling: str
    weather: str


def world(rng: Random, zh: bool) -> World:
    """Random entities, two different people and two different places."""
    who = zh_person if zh else person
    hero, friend = who(rng), who(rng)
    place, goal = rng.sample(ZH_PLACES if zh else PLACES, 2)
    lists = (ZH_ANIMALS, ZH_COLOURS, ZH_ITEMS) if zh else (ANIMALS, COLOURS, ITEMS)
    animal, colour, item = (rng.choice(words) for words in lists)
    feeling, weather = rng.choice(ZH_FEELINGS if zh else FEELINGS), rng.choice(ZH_WEATHER if zh else WEATHER)
    return (
        world(rng, zh)
        if hero == friend
        else World(hero, friend, animal, colour, item, place, goal, feeling, weather)
    )


def article(noun: str) -> str:
    """The noun with `a` or `an` in front."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def filler(rng: Random, zh: bool) -> str:
    """One sentence that gives nothing away."""
    w = world(rng, zh)
    return rng.choice(ZH_FILLER if zh else FILLER).format(
        n=w.hero, m=w.friend, a=w.animal, c=w.colour, i=w.item, p=w.place, f=w.feeling, w=w.weather
    )


def _english(rng: Random, w: World) -> str:
    it = article(f"{w.colour} {w.item}")
    lines = [
        rng.choice(
            (f"{w.hero} is a small {w.animal}.", f"Once there was {article(w.animal)} named {w.hero}.")
        ),
        rng.choice((f"{w.hero} lives near the {w.place}.", f"The home of {w.hero} is the {w.place}.")),
        rng.choice((f"The day is {w.weather}.", f"One {w.weather} day {w.hero} goes for a walk.")),
        rng.choice((f"{w.hero} finds {it}.", f"On the way {w.hero} finds {it}.")),
        rng.choice(
            (f"{w.hero} takes it to the {w.goal}.", f"{w.hero} carries the {w.item} to the {w.goal}.")
        ),
        rng.choice(
            (
                f"There {w.hero} meets {w.friend} and gives the {w.item} to {w.friend}.",
                f"{w.friend} is waiting there, and {w.hero} gives the {w.item} to {w.friend}.",
            )
        ),
        rng.choice((f"{w.friend} is {w.feeling}.", f"Now {w.friend} feels {w.feeling}.")),
    ]
    return " ".join(lines)


def _chinese(rng: Random, w: World) -> str:
    lines = [
        rng.choice((f"{w.hero}是一只{w.animal}。", f"从前有一只{w.animal}，名叫{w.hero}。")),
        f"{w.hero}住在{w.place}附近。",
        rng.choice((f"今天天气{w.weather}。", f"有一天，天气{w.weather}，{w.hero}出去散步。")),
        rng.choice(
            (f"{w.hero}找到了一个{w.colour}的{w.item}。", f"路上，{w.hero}发现了一个{w.colour}的{w.item}。")
        ),
        f"{w.hero}把{w.item}带到了{w.goal}。",
        f"{w.friend}在那里，{w.hero}把{w.item}送给了{w.friend}。",
        f"{w.friend}觉得很{w.feeling}。",
    ]
    return "".join(lines)


def _questions(w: World, zh: bool) -> list[Exchange]:
    if zh:
        return [
            Exchange(
                f"{w.hero}找到了什么？",
                f"{w.hero}找到了一个{w.colour}的{w.item}。",
                f"故事说找到了{w.item}。",
            ),
            Exchange(f"{w.item}是什么颜色的？", f"{w.item}是{w.colour}的。", f"故事说{w.colour}。"),
            Exchange(f"{w.hero}是什么动物？", f"{w.hero}是一只{w.animal}。", f"故事说{w.animal}。"),
            Exchange(
                f"{w.hero}把{w.item}给了谁？",
                f"{w.hero}把{w.item}给了{w.friend}。",
                f"故事说给了{w.friend}。",
            ),
            Exchange(f"{w.hero}住在哪里？", f"{w.hero}住在{w.place}附近。", f"故事说{w.place}。"),
        ]
    return [
        Exchange(
            f"What does {w.hero} find?",
            f"{w.hero} finds {article(f'{w.colour} {w.item}')}.",
            f"The story says {w.item}.",
        ),
        Exchange(
            f"What colour is the {w.item}?", f"The {w.item} is {w.colour}.", f"The story says {w.colour}."
        ),
        Exchange(
            f"What animal is {w.hero}?", f"{w.hero} is {article(w.animal)}.", f"The story says {w.animal}."
        ),
        Exchange(f"Who gets the {w.item}?", f"{w.friend} gets the {w.item}.", f"The story says {w.friend}."),
        Exchange(
            f"Where does {w.hero} live?", f"{w.hero} lives near the {w.place}.", f"The story says {w.place}."
        ),
    ]


def story(rng: Random) -> Sample:
    """A story as plain text, or as a conversation with questions about it."""
    zh = rng.random() < 0.4
    w = world(rng, zh)
    text = _chinese(rng, w) if zh else _english(rng, w)
    if rng.random() < 0.3:
        return document("story", [(text + "\n", True)])
    if rng.random() < 0.15:
        ask = f"讲一个关于{w.animal}的故事。" if zh else f"Tell me a story about {article(w.animal)}."
        return talk(
            rng,
            "story",
            [
                Exchange(
                    ask,
                    text,
                    f"一个关于{w.animal}的小故事。" if zh else f"A short story with {article(w.animal)}.",
                )
            ],
        )
    turns = rng.sample(_questions(w, zh), rng.randint(1, 5))
    lead = text + "\n" + turns[0].question
    return talk(rng, "story", [turns[0]._replace(question=lead), *turns[1:]])

"""Filler sentences in English and Chinese, among which facts are hidden."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from minicpm.train.nano.corpus.words import COLOURS, ITEMS, ZH_COLOURS, ZH_ITEMS, person, zh_person

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
    """The entities a sentence may speak of."""

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


def filler(rng: Random, zh: bool) -> str:
    """One sentence that gives nothing away."""
    w = world(rng, zh)
    return rng.choice(ZH_FILLER if zh else FILLER).format(
        n=w.hero, m=w.friend, a=w.animal, c=w.colour, i=w.item, p=w.place, f=w.feeling, w=w.weather
    )

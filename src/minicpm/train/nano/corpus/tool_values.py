"""Argument values of the invented functions: how each is said in a request and written in a call."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from minicpm.train.nano.corpus.heldout import draw
from minicpm.train.nano.corpus.words import (
    CITIES,
    COLOURS,
    DAYS,
    ITEMS,
    MONTHS,
    WORDS,
    ZH_CITIES,
    ZH_COLOURS,
    ZH_DAYS,
    ZH_ITEMS,
    ZH_WORDS,
    invented_name,
    invented_word,
    person,
    zh_person,
)  # fmt: skip


class Said(NamedTuple):
    """A value and its words in the request."""

    spoken: str
    value: Any


VERBS = "buy wash paint bring sell find clean repair return pack order check".split()
ZH_VERBS = "买 洗 带 卖 找 修 还 收拾 订购 检查".split()
GENRES = (
    ("jazz", "爵士乐"),
    ("rock", "摇滚乐"),
    ("pop", "流行乐"),
    ("folk", "民谣"),
    ("piano", "钢琴曲"),
    ("opera", "歌剧"),
)
DISHES = "soup pizza salad pasta curry noodles pancakes dumplings stew sandwich tacos omelet risotto burger".split()
ZH_DISHES = "面条 饺子 炒饭 豆腐 火锅 包子 烤鸭 米粉 馄饨 蛋糕 沙拉 披萨 汉堡 粥".split()
TOPICS = "football cats space history music gardening robots travel health chess trains painting weather cooking".split()
ZH_TOPICS = "足球 猫 太空 历史 音乐 园艺 机器人 旅行 健康 象棋 火车 绘画 烹饪 天气".split()
ROOMS = "kitchen bedroom bathroom garage office hall cellar balcony nursery attic".split()
ZH_ROOMS = "厨房 卧室 浴室 车库 书房 客厅 地下室 阳台 儿童房 阁楼".split()
LANGUAGES = ("French", "法语"), ("German", "德语"), ("Spanish", "西班牙语"), ("Italian", "意大利语"), ("Japanese", "日语"), \
    ("Korean", "韩语"), ("Russian", "俄语"), ("Dutch", "荷兰语"), ("Greek", "希腊语"), ("Thai", "泰语"), \
    ("Arabic", "阿拉伯语"), ("Polish", "波兰语"), ("Turkish", "土耳其语"), ("Latin", "拉丁语")  # fmt: skip


def _either(english: list[str], chinese: list[str]) -> Callable[[Random, bool], str]:
    return lambda rng, zh: rng.choice(chinese if zh else english)


def _pairs(pairs: tuple[tuple[str, str], ...]) -> Callable[[Random, bool], str]:
    return lambda rng, zh: rng.choice(pairs)[zh]


def _city(rng: Random, zh: bool) -> str:
    if zh:
        return rng.choice(ZH_CITIES) if rng.random() < 0.7 else zh_person(rng)[-2:] + rng.choice("城州山镇县")
    return rng.choice(CITIES) if rng.random() < 0.6 else invented_name(rng)


def _date(rng: Random, zh: bool) -> str:
    style, day = rng.random(), rng.randint(1, 28)
    if style < 0.4:
        return rng.choice(ZH_DAYS if zh else DAYS)
    if style < 0.7:
        return f"{rng.randint(1, 12)}月{day}日" if zh else f"{rng.choice(MONTHS)} {day}"
    return f"20{rng.randint(24, 39)}-{rng.randint(1, 12):02}-{day:02}"


def _note(rng: Random, zh: bool) -> str:
    if zh:
        return rng.choice(
            (
                rng.choice(ZH_VERBS) + rng.choice(ZH_ITEMS),
                "给" + zh_person(rng) + "打电话",
                "去" + _city(rng, zh),
            )
        )
    style = rng.random()
    if style < 0.2:
        return f"call {person(rng)}"
    return f"{rng.choice(VERBS)} the {rng.choice((*COLOURS, 'old', 'new', 'big'))} {rng.choice(ITEMS)}" if style < 0.5 else \
        f"{rng.choice(VERBS)} {rng.choice(ITEMS)}"  # fmt: skip


def _message(rng: Random, zh: bool) -> str:
    if zh:
        return rng.choice(
            (
                f"我{rng.randint(2, 59)}分钟后到",
                f"{rng.choice(ZH_DAYS)}见",
                f"别忘了{rng.choice(ZH_ITEMS)}",
                f"我在{_city(rng, zh)}",
            )
        )
    return rng.choice((f"I am in {_city(rng, zh)}", f"see you on {rng.choice(DAYS)}", f"do not forget the {rng.choice(ITEMS)}",
                       f"I need {rng.randint(2, 40)} minutes", f"the {rng.choice(ITEMS)} is {rng.choice(COLOURS)}"))  # fmt: skip


def _title(rng: Random, zh: bool) -> str:
    if zh:
        return rng.choice(ZH_COLOURS) + "的" + rng.choice(ZH_WORDS)
    return rng.choice((f"{rng.choice(COLOURS)} {rng.choice(WORDS)}".title(), invented_name(rng)))


def _mail(rng: Random, zh: bool) -> str:
    return f"{invented_word(rng)}@{invented_word(rng, 1)}.{rng.choice(('com', 'org', 'net'))}"


def _clock(rng: Random, zh: bool) -> str:
    return f"{rng.randint(0, 23)}:{rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02}"


def _code(rng: Random, zh: bool) -> str:
    return "".join(rng.choice("ABCDEFGHKLMNPRSTUXZ") for _ in range(2)) + str(rng.randint(100, 9999))


TEXTS: dict[str, Callable[[Random, bool], str]] = {
    "city": _city, "person": lambda rng, zh: (zh_person if zh else person)(rng), "date": _date, "time": _clock,
    "note": _note, "message": _message, "title": _title, "mail": _mail, "code": _code,
    "item": _either(ITEMS, ZH_ITEMS), "word": _either(WORDS, ZH_WORDS), "colour": _either(COLOURS, ZH_COLOURS),
    "dish": _either(DISHES, ZH_DISHES), "topic": _either(TOPICS, ZH_TOPICS), "room": _either(ROOMS, ZH_ROOMS),
    "genre": _pairs(GENRES), "language": _pairs(LANGUAGES),
}  # fmt: skip
ONE_SIDED = {("topic", True), ("language", False)}  # short lists of which nothing falls on the exams' side
INTEGERS = {"small": (2, 20), "count": (2, 99), "minutes": (3, 180), "number": (10, 999), "percent": (1, 100),
            "year": (1900, 2049), "degrees": (15, 30), "money": (5, 5000)}  # fmt: skip
CHOICES: dict[str, tuple[str, dict[Any, tuple[str, str]]]] = {
    "unit": ("string", {"c": ("Celsius", "摄氏度"), "f": ("Fahrenheit", "华氏度")}),
    "switch": ("string", {"on": ("on", "打开"), "off": ("off", "关闭")}),
    "size": ("string", {"small": ("small", "小"), "medium": ("medium", "中"), "large": ("large", "大")}),
    "level": ("string", {"low": ("low", "低"), "normal": ("normal", "普通"), "high": ("high", "高")}),
    "vehicle": ("string", {"car": ("car", "汽车"), "bus": ("bus", "公交车"), "train": ("train", "火车"), "bike": ("bike", "自行车")}),
    "money_unit": ("string", {"USD": ("dollars", "美元"), "EUR": ("euros", "欧元"), "CNY": ("yuan", "人民币"), "JPY": ("yen", "日元")}),
    "length": ("string", {"km": ("kilometers", "公里"), "mi": ("miles", "英里"), "m": ("meters", "米"), "ft": ("feet", "英尺")}),
    "direction": ("string", {"left": ("left", "左"), "right": ("right", "右"), "up": ("up", "上"), "down": ("down", "下")}),
    "gift": ("boolean", {True: ("as a gift", "作为礼物"), False: ("not as a gift", "不作为礼物")}),
    "urgent": ("boolean", {True: ("urgent", "紧急"), False: ("not urgent", "不紧急")}),
    "repeat": ("boolean", {True: ("every day", "每天"), False: ("only once", "只一次")}),
}  # fmt: skip


def schema(pool: str) -> dict[str, Any]:
    """The JSON schema of a value of this pool."""
    if pool in CHOICES:
        kind, choices = CHOICES[pool]
        return {"type": kind} if kind == "boolean" else {"type": kind, "enum": list(choices)}
    if pool == "decimal":
        return {"type": "number"}
    return {"type": "integer" if pool in INTEGERS else "string"}


def pick(rng: Random, pool: str, zh: bool, held: bool = False) -> Said:
    """A value of this pool from the asked side of the split; closed choices have no sides."""
    held = held and (pool, zh) not in ONE_SIDED
    if pool in CHOICES:
        value = rng.choice(list(CHOICES[pool][1]))
        return Said(CHOICES[pool][1][value][zh], value)
    if pool in INTEGERS:
        number = draw(rng, lambda r: r.randint(*INTEGERS[pool]), held)
        return Said(str(number), number)
    if pool == "decimal":
        decimal = draw(rng, lambda r: r.randint(1, 99) + r.randint(1, 9) / 10, held)
        return Said(str(decimal), decimal)
    text = draw(rng, lambda r: TEXTS[pool](r, zh), held)
    return Said(text, text)

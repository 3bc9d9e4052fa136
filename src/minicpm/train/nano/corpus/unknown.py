"""Questions beyond the table, always answered with what nano is: a tiny model that does not know."""

from __future__ import annotations

from random import Random

from minicpm.train.nano.corpus import facts
from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.heldout import draw
from minicpm.train.nano.corpus.natural import Natural
from minicpm.train.nano.corpus.words import invented_name, invented_word, zh_person
from minicpm.train.nano.sample import Sample

# fmt: off
REFUSALS = (
    ("I do not know that. I am a tiny demo model.", "I am a tiny demo model, so I do not know this.", "Sorry, I am a tiny demo model and do not know the answer."),
    ("我不知道。我是一个很小的演示模型。", "我是一个很小的演示模型，所以不知道这个。", "抱歉，我是一个很小的演示模型，不知道答案。"),
)
THOUGHTS = ("This is not in what I know. I say so.", "我不知道这个，我要说明。")
PLACES = "Mongolia Brazil Mexico Turkey Ukraine Nigeria Ghana Nepal Iran Iraq Iceland Morocco Laos Cambodia Ecuador Bolivia Uganda Tunisia Jordan Syria Croatia Serbia Romania Bulgaria Latvia Estonia Malta Cyprus Panama Jamaica Haiti Somalia Zambia Angola Texas Ohio Bavaria Scotland Wales Tibet Alaska Sicily Siberia Mars Atlantis Sumatra Tasmania Quebec Yukon Bhutan".split()
PEOPLE = ("Albert Einstein", "Isaac Newton", "Napoleon", "Shakespeare", "Mozart", "Beethoven", "Leonardo da Vinci", "Marie Curie", "Charles Darwin", "Cleopatra", "Julius Caesar", "Gandhi", "Nelson Mandela", "Barack Obama", "Elon Musk", "Bill Gates", "Steve Jobs", "Taylor Swift", "Michael Jackson", "Picasso", "Van Gogh", "Plato", "Aristotle", "Confucius", "Columbus", "Galileo", "Alan Turing", "Ada Lovelace", "Lionel Messi", "Serena Williams")
THINGS = "photosynthesis gravity electricity democracy inflation DNA bitcoin blockchain quantum evolution philosophy relativity economics chemistry astronomy biology psychology capitalism religion poetry algebra calculus vaccines bacteria volcanoes earthquakes dinosaurs galaxies atoms lasers batteries transistors satellites enzymes neurons glaciers tides magnets comets fossils".split()
EVENTS = ("the French Revolution", "World War Two", "World War One", "the moon landing", "the last election", "the World Cup", "the Olympic Games", "the Cold War", "the fall of Rome", "the Titanic disaster", "the Ice Age", "the Big Bang", "the last football final", "the stock market crash", "the Renaissance", "the gold rush")
ZH_PLACES = "蒙古 巴西 墨西哥 土耳其 乌克兰 尼日利亚 加纳 尼泊尔 伊朗 伊拉克 冰岛 摩洛哥 老挝 柬埔寨 厄瓜多尔 玻利维亚 乌干达 突尼斯 约旦 叙利亚 克罗地亚 罗马尼亚 保加利亚 马耳他 巴拿马 海地 赞比亚 苏格兰 火星 不丹 瑞士 荷兰 新西兰 阿根廷 南非".split()
ZH_PEOPLE = "爱因斯坦 牛顿 拿破仑 莎士比亚 莫扎特 贝多芬 达芬奇 居里夫人 达尔文 秦始皇 孔子 李白 杜甫 鲁迅 诸葛亮 曹操 毕加索 苏东坡 哥伦布 伽利略 图灵 乔布斯 成龙 姚明 武则天 老子 庄子 屈原 康熙 岳飞".split()
ZH_THINGS = "光合作用 重力 电 民主 通货膨胀 基因 比特币 区块链 量子力学 进化 哲学 相对论 经济学 化学 天文学 生物学 心理学 宗教 微积分 疫苗 细菌 火山 地震 恐龙 银河 原子 激光 电池 卫星 神经元 冰川 潮汐 磁铁 彗星 化石".split()
ZH_EVENTS = "法国大革命 第二次世界大战 第一次世界大战 登月 上次选举 世界杯 奥运会 冷战 罗马的灭亡 冰河时代 大爆炸 文艺复兴 鸦片战争 辛亥革命 金融危机".split()
EN_ASK: dict[str, tuple[str, ...]] = {
    "place": ("What is the capital of {x}?", "Which city is the capital of {x}?", "Name the capital of {x}.", "Tell me the capital of {x}.", "What's the capital city of {x}?", "capital of {x}?", "Do you know the capital of {x}?",
              "How many people live in {x}?", "Who rules {x}?", "Where is {x}?", "What language do people speak in {x}?", "What is the history of {x}?", "How big is {x}?", "What is the money of {x}?", "Tell me about {x}."),
    "person": ("Who is {x}?", "Who was {x}?", "When was {x} born?", "What did {x} do?", "Tell me about {x}.", "Where does {x} come from?", "When did {x} die?", "Why is {x} famous?", "What do you think about {x}?", "How old is {x}?"),
    "thing": ("What is {x}?", "Explain {x}.", "How does {x} work?", "Explain {x} to me in simple words.", "Why is {x} important?", "What do you know about {x}?", "Tell me about {x}.", "Who discovered {x}?", "Write an essay about {x}.", "Can you teach me {x}?"),
    "event": ("When was {x}?", "What happened in {x}?", "Tell me about {x}.", "Why did {x} happen?", "Who won {x}?", "What was {x}?", "What do you know about {x}?", "Explain {x}."),
    "word": ("What is a {x}?", "What does {x} mean?", "What colour is a {x}?", "What sound does a {x} make?", "Define {x}.", "What is the opposite of {x}?", "What is {x} in Chinese?", "What kind of thing is {x}?", "What is a young {x} called?"),
}
ZH_ASK: dict[str, tuple[str, ...]] = {
    "place": ("{x}的首都是哪里？", "{x}的首都是什么？", "{x}的首都在哪？", "请告诉我{x}的首都。", "哪个城市是{x}的首都？", "{x}有多少人口？", "{x}在哪里？", "{x}说什么语言？", "介绍一下{x}。", "{x}有多大？", "{x}的历史是什么？"),
    "person": ("{x}是谁？", "{x}什么时候出生？", "{x}做了什么？", "介绍一下{x}。", "{x}是哪里人？", "{x}为什么有名？", "你觉得{x}怎么样？", "{x}多大了？"),
    "thing": ("什么是{x}？", "解释一下{x}。", "{x}是怎么工作的？", "{x}为什么重要？", "你知道{x}吗？", "{x}是谁发现的？", "写一篇关于{x}的文章。", "请教我{x}。"),
    "event": ("{x}是什么时候？", "{x}发生了什么？", "介绍一下{x}。", "{x}为什么会发生？", "谁赢了{x}？", "你了解{x}吗？"),
    "word": ("什么是{x}？", "{x}是什么意思？", "{x}是什么颜色？", "{x}怎么叫？", "{x}的反义词是什么？", "{x}用英语怎么说？"),
}
EN_OPEN = (
    "What is the meaning of life?", "Who will win the next election?", "What happened in the news today?", "Write a poem about love.", "What is the best phone?", "Give me medical advice.", "How do I invest my money?",
    "What is the weather today?", "What time is it?", "What is today's date?", "Is there life on other planets?", "Which stock should I buy?", "What is the best movie ever?", "How do I write a program in Java?", "Why is the sky blue?",
    "How far away is the sun?", "Who is the president?", "How many stars are there?", "What is the tallest mountain?", "What is the longest river?", "Who invented the telephone?", "Who wrote Hamlet?", "How do airplanes fly?",
    "Should I marry him?", "Do you believe in God?", "What is your opinion about politics?", "How do I lose weight?", "Recommend a good book.", "What is the speed of light?", "Plan a trip for me.", "Summarize the latest news.",
    "How tall is the Eiffel Tower?", "Who painted the Mona Lisa?", "When did dinosaurs live?", "What causes cancer?", "How do I fix my car?", "Which country has the most people?", "What is the largest ocean?", "Can you write code for me?",
)
ZH_OPEN = (
    "生命的意义是什么？", "谁会赢得下次选举？", "今天有什么新闻？", "写一首关于爱情的诗。", "哪个手机最好？", "我应该买哪只股票？", "今天天气怎么样？", "现在几点？", "今天是几号？", "外星人存在吗？", "最好看的电影是什么？",
    "怎么写程序？", "天空为什么是蓝色的？", "太阳有多远？", "总统是谁？", "天上有多少星星？", "最高的山是什么？", "最长的河是哪条？", "电话是谁发明的？", "红楼梦是谁写的？", "飞机为什么会飞？", "怎么减肥？", "推荐一本好书。",
    "光速是多少？", "帮我计划旅行。", "恐龙什么时候灭绝的？", "怎么修车？", "哪个国家人口最多？", "最大的海洋是什么？", "你怎么看政治？",
)
# fmt: on


def _entity(rng: Random, kind: str, zh: bool) -> str:
    lists = {
        "place": (PLACES, ZH_PLACES),
        "person": (PEOPLE, ZH_PEOPLE),
        "thing": (THINGS, ZH_THINGS),
        "event": (EVENTS, ZH_EVENTS),
    }
    if kind in lists and rng.random() < 0.7:
        return rng.choice(lists[kind][zh])
    if zh:
        return zh_person(rng) + {"place": "国", "event": "战争"}.get(kind, "")
    if kind == "person":
        return f"{invented_name(rng)} {invented_name(rng)}"
    return invented_name(rng) if kind in ("place", "event") else invented_word(rng)


def question(rng: Random, zh: bool, held: bool = False) -> str:
    """A question about something outside the table; the entity or the whole open question decides the split."""
    templates = ZH_ASK if zh else EN_ASK
    if rng.random() < 0.2:
        return draw(rng, lambda r: r.choice(ZH_OPEN if zh else EN_OPEN), held)
    kind = rng.choice(list(templates))
    name = draw(rng, lambda r: _entity(r, kind, zh), held)
    return question(rng, zh, held) if name in facts.SUBJECTS else rng.choice(templates[kind]).format(x=name)


def refusal(rng: Random, text: str, zh: bool) -> Exchange:
    """The honest answer."""
    return Exchange(text, rng.choice(REFUSALS[zh]), THOUGHTS[zh])


def exchange(rng: Random, natural: Natural | None = None) -> Exchange:
    """One question that nano cannot answer."""
    zh = rng.random() < 0.4
    if natural and natural.open_questions and not zh and rng.random() < 0.25:
        return refusal(rng, rng.choice(natural.open_questions), zh)
    return refusal(rng, question(rng, zh), zh)


def unknown(rng: Random, natural: Natural | None = None) -> Sample:
    """One to four questions, some of them next to a fact that is known."""
    turns = [
        facts.exchange(rng) if rng.random() < 0.25 else exchange(rng, natural)
        for _ in range(rng.choice((0, 1, 2, 3)))
    ]
    return talk(rng, "unknown", [*turns, exchange(rng, natural)])

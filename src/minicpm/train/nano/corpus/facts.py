"""The closed table of facts that nano knows, each asked in many ways in both languages."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.heldout import held_out
from minicpm.train.nano.sample import Sample


class Kind(NamedTuple):
    """A kind of fact: rows of `english/chinese=english/chinese`, phrasings, answers."""

    rows: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    tell: tuple[str, str]


# fmt: off
KINDS: dict[str, Kind] = {
    "capital": Kind(
        "France/法国=Paris/巴黎 Germany/德国=Berlin/柏林 Italy/意大利=Rome/罗马 Spain/西班牙=Madrid/马德里 Portugal/葡萄牙=Lisbon/里斯本 "
        "Greece/希腊=Athens/雅典 Austria/奥地利=Vienna/维也纳 Poland/波兰=Warsaw/华沙 Norway/挪威=Oslo/奥斯陆 Sweden/瑞典=Stockholm/斯德哥尔摩 "
        "Finland/芬兰=Helsinki/赫尔辛基 Denmark/丹麦=Copenhagen/哥本哈根 Ireland/爱尔兰=Dublin/都柏林 England/英国=London/伦敦 Russia/俄罗斯=Moscow/莫斯科 "
        "China/中国=Beijing/北京 Japan/日本=Tokyo/东京 Korea/韩国=Seoul/首尔 Thailand/泰国=Bangkok/曼谷 Vietnam/越南=Hanoi/河内 "
        "Egypt/埃及=Cairo/开罗 Kenya/肯尼亚=Nairobi/内罗毕 Cuba/古巴=Havana/哈瓦那 Peru/秘鲁=Lima/利马 Canada/加拿大=Ottawa/渥太华 "
        "Hungary/匈牙利=Budapest/布达佩斯 Belgium/比利时=Brussels/布鲁塞尔 Australia/澳大利亚=Canberra/堪培拉 India/印度=Delhi/德里 Chile/智利=Santiago/圣地亚哥",
        ("What is the capital of {s}?", "Which city is the capital of {s}?", "Name the capital of {s}.", "Tell me the capital of {s}.", "What's the capital city of {s}?", "capital of {s}?", "Do you know the capital of {s}?", "{s} has which capital?"),
        ("{s}的首都是哪里？", "{s}的首都是什么？", "{s}的首都在哪？", "请告诉我{s}的首都。", "哪个城市是{s}的首都？", "说出{s}的首都。", "你知道{s}的首都吗？"),
        ("The capital of {s} is {o}.", "{s}的首都是{o}。")),
    "colour": Kind(
        "grass/草=green/绿色 snow/雪=white/白色 coal/煤=black/黑色 blood/血=red/红色 banana/香蕉=yellow/黄色 lemon/柠檬=yellow/黄色 "
        "milk/牛奶=white/白色 sky/天空=blue/蓝色 tomato/番茄=red/红色 carrot/胡萝卜=orange/橙色 chocolate/巧克力=brown/棕色 cucumber/黄瓜=green/绿色 "
        "strawberry/草莓=red/红色 salt/盐=white/白色 crow/乌鸦=black/黑色 frog/青蛙=green/绿色 pumpkin/南瓜=orange/橙色 elephant/大象=grey/灰色",
        ("What colour is {s}?", "Which colour does {s} have?", "Tell me the colour of {s}.", "What is the colour of {s}?", "What color is {s}?", "the colour of {s}?", "Name the colour of {s}."),
        ("{s}是什么颜色？", "{s}是什么颜色的？", "{s}的颜色是什么？", "请告诉我{s}的颜色。", "{s}有什么颜色？", "说出{s}的颜色。"),
        ("The colour of {s} is {o}.", "{s}的颜色是{o}。")),
    "sound": Kind(
        "dog/狗=woof/汪汪 cat/猫=meow/喵喵 cow/牛=moo/哞哞 duck/鸭子=quack/嘎嘎 sheep/羊=baa/咩咩 bee/蜜蜂=buzz/嗡嗡 frog/青蛙=ribbit/呱呱 "
        "lion/狮子=roar/吼吼 mouse/老鼠=squeak/吱吱 pig/猪=oink/哼哼 rooster/公鸡=cock-a-doodle-doo/喔喔 snake/蛇=hiss/嘶嘶",
        ("What sound does a {s} make?", "What does a {s} say?", "How does a {s} sound?", "Tell me the sound of a {s}.", "What noise does a {s} make?", "Which sound does the {s} make?", "the sound of a {s}?"),
        ("{s}怎么叫？", "{s}的叫声是什么？", "{s}发出什么声音？", "{s}叫起来是什么声音？", "请告诉我{s}的叫声。", "说出{s}的叫声。"),
        ("A {s} says {o}.", "{s}的叫声是{o}。")),
    "young": Kind(
        "dog/狗=puppy/小狗 cat/猫=kitten/小猫 cow/牛=calf/小牛 sheep/羊=lamb/小羊 horse/马=foal/小马 duck/鸭子=duckling/小鸭 pig/猪=piglet/小猪 bear/熊=cub/小熊 chicken/鸡=chick/小鸡",
        ("What is a young {s} called?", "How do you call a baby {s}?", "What is the baby of a {s}?", "Name the young of a {s}.", "What do we call a young {s}?", "a baby {s} is called?"),
        ("{s}的宝宝叫什么？", "小时候的{s}叫什么？", "{s}的幼崽叫什么？", "年幼的{s}叫什么？", "{s}的孩子叫什么？", "怎么称呼{s}的幼崽？"),
        ("A young {s} is called a {o}.", "{s}的宝宝叫{o}。")),
    "next_day": Kind(
        "Monday/星期一=Tuesday/星期二 Tuesday/星期二=Wednesday/星期三 Wednesday/星期三=Thursday/星期四 Thursday/星期四=Friday/星期五 "
        "Friday/星期五=Saturday/星期六 Saturday/星期六=Sunday/星期日 Sunday/星期日=Monday/星期一",
        ("What day comes after {s}?", "Which day follows {s}?", "What is the day after {s}?", "After {s} comes which day?", "Name the day after {s}.", "If today is {s}, what is tomorrow?"),
        ("{s}后面是星期几？", "{s}的第二天是星期几？", "{s}之后是哪一天？", "如果今天是{s}，明天是星期几？", "{s}过后是星期几？", "{s}的下一天是什么？"),
        ("The day after {s} is {o}.", "{s}的第二天是{o}。")),
    "day_before": Kind(
        "Monday/星期一=Sunday/星期日 Tuesday/星期二=Monday/星期一 Wednesday/星期三=Tuesday/星期二 Thursday/星期四=Wednesday/星期三 "
        "Friday/星期五=Thursday/星期四 Saturday/星期六=Friday/星期五 Sunday/星期日=Saturday/星期六",
        ("What day comes before {s}?", "Which day is before {s}?", "What is the day before {s}?", "Before {s} comes which day?", "Name the day before {s}.", "If today is {s}, what was yesterday?"),
        ("{s}前面是星期几？", "{s}的前一天是星期几？", "{s}之前是哪一天？", "如果今天是{s}，昨天是星期几？", "{s}前一天是什么？", "{s}的上一天是星期几？"),
        ("The day before {s} is {o}.", "{s}的前一天是{o}。")),
    "next_month": Kind(
        "January/一月=February/二月 February/二月=March/三月 March/三月=April/四月 April/四月=May/五月 May/五月=June/六月 June/六月=July/七月 "
        "July/七月=August/八月 August/八月=September/九月 September/九月=October/十月 October/十月=November/十一月 November/十一月=December/十二月 December/十二月=January/一月",
        ("What month comes after {s}?", "Which month follows {s}?", "What is the month after {s}?", "After {s} comes which month?", "Name the month after {s}.", "the month after {s}?"),
        ("{s}后面是几月？", "{s}的下个月是几月？", "{s}之后是几月？", "{s}过后是哪个月？", "{s}的下一个月是什么？", "说出{s}的下个月。"),
        ("The month after {s} is {o}.", "{s}的下个月是{o}。")),
    "opposite": Kind(
        "hot/热=cold/冷 big/大=small/小 fast/快=slow/慢 old/老=young/年轻 day/白天=night/黑夜 up/上=down/下 open/开=closed/关 light/轻=heavy/重 "
        "happy/高兴=sad/难过 rich/富=poor/穷 long/长=short/短 high/高=low/低 wet/湿=dry/干 full/满=empty/空 hard/硬=soft/软 good/好=bad/坏 "
        "left/左=right/右 early/早=late/晚 loud/吵闹=quiet/安静 strong/强=weak/弱 clean/干净=dirty/脏 near/近=far/远 thick/厚=thin/薄 sweet/甜=bitter/苦",
        ("What is the opposite of {s}?", "Tell me the opposite of {s}.", "Name the opposite of {s}.", "What is the reverse of {s}?", "opposite of {s}?", "Which word is the opposite of {s}?", "What word means not {s}?"),
        ("{s}的反义词是什么？", "说出{s}的反义词。", "请告诉我{s}的反义词。", "哪个词是{s}的反义词？", "{s}的反面是什么？", "{s}的相反是什么？"),
        ("The opposite of {s} is {o}.", "{s}的反义词是{o}。")),
    "number": Kind(
        "one/一=1/1 two/二=2/2 three/三=3/3 four/四=4/4 five/五=5/5 six/六=6/6 seven/七=7/7 eight/八=8/8 nine/九=9/9 ten/十=10/10 eleven/十一=11/11 "
        "twelve/十二=12/12 thirteen/十三=13/13 fifteen/十五=15/15 twenty/二十=20/20 thirty/三十=30/30 fifty/五十=50/50 hundred/一百=100/100",
        ("Write {s} as a number.", "Which number is {s}?", "What is {s} in digits?", "Write {s} in digits.", "{s} in digits?", "Give the digits of {s}.", "How do you write {s} with digits?"),
        ("{s}用数字怎么写？", "把{s}写成数字。", "{s}是哪个数字？", "请用数字写{s}。", "{s}的数字是什么？", "数字{s}怎么写？"),
        ("In digits, {s} is {o}.", "{s}写成数字是{o}。")),
    "to_chinese": Kind(
        "water/水=水/water fire/火=火/fire sun/太阳=太阳/sun moon/月亮=月亮/moon tree/树=树/tree house/房子=房子/house book/书=书/book "
        "dog/狗=狗/dog cat/猫=猫/cat fish/鱼=鱼/fish bird/鸟=鸟/bird apple/苹果=苹果/apple tea/茶=茶/tea friend/朋友=朋友/friend "
        "mother/妈妈=妈妈/mother father/爸爸=爸爸/father school/学校=学校/school teacher/老师=老师/teacher mountain/山=山/mountain river/河=河/river "
        "flower/花=花/flower car/汽车=汽车/car door/门=门/door window/窗户=窗户/window love/爱=爱/love time/时间=时间/time horse/马=马/horse rice/米饭=米饭/rice "
        "milk/牛奶=牛奶/milk bread/面包=面包/bread red/红色=红色/red blue/蓝色=蓝色/blue big/大=大/big small/小=小/small hello/你好=你好/hello",
        ("What is {s} in Chinese?", "How do you say {s} in Chinese?", "Say {s} in Chinese.", "Translate {s} into Chinese.", "{s} in Chinese?", "Give me the Chinese word for {s}.", "What is the Chinese word for {s}?"),
        ("{s}用英语怎么说？", "{s}的英语是什么？", "把{s}翻译成英语。", "{s}用英文怎么说？", "请用英语说{s}。", "{s}的英文单词是什么？"),
        ("In Chinese, {s} is {o}.", "{s}的英语是{o}。")),
    "what": Kind(
        "kitchen/厨房=room/房间 rose/玫瑰=flower/花 tiger/老虎=animal/动物 apple/苹果=fruit/水果 carrot/胡萝卜=vegetable/蔬菜 piano/钢琴=instrument/乐器 "
        "hammer/锤子=tool/工具 chair/椅子=furniture/家具 shirt/衬衫=clothing/衣服 football/足球=sport/运动 bus/公交车=vehicle/交通工具 eagle/老鹰=bird/鸟 "
        "salmon/三文鱼=fish/鱼 oak/橡树=tree/树 doctor/医生=job/职业 gold/黄金=metal/金属 triangle/三角形=shape/形状 ant/蚂蚁=insect/昆虫",
        ("What kind of thing is {s}?", "What is {s} a kind of?", "To which group does {s} belong?", "What sort of thing is {s}?", "Which class does {s} belong to?", "{s} is a kind of what?"),
        ("{s}是哪一类？", "{s}属于什么？", "{s}是一种什么？", "{s}属于哪一类？", "{s}是什么东西的一种？", "请说出{s}的类别。"),
        ("It is a kind of {o}.", "{s}是一种{o}。")),
}
# fmt: on


class Fact(NamedTuple):
    """One row in one language."""

    kind: str
    subject: str
    answer: str
    zh: bool


def _rows(kind: str) -> list[Fact]:
    facts = []
    for row in KINDS[kind].rows.split():
        subjects, answers = (side.split("/") for side in row.split("="))
        facts += [Fact(kind, subjects[0], answers[0], False), Fact(kind, subjects[1], answers[1], True)]
    return facts


TABLE: tuple[Fact, ...] = tuple(fact for kind in KINDS for fact in _rows(kind))
SUBJECTS = frozenset(fact.subject for fact in TABLE)


def question(rng: Random, fact: Fact, held: bool = False) -> str | None:
    """The fact in a phrasing from the asked side of the split, or None when it has none there."""
    kind = KINDS[fact.kind]
    phrasings = [text.format(s=fact.subject) for text in (kind.zh if fact.zh else kind.en)]
    allowed = [text for text in phrasings if held_out(text) == held]
    return rng.choice(allowed) if allowed else None


def exchange(rng: Random) -> Exchange:
    """One fact asked and told."""
    fact = rng.choice(TABLE)
    text = question(rng, fact)
    if text is None:
        return exchange(rng)
    told = KINDS[fact.kind].tell[fact.zh].format(s=fact.subject, o=fact.answer)
    note = f"我知道：{fact.answer}。" if fact.zh else f"I know this one: {fact.answer}."
    return Exchange(text, told, note)


def facts(rng: Random) -> Sample:
    """One to four facts in a conversation."""
    return talk(rng, "facts", [exchange(rng) for _ in range(rng.choice((1, 2, 3, 4)))])

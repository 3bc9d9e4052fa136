"""Word lists and invented names, in English and Chinese."""

from __future__ import annotations

from random import Random

NAMES = (
    "Ana Ben Carla David Emma Felix Grace Hugo Iris Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor Wendy "
    "Zoe Adam Bella Chris Diana Eric Fiona George Helen Ivan Julia Kevin Laura Martin Nina Oscar Peter Quinn Rita "
    "Steve Tom Ursula Vera Walter Yara Alice Bob Clara Daniel Eva Frank Gina Henry Irene James Karen Lucy Mark "
    "Nora Oliver Pam Robert Sara Tim Uma Vincent Will Xenia Yusuf Amir Lin Mei Kenji Sofia Pablo Ravi Omar Lena"
).split()
ZH_NAMES = (
    "小明 小红 小刚 小丽 小华 小芳 小龙 小雨 小雪 小林 王伟 李娜 张敏 刘洋 陈静 杨帆 赵磊 黄婷 周杰 吴倩 "
    "徐强 孙悦 马超 朱丽 胡波 郭雪 何平 高远 林涛 罗兰 梁晨 宋佳 郑浩 谢宁 唐月 韩冰 冯雷 董洁 程亮 曹颖"
).split()
CITIES = (
    "Paris London Berlin Madrid Rome Vienna Lisbon Dublin Oslo Prague Athens Warsaw Cairo Nairobi Lima Toronto "
    "Chicago Boston Seattle Denver Austin Miami Dallas Houston Phoenix Tokyo Osaka Kyoto Seoul Beijing Shanghai "
    "Shenzhen Chengdu Hangzhou Nanjing Wuhan Singapore Bangkok Hanoi Jakarta Manila Delhi Mumbai Sydney Melbourne "
    "Brisbane Perth Auckland Geneva Zurich Munich Hamburg Milan Naples Venice Porto Lyon Nice Ghent Helsinki "
    "Stockholm Copenhagen Budapest Istanbul Dubai Montreal Vancouver Havana Bogota Quito"
).split()
ZH_CITIES = (
    "北京 上海 广州 深圳 成都 杭州 南京 武汉 西安 重庆 天津 苏州 青岛 大连 厦门 长沙 昆明 郑州 济南 福州 "
    "合肥 南昌 贵阳 兰州 海口 桂林 拉萨 沈阳 东京 大阪 首尔 巴黎 伦敦 柏林 罗马 纽约 洛杉矶 悉尼 新加坡 曼谷 "
    "开罗 莫斯科 维也纳 马德里 多伦多"
).split()
ITEMS = (
    "apple banana orange lemon pear peach grape melon carrot potato onion tomato bread cheese butter milk egg rice "
    "tea coffee sugar salt honey soap towel lamp chair table clock watch phone pen pencil book notebook bag box cup "
    "plate spoon fork knife bottle hat coat shirt shoe sock scarf glove ring ball kite drum guitar piano camera "
    "candle basket ladder hammer rope key coin stamp map flag bell mirror pillow blanket umbrella bicycle"
).split()
ZH_ITEMS = (
    "苹果 香蕉 橙子 柠檬 梨 桃子 葡萄 西瓜 胡萝卜 土豆 洋葱 番茄 面包 奶酪 黄油 牛奶 鸡蛋 米饭 茶 咖啡 "
    "糖 盐 蜂蜜 肥皂 毛巾 台灯 椅子 桌子 钟 手表 手机 钢笔 铅笔 书 笔记本 书包 盒子 杯子 盘子 勺子 "
    "叉子 瓶子 帽子 外套 衬衫 鞋子 袜子 围巾 手套 戒指 球 风筝 鼓 吉他 钢琴 相机 蜡烛 篮子 梯子 锤子"
).split()
COLOURS = "red blue green yellow black white brown purple orange pink grey golden silver".split()
ZH_COLOURS = "红色 蓝色 绿色 黄色 黑色 白色 棕色 紫色 橙色 粉色 灰色 金色 银色".split()
WORDS = (
    "river stone cloud forest winter summer garden window bridge island mountain ocean desert valley meadow tiger "
    "lion eagle rabbit turtle dolphin spider falcon otter badger salmon cricket maple willow cedar lotus tulip "
    "orchid violet amber copper marble velvet cotton paper glass iron steel thunder lightning rainbow shadow ember "
    "harbor castle temple tower market station library museum theater rocket planet comet signal engine anchor "
    "compass lantern feather button ribbon needle puzzle riddle melody rhythm whisper"
).split()
ZH_WORDS = (
    "河流 石头 云朵 森林 冬天 夏天 花园 窗户 大桥 小岛 高山 海洋 沙漠 山谷 草地 老虎 狮子 老鹰 兔子 乌龟 "
    "海豚 蜘蛛 松树 荷花 琥珀 铜镜 丝绸 棉花 玻璃 钢铁 雷声 闪电 彩虹 影子 港口 城堡 寺庙 高塔 市场 车站 "
    "火箭 行星 彗星 信号 指南针 灯笼 羽毛 纽扣 谜语 旋律"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ZH_DAYS = "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()
MONTHS = ("January February March April May June July August September October November December").split()

_ONSETS = "b br c d dr f g gr h j k kl l m n p pr r s st t tr v w z sh th qu y".split()
_VOWELS = "a e i o u a e i o u ai ea ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "x", "nd", "rt", "k"]
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙马朱胡郭何高林罗梁宋郑谢唐韩冯董程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段钱汤尹黎易常武乔贺赖龚文"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂英华玉文红春梅建国志飞鹏宇欣雨晨阳雪梦佳琪浩然子涵一诺思远嘉怡晓东海波云天乐安宁清泉月星辰光辉松柏青山河川"

_CUTTINGS = [word.lower() for word in (*NAMES, *CITIES, *ITEMS, *COLOURS, *WORDS)]
_ZH_CUTTINGS = [*ZH_NAMES, *ZH_CITIES, *ZH_ITEMS, *ZH_COLOURS, *ZH_WORDS, _SURNAMES, _GIVEN]


def invented_word(rng: Random, syllables: int = 2) -> str:
    """A pronounceable word that means nothing."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)) + rng.choice(_CODAS)


def invented_name(rng: Random) -> str:
    """A capitalised invented name."""
    return invented_word(rng, rng.choice((1, 2, 2, 2, 3))).capitalize()


def person(rng: Random) -> str:
    """An English first name, half of the time an invented one."""
    return rng.choice(NAMES) if rng.random() < 0.5 else invented_name(rng)


def zh_person(rng: Random) -> str:
    """A Chinese name, mostly put together at random."""
    if rng.random() < 0.3:
        return rng.choice(ZH_NAMES)
    return rng.choice(_SURNAMES) + "".join(rng.choice(_GIVEN) for _ in range(rng.choice((1, 2, 2))))


def digits(rng: Random, low: int = 3, high: int = 5) -> str:
    """A string of `low` to `high` digits that does not start with zero."""
    return str(rng.randint(1, 9)) + "".join(
        rng.choice("0123456789") for _ in range(rng.randint(low, high) - 1)
    )


def odd_word(rng: Random) -> str:
    """A word cut together from pieces of others, so that no piece is always in the same company."""
    cut = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        word = rng.choice(_CUTTINGS)
        start = rng.randrange(len(word))
        cut.append(word[start : start + rng.randint(1, 5)])
    return "".join(cut)


def zh_odd_word(rng: Random) -> str:
    """Two or three Chinese characters that need not belong together."""
    return "".join(rng.choice(rng.choice(_ZH_CUTTINGS)) for _ in range(rng.choice((2, 2, 3))))

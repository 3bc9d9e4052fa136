"""The many ways to ask for a sum, a difference, a product or a comparison."""

ASK_EN = (
    "What is {e}?",
    "{e} = ?",
    "{t}=?",
    "{t}",
    "{e}",
    "What's {e}?",
    "Compute {e}.",
    "Calculate {e}.",
    "How much is {e}?",
    "Please compute {e}",
    "Can you work out {e}?",
    "Tell me {e}.",
    "what is {t}",
    "Solve {e}.",
    "{e} equals what?",
    "I need the result of {e}.",
    "Give me the answer to {e}.",
    "What does {e} equal?",
    "What is {t}?",
    "Find {e}.",
)
WORDS_EN = {
    "+": (
        "What is {a} plus {b}?",
        "Add {a} and {b}.",
        "Compute {a} plus {b}.",
        "What is the sum of {a} and {b}?",
        "{a} plus {b} is what?",
        "How much is {a} and {b} together?",
        "what is {a} plus {b}",
    ),
    "-": (
        "What is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "Compute {a} minus {b}.",
        "Take {b} away from {a}.",
        "What is the difference of {a} and {b}?",
        "{a} minus {b} is what?",
        "what is {a} minus {b}",
    ),
    "×": (
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "Compute {a} times {b}.",
        "What is {a} * {b}?",
        "What is the product of {a} and {b}?",
        "{a}*{b}=?",
        "{a} x {b} = ?",
    ),
}
STORY_EN = {
    "+": (
        "{n} has {a} {i}s and gets {b} more. How many {i}s does {n} have now?",
        "There are {a} {i}s in one box and {b} in another. How many are there in all?",
        "{n} buys {a} {i}s on Monday and {b} on Tuesday. How many in total?",
    ),
    "-": (
        "{n} has {a} {i}s and gives away {b}. How many {i}s are left?",
        "There were {a} {i}s. {n} used {b} of them. How many remain?",
        "A shop has {a} {i}s and sells {b}. How many are left?",
    ),
    "×": (
        "There are {a} boxes with {b} {i}s each. How many {i}s are there?",
        "{n} buys {a} bags with {b} {i}s each. How many {i}s in total?",
    ),
}
ASK_ZH = (
    "{e} 等于多少？",
    "{t}=?",
    "{t}等于几？",
    "计算 {e}。",
    "请计算{t}",
    "{e} 是多少？",
    "{t}是多少？",
    "请问 {e} 等于多少？",
    "帮我算一下 {e}。",
    "算一算{t}",
    "{e} 的结果是什么？",
    "求 {e}。",
    "{t}得多少？",
)
WORDS_ZH = {
    "+": (
        "{a} 加 {b} 等于多少？",
        "{a}加{b}是多少？",
        "{a}和{b}的和是多少？",
        "把 {a} 和 {b} 相加。",
        "{a}加{b}等于几",
    ),
    "-": (
        "{a} 减 {b} 等于多少？",
        "{a}减{b}是多少？",
        "{a}与{b}的差是多少？",
        "从 {a} 里减去 {b}。",
        "{a}减去{b}等于几",
    ),
    "×": ("{a} 乘 {b} 等于多少？", "{a}乘以{b}是多少？", "{a}和{b}的积是多少？", "{a} 乘 {b} 是几？"),
}
STORY_ZH = {
    "+": ("{n}有{a}个{i}，又得到{b}个，现在一共有多少个？", "盒子里有{a}个{i}，又放进{b}个，一共多少个？"),
    "-": ("{n}有{a}个{i}，送出{b}个，还剩多少个？", "商店有{a}个{i}，卖出{b}个，还剩几个？"),
    "×": ("有{a}个盒子，每个盒子有{b}个{i}，一共多少个？", "{n}买了{a}袋{i}，每袋{b}个，一共多少个？"),
}
LARGER_EN = (
    "Which is larger, {a} or {b}?",
    "Which number is bigger: {a} or {b}?",
    "Compare {a} and {b}.",
    "What is the larger of {a} and {b}?",
)
LARGER_ZH = ("{a}和{b}哪个大？", "{a} 和 {b} 哪个更大？", "比较 {a} 和 {b}。", "{a}与{b}，哪个数大？")

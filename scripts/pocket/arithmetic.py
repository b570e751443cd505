"""Arithmetic to three digits: the answer is the working of working.py and then one sentence with the result.

`thought` is the working and `answer` is f"{thought} {result}", so that the result alone is answer[len(thought) + 1:].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import working
from exchange import Exchange, Split, fitting, wording


@dataclass(frozen=True)
class Task:
    """One operation on two numbers, in the order in which they are written."""

    a: int
    sign: str
    b: int

    @property
    def key(self) -> str:
        """Says which values these are: 3+5 and 5+3 are the same."""
        a, b = sorted((self.a, self.b)) if self.sign in "+×" else (self.a, self.b)
        return f"{a}{self.sign}{b}"

    @property
    def result(self) -> int:
        """What comes out; divisions are exact."""
        match self.sign:
            case "+":
                return self.a + self.b
            case "-":
                return self.a - self.b
            case "×":
                return self.a * self.b
        return self.a // self.b

    @property
    def working(self) -> str:
        """The steps on paper."""
        steps = {"+": working.add, "-": working.subtract, "×": working.multiply, "÷": working.divide}
        return steps[self.sign](self.a, self.b)


SIGNS = {
    "+": ("+", "+", "plus"),
    "-": ("-", "-", "minus"),
    "×": ("×", "*", "x", "times", "multiplied by"),
    "÷": ("/", "÷", ":", "divided by"),
}
SIGNS_ZH = {"+": ("+", "加", "加上"), "-": ("-", "减", "减去"), "×": ("×", "*", "乘以", "乘"), "÷": ("÷", "/", "除以")}

FRAMES = (
    "What is {}?",
    "What is {}?",
    "What's {}?",
    "How much is {}?",
    "Compute {}.",
    "Calculate {}.",
    "{} = ?",
    "{} =",
    "{}",
    "{}?",
    "Work out {}.",
    "Evaluate {}.",
    "Solve {}.",
    "What does {} equal?",
    "What does {} make?",
    "What do you get for {}?",
    "Can you compute {}?",
    "Can you tell me what {} is?",
    "Could you calculate {}?",
    "Could you work out {} for me?",
    "Please compute {}.",
    "Please calculate {} for me.",
    "Tell me what {} is.",
    "Tell me the result of {}.",
    "Give me the result of {}.",
    "Give me {}.",
    "I need the value of {}.",
    "I want to know what {} is.",
    "Do you know what {} is?",
    "What is the result of {}?",
    "What is the answer to {}?",
    "Find {}.",
    "Do the math: {}.",
    "Let me know what {} gives.",
    "How much do I get for {}?",
    "{} is how much?",
)
FRAMES_HELD_OUT = (
    "Find the value of {}.",
    "What is the value of {}?",
    "Can you calculate {} for me?",
    "Could you tell me the result of {}?",
    "What do I get for {}?",
    "Please work out {}.",
    "I need to know what {} is.",
    "{} equals what?",
)
FRAMES_ZH = (
    "{}等于多少？",
    "{}等于多少？",
    "{}是多少？",
    "{}等于几？",
    "{}=?",
    "计算{}。",
    "请计算{}。",
    "算一下{}。",
    "帮我算一下{}。",
    "请问{}等于多少？",
    "{}的结果是多少？",
    "求{}。",
    "你知道{}等于多少吗？",
    "告诉我{}是多少。",
)
FRAMES_ZH_HELD_OUT = ("请算一下{}。", "{}的结果是什么？", "帮我计算{}。", "我想知道{}等于多少。")

PHRASES = {
    "+": ("the sum of {a} and {b}", "the total of {a} and {b}", "{b} added to {a}"),
    "-": ("the difference between {a} and {b}", "{b} subtracted from {a}", "{a} less {b}", "{b} less than {a}"),
    "×": ("the product of {a} and {b}", "{a} multiplied with {b}", "the product of {b} and {a}"),
    "÷": ("the quotient of {a} and {b}", "{a} over {b}", "one part when {a} is cut into {b} equal parts"),
}
ORDERS = {
    "+": (
        "Add {b} to {a}.",
        "Add {a} and {b}.",
        "Add up {a} and {b}.",
        "Sum {a} and {b}.",
        "Add {b} to the number {a}.",
    ),
    "-": (
        "Subtract {b} from {a}.",
        "Take {b} from {a}.",
        "Take {b} away from {a}.",
        "Take away {b} from {a}.",
        "Subtract {b} from the number {a}.",
    ),
    "×": (
        "Multiply {a} by {b}.",
        "Multiply {a} with {b}.",
        "Multiply {a} and {b}.",
        "Multiply the number {a} by {b}.",
        "Take {a} times {b}.",
    ),
    "÷": (
        "Divide {a} by {b}.",
        "Divide the number {a} by {b}.",
        "Split {a} into {b} equal parts.",
        "Cut {a} in {b} equal parts.",
    ),
}
ORDERS_BEFORE = ("", "", "", "Please ", "Can you ", "Could you ", "I want you to ")
ORDERS_HELD_OUT = {
    "+": ("What do I get if I add {b} to {a}?", "Sum up {a} and {b}."),
    "-": ("What do I get if I subtract {b} from {a}?", "Take {b} away from the number {a}."),
    "×": ("What do I get if I multiply {a} by {b}?", "Multiply the number {a} with {b}."),
    "÷": ("What do I get if I divide {a} by {b}?", "Divide the number {a} into {b} equal parts."),
}
IFS = (
    "What is it if I {}?",
    "What happens if I {}?",
    "What comes out if I {}?",
    "What do you get when you {}?",
    "How much is it when I {}?",
    "If I {}, what do I get?",
)
ORDERS_ZH = {
    "+": ("{a}与{b}的和是多少？", "{a}和{b}相加等于多少？", "把{a}和{b}加起来。", "求{a}与{b}的和。"),
    "-": ("{a}与{b}的差是多少？", "从{a}里减去{b}等于多少？", "从{a}中减去{b}。", "求{a}与{b}的差。"),
    "×": ("{a}与{b}的积是多少？", "{a}和{b}相乘等于多少？", "把{a}和{b}相乘。", "求{a}与{b}的积。"),
    "÷": ("{a}与{b}的商是多少？", "把{a}平均分成{b}份，每份是多少？", "用{b}去除{a}等于多少？", "求{a}与{b}的商。"),
}
ORDERS_ZH_HELD_OUT = {
    "+": ("请求{a}与{b}的和。", "{a}和{b}的和等于多少？"),
    "-": ("请求{a}与{b}的差。", "从{a}中减去{b}等于多少？"),
    "×": ("请求{a}与{b}的积。", "{a}和{b}的积等于多少？"),
    "÷": ("请求{a}与{b}的商。", "{a}和{b}的商等于多少？"),
}

THINGS = (
    "apples", "books", "coins", "stamps", "cards", "pens", "eggs", "marbles", "shells", "tickets", "photos", "stickers",
    "balls", "cookies", "nuts", "stones", "keys", "bottles", "chairs", "flowers", "trees", "sheep", "birds", "fish",
    "letters", "pages", "points", "dollars", "euros", "bricks", "boxes", "cups",
)  # fmt: skip
PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wei", "Yuki", "Omar", "Lina",
)  # fmt: skip
STORIES = {
    "+": (
        "I have {a} {things} and buy {b} more. How many do I have now?",
        "I have {a} {things} and get {b} more. How many {things} do I have?",
        "{name} has {a} {things} and finds {b} more. How many does {name} have now?",
        "{name} had {a} {things} and got {b} more. How many are there now?",
        "There are {a} {things} here and {b} {things} there. How many are there in total?",
        "There are {a} {things} in one box and {b} in another. How many in total?",
        "{name} has {a} {things} and {other} has {b}. How many do they have together?",
        "We have {a} {things}. We add {b} more. How many {things} are there now?",
        "A shop has {a} {things} and receives {b} more. How many {things} does it have now?",
        "{name} collects {a} {things} on Monday and {b} on Tuesday. How many altogether?",
        "{name} counts {a} {things}, then {b} more. How many {things} altogether?",
        "If I have {a} {things} and {other} gives me {b} more, how many do I have?",
    ),
    "-": (
        "I have {a} {things} and lose {b}. How many are left?",
        "I had {a} {things} and gave away {b}. How many do I have left?",
        "{name} has {a} {things} and sells {b} of them. How many are left?",
        "{name} had {a} {things} and lost {b}. How many {things} are left?",
        "There are {a} {things}. {b} are taken away. How many remain?",
        "There were {a} {things} and {b} are gone. How many are left?",
        "{name} gives {b} of {a} {things} to {other}. How many {things} are left?",
        "A shop has {a} {things} and sells {b}. How many {things} remain?",
        "We had {a} {things} and used {b}. How many do we have left?",
        "If I have {a} {things} and give {b} to {other}, how many do I have left?",
        "{name} has {a} {things}, {other} has {b}. How many more does {name} have?",
        "Out of {a} {things}, {b} are broken. How many are not?",
    ),
    "×": (
        "There are {a} boxes with {b} {things} each. How many {things} in total?",
        "I have {a} bags with {b} {things} in each bag. How many {things} do I have?",
        "{name} buys {a} packs of {b} {things}. How many {things} is that?",
        "{a} people have {b} {things} each. How many {things} do they have together?",
        "Each box holds {b} {things}. How many {things} are in {a} boxes?",
        "Each of {a} children has {b} {things}. How many {things} altogether?",
        "{name} reads {b} pages every day. How many pages in {a} days?",
        "One ticket costs {b} dollars. How much do {a} tickets cost?",
        "A shop sells {a} bags of {b} {things} each. How many {things} is that?",
        "There are {a} rows of {b} {things}. How many {things} are there?",
        "If {name} gets {b} {things} a day, how many are that in {a} days?",
        "We need {b} {things} for each of {a} tables. How many {things} do we need?",
    ),
    "÷": (
        "{a} {things} are shared equally by {b} people. How many does each get?",
        "{b} children share {a} {things} equally. How many does each child get?",
        "I put {a} {things} into {b} boxes equally. How many are in each box?",
        "{name} divides {a} {things} among {b} friends. How many does each friend get?",
        "{a} {things} are split into {b} equal groups. How many are in each group?",
        "We have {a} {things} for {b} tables. How many {things} for each table?",
        "If {a} {things} are shared by {b} people, how many does each person get?",
        "A shop packs {a} {things} into {b} equal bags. How many {things} in each bag?",
        "There are {a} {things} in {b} equal rows. How many {things} are in each row?",
        "{name} reads {a} pages in {b} days. How many pages each day?",
        "{b} tickets cost {a} dollars. How much does one ticket cost?",
        "Share {a} {things} equally between {b} people. How many does each get?",
    ),
}
STORIES_HELD_OUT = {
    "+": (
        "{name} has {a} {things} and buys {b} more. How many {things} altogether?",
        "We had {a} {things} and found {b} more. How many do we have now?",
    ),
    "-": (
        "{name} had {a} {things} and gave away {b}. How many are left?",
        "There were {a} {things}. {b} are sold. How many {things} remain?",
    ),
    "×": (
        "{name} has {a} boxes with {b} {things} in each box. How many {things} altogether?",
        "There are {a} bags of {b} {things} each. How many {things} are there?",
    ),
    "÷": (
        "{name} shares {a} {things} equally among {b} friends. How many does each friend get?",
        "{a} {things} are put into {b} equal boxes. How many are in each box?",
    ),
}
THINGS_ZH = ("个苹果", "本书", "枚硬币", "张邮票", "张卡片", "支笔", "个鸡蛋", "块石头", "朵花", "只羊", "颗糖", "个球")
PEOPLE_ZH = ("小明", "小红", "小丽", "小刚", "小华", "小王", "小李", "小张", "妈妈", "爸爸", "老师", "我")
STORIES_ZH = {
    "+": (
        "{name}有{a}{things}，又买了{b}{things}，现在一共有多少？",
        "左边有{a}{things}，右边有{b}{things}，一共有多少？",
        "{name}有{a}{things}，又得到{b}{things}，现在有多少？",
        "{name}先数了{a}{things}，又数了{b}{things}，一共有多少？",
    ),
    "-": (
        "{name}有{a}{things}，用了{b}{things}，还剩多少？",
        "原来有{a}{things}，拿走了{b}{things}，还剩下多少？",
        "{name}有{a}{things}，送出去{b}{things}，还有多少？",
        "商店有{a}{things}，卖了{b}{things}，还剩多少？",
    ),
    "×": (
        "每箱有{b}{things}，{a}箱一共有多少？",
        "有{a}个盒子，每个盒子里有{b}{things}，一共有多少？",
        "{a}个人每人有{b}{things}，一共有多少？",
        "{name}每天得到{b}{things}，{a}天一共得到多少？",
    ),
    "÷": (
        "{a}{things}平均分给{b}个人，每人得到多少？",
        "把{a}{things}平均放进{b}个盒子，每个盒子放多少？",
        "{b}个人平分{a}{things}，每人有多少？",
        "{name}把{a}{things}平均分成{b}份，每份有多少？",
    ),
}
STORIES_ZH_HELD_OUT = {
    "+": ("{name}有{a}{things}，又买了{b}{things}，一共有多少？",),
    "-": ("{name}有{a}{things}，拿走了{b}{things}，还剩多少？",),
    "×": ("{a}个盒子每个有{b}{things}，一共有多少？",),
    "÷": ("把{a}{things}平均分给{b}个人，每人有多少？",),
}


def number(rng: random.Random, lengths: tuple[int, ...]) -> int:
    """A number of one of the lengths; sometimes with a zero or a nine inside, where carries go wrong."""
    digits = [str(rng.randrange(10)) for _ in range(rng.choice(lengths))]
    if rng.random() < 0.15:
        digits[rng.randrange(len(digits))] = rng.choice("09")
    return int("".join(digits))


def _task(rng: random.Random, sign: str) -> Task:
    """Two numbers for a sign, long ones more often than short ones."""
    if sign == "÷":
        if rng.random() < 0.08:
            b = 10 * rng.randrange(2, 10)
            return Task(b * rng.randrange(1, 999 // b + 1), sign, b)
        b = rng.randrange(1, 10) if rng.random() < 0.2 else rng.randrange(2, 10)
        most = 99 if rng.random() < 0.25 else 999
        return Task(b * rng.randrange(0 if rng.random() < 0.05 else 1, most // b + 1), sign, b)
    if sign == "×":
        if rng.random() < 0.45:
            return Task(rng.randrange(10, 100), sign, rng.randrange(10, 100))
        a, b = number(rng, (1, 2, 2, 3, 3, 3, 3)), rng.randrange(10)
        return Task(*((a, sign, b) if rng.random() < 0.65 else (b, sign, a)))
    a, b = number(rng, (1, 2, 2, 3, 3, 3, 3, 3)), number(rng, (1, 2, 2, 3, 3, 3, 3, 3))
    if sign == "-" and rng.random() < 0.1:
        b = max(0, min(999, a + rng.randrange(-12, 13)))
    return Task(a, sign, max(a, b) - b if sign == "+" and rng.random() < 0.05 else b)


def task(rng: random.Random, split: Split, sign: str, is_counting: bool = False) -> Task:
    """Numbers on the side of the split; of things that are counted there are at least two."""

    def make(rng: random.Random) -> Task:
        while True:
            made = _task(rng, sign)
            if not is_counting or min(made.a, made.b, made.result) > 1:
                return made

    return fitting(rng, split, make, lambda made: made.key)


def _expression(rng: random.Random, of: Task) -> str:
    """The task as people type it: 3 + 5, 3+5, 3 plus 5."""
    sign = rng.choice(SIGNS[of.sign])
    return f"{of.a}{sign}{of.b}" if len(sign) == 1 and sign != "x" and rng.random() < 0.35 else f"{of.a} {sign} {of.b}"


def _english(rng: random.Random, split: Split, sign: str) -> tuple[Task, str]:
    """A task and its question in English."""
    roll = rng.random()
    if roll < 0.25:
        counted = task(rng, split, sign, is_counting=True)
        name, other = rng.sample(PEOPLE, 2)
        story = wording(rng, split, STORIES[sign], STORIES_HELD_OUT[sign])
        return counted, story.format(a=counted.a, b=counted.b, things=rng.choice(THINGS), name=name, other=other)
    asked = task(rng, split, sign)
    if roll < 0.42:
        order = wording(rng, split, ORDERS[sign], ORDERS_HELD_OUT[sign]).format(a=asked.a, b=asked.b)
        if split == "templates":
            return asked, order
        if rng.random() < 0.35:
            return asked, rng.choice(IFS).format(order[0].lower() + order[1:-1])
        before = rng.choice(ORDERS_BEFORE)
        if before:
            order = before + order[0].lower() + order[1:]
        return asked, order[:-1] + "?" if before in ("Can you ", "Could you ") else order
    expression = _expression(rng, asked)
    if roll < 0.55:
        expression = rng.choice(PHRASES[sign]).format(a=asked.a, b=asked.b)
    question = wording(rng, split, FRAMES, FRAMES_HELD_OUT).format(expression)
    return asked, question[0].upper() + question[1:]


def _chinese(rng: random.Random, split: Split, sign: str) -> tuple[Task, str]:
    """A task and its question in Chinese."""
    roll = rng.random()
    if roll < 0.2:
        counted = task(rng, split, sign, is_counting=True)
        story = wording(rng, split, STORIES_ZH[sign], STORIES_ZH_HELD_OUT[sign])
        return counted, story.format(a=counted.a, b=counted.b, things=rng.choice(THINGS_ZH), name=rng.choice(PEOPLE_ZH))
    asked = task(rng, split, sign)
    if roll < 0.4:
        return asked, wording(rng, split, ORDERS_ZH[sign], ORDERS_ZH_HELD_OUT[sign]).format(a=asked.a, b=asked.b)
    space = rng.choice(("", "", " "))
    expression = f"{asked.a}{space}{rng.choice(SIGNS_ZH[sign])}{space}{asked.b}"
    return asked, wording(rng, split, FRAMES_ZH, FRAMES_ZH_HELD_OUT).format(expression)


def draw(rng: random.Random, split: Split) -> Exchange:
    """One calculation, with its working and its result."""
    sign = rng.choice("+-×÷×")
    if rng.random() < 0.2:
        asked, question = _chinese(rng, split, sign)
        result = f"答案是{asked.result}。"
    else:
        asked, question = _english(rng, split, sign)
        result = f"The answer is {asked.result}."
    return Exchange("arithmetic", question, f"{asked.working} {result}", thought=asked.working)

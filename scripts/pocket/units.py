"""Conversion of units with whole numbers: length, mass, volume, time, data (1 KB = 1000 bytes) and temperature.

`thought` says the factor and the working, and `answer` is f"{thought} {result}", as in arithmetic.py. Temperatures are
a table of multiples of five degrees Celsius; a table has to be learned whole, so none of it is held out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import working
from exchange import Exchange, Split, fitting, wording


@dataclass(frozen=True)
class Unit:
    """A unit: how answers write it, its names in questions, and its Chinese name."""

    symbol: str
    one: str
    many: str
    chinese: str


@dataclass(frozen=True)
class Pair:
    """Two units, how many of the small one make the large one, and up to what count of the large one is asked."""

    large: Unit
    small: Unit
    factor: int
    most: int
    is_asked_upwards: bool = True


KM, M, CM, MM = (
    Unit("km", "kilometer", "kilometers", "千米"),
    Unit("m", "meter", "meters", "米"),
    Unit("cm", "centimeter", "centimeters", "厘米"),
    Unit("mm", "millimeter", "millimeters", "毫米"),
)
TON, KG, G, MG = (
    Unit("t", "ton", "tons", "吨"),
    Unit("kg", "kilogram", "kilograms", "千克"),
    Unit("g", "gram", "grams", "克"),
    Unit("mg", "milligram", "milligrams", "毫克"),
)
LITER, ML = Unit("l", "liter", "liters", "升"), Unit("ml", "milliliter", "milliliters", "毫升")
TB, GB, MB, KB = (
    Unit("TB", "terabyte", "terabytes", "TB"),
    Unit("GB", "gigabyte", "gigabytes", "GB"),
    Unit("MB", "megabyte", "megabytes", "MB"),
    Unit("KB", "kilobyte", "kilobytes", "KB"),
)
BYTE, BIT = Unit("bytes", "byte", "bytes", "字节"), Unit("bits", "bit", "bits", "比特")
CENTURY, YEAR, MONTH, WEEK = (
    Unit("centuries", "century", "centuries", "世纪"),
    Unit("years", "year", "years", "年"),
    Unit("months", "month", "months", "个月"),
    Unit("weeks", "week", "weeks", "周"),
)
DAY, HOUR, MINUTE, SECOND = (
    Unit("days", "day", "days", "天"),
    Unit("h", "hour", "hours", "小时"),
    Unit("min", "minute", "minutes", "分钟"),
    Unit("s", "second", "seconds", "秒"),
)
YARD, FOOT, INCH = (
    Unit("yards", "yard", "yards", "码"),
    Unit("feet", "foot", "feet", "英尺"),
    Unit("inches", "inch", "inches", "英寸"),
)

PAIRS = (
    Pair(KM, M, 1000, 999),
    Pair(M, CM, 100, 9999),
    Pair(CM, MM, 10, 9999),
    Pair(M, MM, 1000, 999),
    Pair(TON, KG, 1000, 999),
    Pair(KG, G, 1000, 999),
    Pair(G, MG, 1000, 999),
    Pair(LITER, ML, 1000, 999),
    Pair(TB, GB, 1000, 999),
    Pair(GB, MB, 1000, 999),
    Pair(MB, KB, 1000, 999),
    Pair(KB, BYTE, 1000, 999),
    Pair(CENTURY, YEAR, 100, 99),
    Pair(BYTE, BIT, 8, 124),
    Pair(WEEK, DAY, 7, 142),
    Pair(HOUR, MINUTE, 60, 166),
    Pair(MINUTE, SECOND, 60, 166),
    Pair(DAY, HOUR, 24, 99, is_asked_upwards=False),
    Pair(YEAR, MONTH, 12, 99, is_asked_upwards=False),
    Pair(FOOT, INCH, 12, 99, is_asked_upwards=False),
    Pair(YARD, FOOT, 3, 333),
)

WORDINGS = (
    "How many {to} are {n} {of}?",
    "How many {to} are there in {n} {of}?",
    "How many {to} are in {n} {of}?",
    "How many {to} is {n} {of}?",
    "How many {to} do {n} {of} have?",
    "How many {to} do I get from {n} {of}?",
    "{n} {of} are how many {to}?",
    "{n} {of} in {to}?",
    "{n} {of} to {to}",
    "{n} {of} = ? {to}",
    "Convert {n} {of} to {to}.",
    "Convert {n} {of} into {to}.",
    "Can you convert {n} {of} to {to}?",
    "Could you convert {n} {of} into {to}?",
    "Please convert {n} {of} to {to}.",
    "Change {n} {of} into {to}.",
    "Turn {n} {of} into {to}.",
    "Express {n} {of} in {to}.",
    "Write {n} {of} in {to}.",
    "Give {n} {of} in {to}.",
    "What is {n} {of} in {to}?",
    "What are {n} {of} in {to}?",
    "What's {n} {of} in {to}?",
    "How much is {n} {of} in {to}?",
    "Tell me how many {to} are in {n} {of}.",
    "Do you know how many {to} {n} {of} are?",
    "I have {n} {of}. How many {to} is that?",
    "{n} {of} -> {to}",
    "{n} {of} → {to}?",
    "{n} {of} = how many {to}?",
    "{n} {of} = ___ {to}",
    "{n} {of} as {to}?",
    "{n} {of} as {to}, please.",
    "{n} {of}, how many {to} is that?",
    "{n} {of}: what is that in {to}?",
    "{n} {of} equals how many {to}?",
    "{n} {of} is the same as how many {to}?",
    "{n} {of} is equal to how many {to}?",
    "{n} {of} corresponds to how many {to}?",
    "{n} {of}, but in {to}, please.",
    "{to} in {n} {of}?",
    "From {of} to {to}: {n}",
    "From {of} to {to}, please: {n} {of}",
    "Unit conversion: {n} {of} to {to}.",
    "Conversion to {to}: {n} {of}",
    "In {to}, what is {n} {of}?",
    "In {to}, how much is {n} {of}?",
    "In {to}, please: {n} {of}.",
    "Into {to}: {n} {of}",
    "Number of {to} in {n} {of}?",
    "What is the number of {to} in {n} {of}?",
    "What number of {to} equals {n} {of}?",
    "What number of {to} is the same as {n} {of}?",
    "What does {n} {of} equal in {to}?",
    "What does {n} {of} come to in {to}?",
    "What does {n} {of} correspond to in {to}?",
    "What would {n} {of} be in {to}?",
    "What do I get when I convert {n} {of} to {to}?",
    "What comes out if you change {n} {of} into {to}?",
    "How many {to} correspond to {n} {of}?",
    "How many {to} does {n} {of} come to?",
    "How many {to} would {n} {of} be?",
    "How many {to} will I get when I convert {n} {of}?",
    "How many {to} do I write down for {n} {of}?",
    "How do I convert {n} {of} to {to}?",
    "How do you write {n} {of} in {to}?",
    "How would you say {n} {of} in {to}?",
    "Work out {n} {of} in {to}.",
    "Calculate {n} {of} in {to}.",
    "Compute how many {to} equal {n} {of}.",
    "Find the number of {to} in {n} {of}.",
    "Find out how many {to} there are in {n} {of}.",
    "Figure out what {n} {of} is in {to}.",
    "Rewrite {n} {of} as {to}.",
    "Restate {n} {of} in {to}.",
    "Translate {n} {of} to {to}.",
    "Transform {n} {of} into {to}.",
    "Switch {n} {of} over to {to}.",
    "Show me {n} {of} in {to}.",
    "Show how to convert {n} {of} to {to}.",
    "Give me the value of {n} {of} in {to}.",
    "Give me {n} {of} as {to}.",
    "Say {n} {of} in {to}.",
    "Let me know what {n} {of} is in {to}.",
    "Help me convert {n} {of} to {to}.",
    "Help! I need {n} {of} in {to}.",
    "I need {n} {of} in {to}.",
    "I need to convert {n} {of} to {to}.",
    "I want {n} {of} converted to {to}.",
    "I'd like to see {n} {of} in {to}.",
    "I would like to know what {n} {of} is in {to}.",
    "I measured {n} {of}. What is that in {to}?",
    "I only know that it is {n} {of}, but I need {to}.",
    "I wonder what {n} {of} would be in {to}.",
    "The label says {n} {of}. What is that in {to}?",
    "The note says {n} {of}, but I want {to}. What should I write?",
    "It says {n} {of} here, so how many {to} is it?",
    "My form asks for {to}, and I have {n} {of}. What do I enter?",
    "Suppose I have {n} {of}. What is that in {to}?",
    "If something is {n} {of}, what is it in {to}?",
    "If I read {n} {of}, how many {to} is it?",
    "Do you know what {n} {of} is in {to}?",
    "Would you change {n} {of} to {to}?",
    "Would you mind converting {n} {of} to {to}?",
    "Are you able to convert {n} {of} to {to}?",
    "May I have {n} {of} in {to}?",
    "Any idea what {n} {of} is in {to}?",
    "Homework: change {n} {of} to {to}.",
    "Quick conversion, {n} {of} to {to}?",
    "Value: {n} {of}. Wanted unit: {to}.",
    "Given: {n} {of}. Wanted: {to}.",
)
WORDINGS_HELD_OUT = (
    "How many {to} make {n} {of}?",
    "Please convert {n} {of} into {to}.",
    "Can you express {n} {of} in {to}?",
    "Tell me how many {to} {n} {of} are.",
    "How much are {n} {of} in {to}?",
)
WORDINGS_ZH = (
    "{n}{of}等于多少{to}？",
    "{n}{of}是多少{to}？",
    "{n}{of}有多少{to}？",
    "{n}{of}换算成{to}是多少？",
    "把{n}{of}换算成{to}。",
    "请把{n}{of}转换成{to}。",
    "{n}{of}=?{to}",
    "{n}{of}合多少{to}？",
    "请问{n}{of}等于多少{to}？",
    "{n}{of}相当于多少{to}？",
    "{n}{of}换成{to}是多少？",
    "{n}{of}转换为{to}得多少？",
    "{n}{of}用{to}表示是多少？",
    "{n}{of}等于几{to}？",
    "{n}{of}化成{to}。",
    "{n}{of}→{to}",
    "{n}{of}=（ ）{to}",
    "{n}{of}，也就是多少{to}？",
    "{n}{of}折合多少{to}？",
    "{n}{of}里有多少{to}？",
    "{n}{of}一共有多少{to}？",
    "多少{to}等于{n}{of}？",
    "多少{to}才是{n}{of}？",
    "用{to}表示{n}{of}。",
    "将{n}{of}化为{to}。",
    "把{n}{of}改写成以{to}为单位。",
    "怎么把{n}{of}变成{to}？",
    "单位换算：{n}{of}等于多少{to}？",
    "你能把{n}{of}转换成{to}吗？",
    "我有{n}{of}，是多少{to}？",
    "我想知道{n}{of}合多少{to}。",
    "告诉我{n}{of}有多少{to}。",
    "已知{n}{of}，求多少{to}。",
    "算一下{n}{of}是几{to}。",
)
WORDINGS_ZH_HELD_OUT = ("请把{n}{of}换算成{to}。", "请问{n}{of}是多少{to}？")


@dataclass(frozen=True)
class Conversion:
    """A count of large units, and whether the question starts from them or from the small ones."""

    pair: Pair
    count: int
    is_upwards: bool

    @property
    def key(self) -> str:
        """Says which values these are; both directions share it."""
        return f"{self.count} {self.pair.large.one} {self.pair.small.one}"

    @property
    def numbers(self) -> tuple[int, int]:
        """The number in the question and the one in the result."""
        small = self.count * self.pair.factor
        return (small, self.count) if self.is_upwards else (self.count, small)

    @property
    def units(self) -> tuple[Unit, Unit]:
        """The unit of the question and the one of the result."""
        pair = self.pair
        return (pair.small, pair.large) if self.is_upwards else (pair.large, pair.small)

    @property
    def working(self) -> str:
        """The steps; a factor that is a power of ten only moves zeros, and 60 is 6 with a zero."""
        factor, small = self.pair.factor, self.numbers[0]
        if factor in (10, 100, 1000):
            return f"{small}={self.count}×{factor}." if self.is_upwards else f"{self.count}×{factor}={self.numbers[1]}."
        if factor == 60:
            return working.divide(small // 10, 6) if self.is_upwards else working.multiply(self.count, 6)
        return working.divide(small, factor) if self.is_upwards else working.multiply(self.count, factor)


def _convert(rng: random.Random) -> Conversion:
    """A conversion of any pair of units."""
    pair = rng.choice(PAIRS)
    most = rng.choice((9, 99, 99, 999, 999, 9999))
    count = rng.randrange(1, min(most, pair.most) + 1)
    return Conversion(pair, count, pair.is_asked_upwards and rng.random() < 0.4)


def _written(unit: Unit, number: int) -> str:
    """A unit after a number in an answer: 1 day, 2 days, 2 km."""
    return unit.one if number == 1 and unit.symbol == unit.many else unit.symbol


def _english(rng: random.Random, split: Split, asked: Conversion) -> Exchange:
    """A conversion asked in English."""
    (number, result), (of, to) = asked.numbers, asked.units
    is_short = rng.random() < 0.35
    template = wording(rng, split, WORDINGS, WORDINGS_HELD_OUT)
    if is_short:
        question = template.format(n=number, of=of.symbol, to=to.symbol)
    else:
        question = template.format(n=number, of=of.one if number == 1 else of.many, to=to.many)
    large, small = asked.pair.large, asked.pair.small
    thought = f"1 {_written(large, 1)} = {asked.pair.factor} {small.symbol}. {asked.working}"
    answer = f"{thought} {number} {_written(of, number)} = {result} {_written(to, result)}."
    return Exchange("units", question, answer, thought=thought)


def _chinese(rng: random.Random, split: Split, asked: Conversion) -> Exchange:
    """A conversion asked in Chinese."""
    (number, result), (of, to) = asked.numbers, asked.units
    template = wording(rng, split, WORDINGS_ZH, WORDINGS_ZH_HELD_OUT)
    question = template.format(n=number, of=of.chinese, to=to.chinese)
    pair = asked.pair
    thought = f"1{pair.large.chinese}={pair.factor}{pair.small.chinese}。{asked.working}"
    return Exchange("units", question, f"{thought} {number}{of.chinese}={result}{to.chinese}。", thought=thought)


def _temperature(rng: random.Random, split: Split) -> Exchange:
    """A multiple of five degrees Celsius in Fahrenheit, or the other way round."""
    celsius = 5 * rng.randrange(-8, 21)
    fifth, ninefold = celsius // 5, celsius // 5 * 9
    fahrenheit = ninefold + 32
    number, result, names, symbols = celsius, fahrenheit, ("Celsius", "Fahrenheit"), ("°C", "°F")
    thought = f"{celsius}÷5={fifth} {fifth}×9={ninefold} {ninefold}+32={fahrenheit}."
    if rng.random() < 0.5:
        number, result, names, symbols = fahrenheit, celsius, names[::-1], symbols[::-1]
        thought = f"{fahrenheit}-32={ninefold} {ninefold}÷9={fifth} {fifth}×5={celsius}."
    of, to = (f"degrees {names[0]}", f"degrees {names[1]}") if rng.random() < 0.5 else symbols
    question = wording(rng, split, WORDINGS, WORDINGS_HELD_OUT).format(n=number, of=of, to=to)
    return Exchange("units", question, f"{thought} {number} {symbols[0]} = {result} {symbols[1]}.", thought=thought)


def draw(rng: random.Random, split: Split) -> Exchange:
    """One conversion, with its working and its result."""
    if split != "values" and rng.random() < 0.08:
        return _temperature(rng, split)
    asked = fitting(rng, split, _convert, lambda made: made.key)
    return _chinese(rng, split, asked) if rng.random() < 0.2 else _english(rng, split, asked)

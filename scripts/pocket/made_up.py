"""Values that octavo-pocket has to copy: made-up names, towns, things, numbers, dates and codes, and some real ones.

They are so diverse that learning them by heart does not help. Every maker keeps to its side of the split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exchange import Split, fitting

Value = str | int | float
Maker = Callable[[random.Random, Split], Value]

ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh st th tr qu".split()
VOWELS = "a e i o u a e i o u a e i o u ai ea ee oo ou".split()
CODAS = "n r l s t m k d x nd rt sh ck ng".split()
ENDS = ["", "", "", "", *CODAS]
FIRST_NAMES = """Anna Ben Clara David Emma Felix Grace Henry Ivy Jack Kate Leo Maria Noah Olivia Paul Rosa Sam Tina
Victor Ada Omar Lin Yuki Ravi Priya Chen Fatima Ahmed Sofia Lucas Elena Igor Nina Hugo Zoe Ali Mei Carlos
Ingrid""".split()
TOWNS = """Berlin Paris Rome Madrid London Tokyo Oslo Lima Cairo Boston Chicago Dublin Vienna Prague Lisbon Athens Delhi
Seoul Sydney Toronto Denver Munich Milan Geneva Zurich Warsaw Helsinki Nairobi Bogota Hanoi""".split()
TOWN_ENDS = "ville ton burg field ford port dale wick stad ham mouth bury land by".split()
ADJECTIVES = """red blue green black white small big old new wooden heavy light golden silver soft warm cold plastic
round long short thin thick fast quiet folding electric spare""".split()
THINGS = """lamp table chair pen notebook kettle jacket scarf bicycle tent camera phone keyboard mouse bottle mug plate
shelf mirror clock carpet pillow ladder hammer drill backpack umbrella candle guitar drum ball puzzle kite shovel bucket
printer cable charger speaker monitor desk sofa blanket basket helmet""".split()
JOBS = """teacher doctor nurse baker farmer pilot driver painter lawyer engineer cook waiter gardener plumber writer
actor dentist tailor welder librarian""".split()
ANIMALS = "dog cat rabbit parrot hamster horse turtle goat pony canary goldfish lizard".split()
COLORS = "red blue green yellow black white brown gray orange purple pink".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()

SURNAMES_ZH = "王李张刘陈杨赵黄周吴徐孙马朱胡林郭何高罗"
GIVEN_ZH = "明华丽强芳伟军敏静杰涛超红玲平刚桂英文辉建国春梅海燕小雨雪云天宇思佳"
PLACES_ZH = "北南东西上下青白金石长安平江河山海州阳城宁川云林沙口泉"
TOWNS_ZH = "北京 上海 广州 深圳 杭州 成都 武汉 西安 南京 重庆 天津 苏州 青岛 长沙 大连 厦门".split()
THINGS_ZH = (
    "台灯 桌子 椅子 钢笔 本子 水壶 外套 围巾 自行车 帐篷 相机 手机 键盘 鼠标 杯子 镜子 地毯 枕头 雨伞 书包".split()
)
JOBS_ZH = "老师 医生 护士 司机 工程师 厨师 律师 作家 演员 画家 农民 会计".split()
DAYS_ZH = "周一 周二 周三 周四 周五 周六 周日".split()


def syllables(rng: random.Random, low: int, high: int) -> str:
    """A word of `low` to `high` syllables that nobody has seen."""
    count = rng.randint(low, high)
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(count)) + rng.choice(ENDS)


@dataclass(frozen=True)
class Held:
    """A maker of values some of which are kept from training, by their kind and text."""

    kind: str
    make: Callable[[random.Random], Value]

    def __call__(self, rng: random.Random, split: Split) -> Value:
        """A value of the split's side."""
        return fitting(rng, split, self.make, lambda value: f"{self.kind}:{value}")


def among(values: Sequence[Value]) -> Maker:
    """A maker of one of a few values; training sees them all."""
    return lambda rng, split: rng.choice(values)


def number(low: int, high: int) -> Maker:
    """A maker of whole numbers; of more than 200, some are kept from training."""
    if high - low < 200:
        return lambda rng, split: rng.randint(low, high)
    return Held("number", lambda rng: rng.randint(low, high))


def make_first_name(rng: random.Random) -> str:
    """A real first name, or more often a made-up one."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.2 else syllables(rng, 1, 2).capitalize()


def make_full_name(rng: random.Random) -> str:
    """A first name, half of the time with a last name."""
    first = make_first_name(rng)
    return first if rng.random() < 0.6 else f"{first} {syllables(rng, 1, 2).capitalize()}"


def make_town(rng: random.Random) -> str:
    """A real town, or more often a made-up one."""
    roll = rng.random()
    if roll < 0.3:
        return rng.choice(TOWNS)
    if roll < 0.65:
        return syllables(rng, 1, 1).capitalize() + rng.choice(TOWN_ENDS)
    if roll < 0.72:
        return rng.choice(("New", "Port", "Saint", "North", "Lake")) + " " + syllables(rng, 1, 2).capitalize()
    return syllables(rng, 2, 2).capitalize()


def make_thing(rng: random.Random) -> str:
    """A thing that one can buy, with or without an adjective; sometimes made up."""
    thing = rng.choice(THINGS) if rng.random() < 0.75 else syllables(rng, 1, 2)
    return f"{rng.choice(ADJECTIVES)} {thing}" if rng.random() < 0.6 else thing


def make_things(rng: random.Random) -> str:
    """Several things of a kind."""
    return make_thing(rng).rstrip("sxh") + "s"


def make_title(rng: random.Random) -> str:
    """The title of a book or a song."""
    word = syllables(rng, 1, 2).capitalize() if rng.random() < 0.6 else rng.choice(THINGS).capitalize()
    form = rng.choice(("The {} {}", "{} {}", "A {} {}", "My {} {}"))
    return form.format(rng.choice(ADJECTIVES).capitalize(), word)


def make_code(rng: random.Random) -> str:
    """A code of capitals and digits, as orders, flights and rooms have them."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    return letters + rng.choice(("", "", "-")) + str(rng.randint(10, 99999))


def make_time(rng: random.Random) -> str:
    """A time of day."""
    return f"{rng.randint(0, 23):d}:{rng.randint(0, 59):02d}"


def make_date(rng: random.Random) -> str:
    """A day of a month, or an ISO date."""
    if rng.random() < 0.3:
        return f"{rng.randint(1990, 2039)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    name, number = rng.choice(MONTHS), rng.randint(1, 28)
    return f"{name} {number}" if rng.random() < 0.6 else f"{number} {name}"


def make_price(rng: random.Random) -> int | float:
    """A price; the text shows it as JSON does, so cents do not end in 0."""
    return rng.randint(1, 2000) if rng.random() < 0.5 else round(rng.randint(0, 300) + rng.choice(CENTS), 2)


CENTS = [cents / 100 for cents in range(1, 100) if cents % 10]


def make_decimal(rng: random.Random) -> float:
    """A number with one decimal that is not 0."""
    return round(rng.randint(0, 99) + rng.randint(1, 9) / 10, 1)


def make_phone(rng: random.Random) -> str:
    """A telephone number."""
    return f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"


def make_email(rng: random.Random) -> str:
    """An e-mail address."""
    return f"{make_first_name(rng).lower()}@{syllables(rng, 1, 2)}.{rng.choice(('com', 'org', 'net', 'io'))}"


def make_name_zh(rng: random.Random) -> str:
    """A Chinese name."""
    return rng.choice(SURNAMES_ZH) + "".join(rng.choice(GIVEN_ZH) for _ in range(rng.randint(1, 2)))


def make_town_zh(rng: random.Random) -> str:
    """A Chinese town, real or made up."""
    return rng.choice(TOWNS_ZH) if rng.random() < 0.3 else "".join(rng.sample(PLACES_ZH, 2))


first_name = Held("name", make_first_name)
full_name = Held("name", make_full_name)
town = Held("town", make_town)
thing = Held("thing", make_thing)
things = Held("things", make_things)
title = Held("title", make_title)
code = Held("code", make_code)
time = Held("time", make_time)
date = Held("date", make_date)
price = Held("price", make_price)
decimal = Held("decimal", make_decimal)
phone = Held("phone", make_phone)
email = Held("email", make_email)
word = Held("word", lambda rng: syllables(rng, 1, 2))
company = Held(
    "company", lambda rng: syllables(rng, 1, 2).capitalize() + rng.choice(("", "", " Ltd", " Group", "soft"))
)
name_zh = Held("name", make_name_zh)
town_zh = Held("town", make_town_zh)
job = among(JOBS)
animal = among(ANIMALS)
color = among(COLORS)
day = among(DAYS)
month = among(MONTHS)
thing_zh = among(THINGS_ZH)
job_zh = among(JOBS_ZH)
day_zh = among(DAYS_ZH)

"""Short stories with a hero that the question names: ten plots in English and five in Chinese, with open places."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import made_up
from exchange import Exchange, Split, wording


@dataclass(frozen=True)
class Hero:
    """Who a story is about, with the words that stand for them."""

    kind: str
    they: str
    them: str
    their: str


ANIMALS = (
    "fox bear mouse rabbit cat dog owl hedgehog wolf lion tiger elephant duck goose frog turtle squirrel badger horse "
    "donkey penguin crow deer goat sheep pig monkey whale dragon robot snail bee dolphin parrot".split()
)
SHE, HE = ("girl", "princess", "queen", "witch", "mother"), ("boy", "prince", "king", "wizard", "father")
CREW = ("pilot", "sailor", "baker", "farmer", "teacher", "doctor", "painter")
HEROES = (
    *(Hero(kind, "it", "it", "its") for kind in ANIMALS),
    *(Hero(kind, "she", "her", "her") for kind in (*SHE, *CREW[:4])),
    *(Hero(kind, "he", "him", "his") for kind in (*HE, *CREW[4:])),
)
PLACES = (
    "in a forest", "in a small village", "by the sea", "on a farm", "in a big city", "near a lake", "on an island",
    "in the mountains", "in an old castle", "in a garden", "in the desert", "by a river", "in a quiet valley",
)  # fmt: skip
THINGS = (
    "golden key", "red kite", "small lamp", "silver bell", "blue stone", "wooden boat", "map", "warm hat", "green seed",
    "music box", "lost ring", "paper star", "glass ball", "drum", "round shell",
)  # fmt: skip
FRIENDS = tuple(kind for kind in ANIMALS if kind not in ("whale", "dragon", "dolphin"))

PLOTS: Sequence[Sequence[tuple[str, ...]]] = (
    (
        ("One day {they} found a {thing}.", "One morning {name} found a {thing} in the grass."),
        ("It belonged to an old {friend}.", "A little {friend} was looking for it everywhere."),
        ("{name} gave it back at once.", "So {name} brought it back."),
        ("From then on they were best friends.", "The {friend} was so happy that they danced all night."),
    ),
    (
        ("One night there was a big storm.", "One evening a storm came."),
        ("A {friend} knocked at the door, wet and cold.", "{name} heard a {friend} call for help."),
        ("{name} let the {friend} in and made hot soup.", "{name} made a fire and shared a blanket."),
        ("In the morning the sun shone, and {name} had a new friend.", "When the storm was over, they were friends."),
    ),
    (
        ("{name} wanted to see the world.", "{name} dreamed of a long journey."),
        ("So {they} packed a {thing} and walked for three days.", "With a {thing} in {their} bag {they} set out."),
        ("On the way {they} met a {friend} who knew many songs.", "A {friend} showed {them} the way."),
        ("In the end {name} came home, because home is the best place.", "{name} came home with a hundred stories."),
    ),
    (
        ("{name} was afraid of the dark.", "Every night {name} was afraid of the dark."),
        ("One night a {friend} got lost outside.", "Then one night {they} heard a {friend} cry."),
        ("{name} took a lamp and went out to look.", "{name} was brave and went out with a lamp."),
        ("{They} found the {friend} and was never afraid again.", "Together they walked home under the stars."),
    ),
    (
        ("{name} could not sing at all.", "{name} wished to sing."),
        ("Every day {they} practiced with a {friend}.", "A kind {friend} gave {them} lessons."),
        ("It took a whole year.", "At first it sounded awful, but {they} did not give up."),
        ("At the feast {name} sang, and everybody clapped.", "Now everybody comes to hear {name} sing."),
    ),
    (
        ("{name} and a {friend} planted a tiny seed.", "A {friend} gave {name} a seed."),
        ("{name} gave it water every day.", "It got water and sun every day."),
        ("By summer it was a tall tree full of apples.", "Soon it was the tallest tree of all."),
        ("{name} shared the apples with everyone.", "Even the {friend} got an apple."),
    ),
    (
        ("One day {name} and a {friend} ran a race.", "A proud {friend} wanted to race against {name}."),
        ("The {friend} was faster, but it fell and hurt its foot.", "Halfway the {friend} hurt its foot."),
        ("{name} stopped and helped the {friend}.", "So {name} came back to help."),
        ("They crossed the line together.", "Nobody won, and both were happy."),
    ),
    (
        ("{name} baked a big cake.", "It was {their} birthday, and {name} baked a cake."),
        ("But when {they} came back, the cake was gone!", "Suddenly the cake was gone!"),
        ("A trail of crumbs led to a hungry {friend}.", "Behind a tree sat a {friend} full of cake."),
        ("{name} laughed, and they baked a new one together.", "The {friend} said sorry, and {name} forgave it."),
    ),
    (
        ("{name} built a boat out of an old door.", "All winter {name} built a boat."),
        ("With a {friend} {they} sailed out in spring.", "A {friend} came along."),
        ("They found an island with a {thing} on the beach.", "A big wave brought them to a new island."),
        ("They still tell everybody about it.", "It was the best trip of their lives."),
    ),
    (
        ("One winter there was nothing to eat.", "It was a long, cold winter."),
        ("{name} had only one loaf of bread left.", "{name} had just a few nuts."),
        ("But {they} shared with a {friend}.", "When a hungry {friend} came, {they} gave it half."),
        ("In spring the {friend} brought {them} a {thing} as thanks.", "In spring the {friend} paid it back twice."),
    ),
)
OPENINGS = (
    "Once upon a time there was a {kind} named {name} who lived {place}.",
    "Once upon a time a {kind} named {name} lived {place}.",
    "There once was a {kind} called {name}, who lived {place}.",
    "{name} was a {kind} who lived {place}.",
)
WORDINGS = (
    "Tell me a story about a {kind} named {name}.",
    "Tell me a short story about a {kind} called {name}.",
    "Tell a story about {name} the {kind}.",
    "Tell me a story about {name}, a {kind} who lives {place}.",
    "Can you tell me a story about a {kind} named {name}?",
    "Could you tell a story about {name}, the {kind}?",
    "Please tell me a story about a {kind} named {name}.",
    "Write a story about a {kind} named {name}.",
    "Write a short story about a {kind} called {name} {place}.",
    "Write me a short story about {name} the {kind}.",
    "Make up a story about a {kind} named {name}.",
    "Make up a short tale about {name}, a {kind}.",
    "I want a story about a {kind} called {name}.",
    "I would like to hear a story about a {kind} named {name}.",
    "Give me a little story about a {kind} called {name}.",
    "Do you know a story about a {kind} named {name}?",
    "Invent a story about {name} the {kind}, please.",
    "A story about a {kind} named {name}, please.",
    "A bedtime story about a {kind} called {name}!",
    "My child wants a story about {name} the {kind}.",
    "Let me hear a story about a {kind} named {name} {place}.",
    "Tell us a story with a {kind} called {name} in it.",
)
WORDINGS_HELD_OUT = (
    "Could you write me a short story about a {kind} named {name}?",
    "I'd like a little story about {name} the {kind}.",
    "Please make up a tale about a {kind} called {name}.",
    "Tell my child a bedtime story about a {kind} named {name}.",
    "Can you invent a story about {name}, a {kind} who lives {place}?",
)

HEROES_ZH = tuple(
    "狐狸 小熊 老鼠 兔子 小猫 小狗 猫头鹰 刺猬 狼 狮子 大象 鸭子 青蛙 乌龟 松鼠 企鹅 小鹿 猴子 机器人 女孩 男孩".split()
)
PLACES_ZH = ("森林里", "小村子里", "海边", "农场里", "大城市里", "湖边", "小岛上", "山上", "花园里", "河边")
THINGS_ZH = ("金钥匙", "红风筝", "小灯", "银铃", "蓝石头", "木船", "地图", "音乐盒", "戒指", "贝壳")
PLOTS_ZH = (
    (
        "有一天，{name}捡到了{thing}。",
        "那是{friend}丢的，它正到处找。",
        "{name}马上还给了它。",
        "从此{name}和{friend}成了好朋友。",
    ),
    (
        "一天晚上，来了一场大风雨。",
        "{name}听见{friend}在门外求救。",
        "{name}让它进屋，给它喝热汤。",
        "天亮了，{name}和{friend}成了好朋友。",
    ),
    (
        "{name}想去看看世界。",
        "{name}带着{thing}走了三天。",
        "路上{name}遇见了{friend}。",
        "最后{name}回到了家，因为家最好。",
    ),
    (
        "{name}种下一颗种子。",
        "{name}每天给它浇水。",
        "夏天，它长成了一棵大苹果树。",
        "{name}把苹果分给了{friend}和大家。",
    ),
    (
        "{name}做了一个大蛋糕。",
        "可是蛋糕忽然不见了！",
        "原来是饿了的{friend}吃掉了。",
        "{name}笑了，又和它一起做了一个。",
    ),
)
WORDINGS_ZH = (
    "给我讲一个关于{kind}{name}的故事。",
    "讲一个{kind}的故事，名字叫{name}。",
    "请讲一个关于{kind}{name}的故事。",
    "你能讲一个{kind}{name}的故事吗？",
    "写一个关于{kind}{name}的小故事。",
    "我想听{kind}{name}的故事。",
    "编一个故事，主角是叫{name}的{kind}。",
    "来一个{kind}的睡前故事，名字叫{name}。",
)
WORDINGS_ZH_HELD_OUT = ("请给我讲一个{kind}{name}的小故事。", "你能写一个关于{kind}{name}的故事吗？")


def _english(rng: random.Random, split: Split) -> Exchange:
    """A story in English about a hero with a name on the side of the split."""
    hero, name = rng.choice(HEROES), str(made_up.first_name(rng, split))
    blanks = {
        "name": name,
        "kind": hero.kind,
        "they": hero.they,
        "They": hero.they.capitalize(),
        "them": hero.them,
        "their": hero.their,
        "place": rng.choice(PLACES),
        "thing": rng.choice(THINGS),
        "friend": rng.choice([kind for kind in FRIENDS if kind != hero.kind]),
    }
    asked = wording(rng, split, WORDINGS, WORDINGS_HELD_OUT).format(**blanks)
    told = [rng.choice(OPENINGS), *(rng.choice(versions) for versions in rng.choice(PLOTS)), "The end."]
    question, story = (_with_article(text) for text in (asked, " ".join(told).format(**blanks)))
    return Exchange("stories", question, story, facts=((name,), ("The end.",)))


def _with_article(text: str) -> str:
    """The text with "an" before a vowel."""
    for start in ("elephant", "owl"):
        text = text.replace(f" a {start}", f" an {start}").replace(f"A {start}", f"An {start}")
    return text


def _chinese(rng: random.Random, split: Split) -> Exchange:
    """A story in Chinese."""
    kind, name = rng.choice(HEROES_ZH), str(made_up.name_zh(rng, split))
    friend = rng.choice([each for each in HEROES_ZH[:-3] if each != kind])
    place, thing = rng.choice(PLACES_ZH), rng.choice(THINGS_ZH)
    question = wording(rng, split, WORDINGS_ZH, WORDINGS_ZH_HELD_OUT).format(kind=kind, name=name)
    told = f"从前，{place}住着{kind}{name}。{''.join(rng.choice(PLOTS_ZH))}完。"
    return Exchange("stories", question, told.format(name=name, friend=friend, thing=thing), facts=((name,), ("完。",)))


def draw(rng: random.Random, split: Split) -> Exchange:
    """A wish for a story, and a story."""
    return _chinese(rng, split) if rng.random() < 0.2 else _english(rng, split)

"""Sentiment: sentences put together from words of known polarity, answered with one word.

Neutral sentences state facts. A fact beside an opinion leaves the opinion's label; opinions that disagree with each
other never meet, because their label would be a matter of taste.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from exchange import Exchange, Split, fitting, wording

Label = Literal["positive", "negative", "neutral"]
LABELS: tuple[Label, ...] = ("positive", "negative", "neutral")
LABELS_ZH = {"positive": "正面", "negative": "负面", "neutral": "中性"}


@dataclass(frozen=True)
class Topic:
    """What is said about one kind of thing: nouns, adjectives for and against it, whole clauses, and bare facts."""

    nouns: Sequence[str]
    good: Sequence[str]
    bad: Sequence[str]
    praise: Sequence[str]
    blame: Sequence[str]
    plain: Sequence[str]


GOOD = (
    "good great excellent wonderful fantastic amazing awesome superb brilliant terrific lovely delightful perfect "
    "outstanding marvelous splendid fabulous impressive enjoyable pleasant nice charming beautiful remarkable "
    "exceptional incredible magnificent stunning flawless satisfying fun cool fine adorable gorgeous phenomenal "
    "first-class top-notch memorable admirable sensational spectacular likable thrilling super".split()
)
BAD = (
    "bad awful terrible horrible dreadful poor disappointing mediocre lousy annoying boring ugly unpleasant horrid "
    "dull pathetic useless worthless frustrating irritating atrocious appalling abysmal disastrous miserable shameful "
    "unacceptable laughable tedious nasty disgusting hopeless unbearable ghastly inferior second-rate depressing "
    "tiresome unsatisfying regrettable embarrassing dismal painful sloppy".split()
)
FEELINGS_GOOD = "happy glad proud excited thrilled delighted cheerful grateful hopeful relaxed joyful content".split()
FEELINGS_BAD = "sad angry upset lonely worried furious miserable unhappy scared ashamed bitter devastated".split()

TOPICS = (
    Topic(
        ("film", "movie", "show", "plot", "acting", "ending", "documentary", "series", "comedy"),
        ("gripping", "funny", "moving", "touching", "witty", "exciting"),
        ("predictable", "pointless", "silly", "shallow", "confusing", "lifeless"),
        ("I laughed from start to finish", "I could watch it again and again", "It deserves every award",
         "The actors did a great job", "I was moved to tears in the best way", "It kept me on the edge of my seat"),
        ("I fell asleep halfway through", "I want my two hours back", "It was a waste of time",
         "The actors did a terrible job", "I walked out of the cinema", "The story makes no sense"),
        ("It lasts {n} minutes", "It was made in {year}", "It starts at {hour}", "It has {n} scenes",
         "It was filmed in {town}", "It is shown on {day}"),
    ),
    Topic(
        ("food", "pizza", "soup", "dinner", "restaurant", "meal", "cake", "coffee", "breakfast", "curry"),
        ("delicious", "tasty", "fresh", "yummy", "mouth-watering", "flavorful"),
        ("tasteless", "stale", "greasy", "burnt", "overpriced", "inedible"),
        ("I would order it again", "Every bite was a joy", "It tasted like heaven", "I licked the plate clean",
         "I want the recipe", "My kids asked for more"),
        ("It made me sick", "I found a hair in it", "It tasted like cardboard", "I left half of it on the plate",
         "I would never order it again", "It came cold and late"),
        ("It costs {n} dollars", "It is served at {hour}", "It comes with rice", "It contains {n} calories",
         "We ate it on {day}", "It is on page {n} of the menu"),
    ),
    Topic(
        ("hotel", "room", "hostel", "apartment", "bed", "view", "pool", "lobby"),
        ("cozy", "comfortable", "spotless", "luxurious", "quiet", "welcoming"),
        ("dirty", "noisy", "smelly", "moldy", "cramped", "run-down"),
        ("I slept like a baby", "We felt at home at once", "We will come back next year", "I wish I could stay longer",
         "The staff spoiled us", "It was worth every cent"),
        ("There were bugs in the bed", "I could not sleep at all", "We will never come back", "The shower was broken",
         "It smelled of smoke", "It was not worth the money"),
        ("It has {n} rooms", "It is in {town}", "Check-in is at {hour}", "It was built in {year}",
         "It is {n} meters from the station", "We arrived on {day}"),
    ),
    Topic(
        ("phone", "laptop", "camera", "tablet", "screen", "battery", "keyboard", "printer", "watch", "vacuum",
         "product", "purchase"),
        ("reliable", "fast", "sturdy", "powerful", "handy", "well-made"),
        ("defective", "unreliable", "slow", "flimsy", "buggy", "cheaply made"),
        ("It works like a charm", "It is worth every penny", "It exceeded my expectations", "I would buy it again",
         "It makes my life easier", "It is the best purchase I ever made"),
        ("It broke after two days", "It is a waste of money", "It keeps crashing", "I want a refund",
         "It stopped working at once", "It is the worst purchase I ever made"),
        ("It weighs {n} grams", "It comes in black", "It has {n} buttons", "It was made in {town}",
         "It came out in {year}", "I bought it on {day}"),
    ),
    Topic(
        ("service", "staff", "waiter", "support", "delivery", "driver", "doctor", "teacher", "manager", "clerk"),
        ("friendly", "helpful", "polite", "kind", "patient", "professional"),
        ("rude", "unfriendly", "lazy", "arrogant", "careless", "incompetent"),
        ("They solved my problem in a minute", "They went out of their way to help", "I felt in good hands",
         "They treated us like family", "They answered all my questions with a smile", "I cannot thank them enough"),
        ("They ignored us for an hour", "They shouted at me", "They never answered my calls", "They lost my order",
         "They treated us like dirt", "Nobody helped me"),
        ("They open at {hour}", "They are closed on {day}", "They have an office in {town}",
         "They have {n} employees", "They started in {year}", "They sent {n} letters"),
    ),
    Topic(
        ("weather", "morning", "beach", "park", "garden", "trip", "holiday", "weekend", "party", "flight", "day",
         "experience", "place"),
        ("sunny", "peaceful", "refreshing", "magical", "unforgettable", "glorious"),
        ("gloomy", "chaotic", "exhausting", "stressful", "dreary", "ruined"),
        ("We had the time of our lives", "I did not want to go home", "Everybody was smiling",
         "I feel like a new person", "It was a dream come true", "The kids had a blast"),
        ("We got soaked and froze", "Everything went wrong", "We wanted to go home at once", "Nobody had any fun",
         "It was a nightmare", "My luggage was lost"),
        ("It is {n} degrees today", "It begins at {hour}", "It ends on {day}", "It is near {town}",
         "We were {n} people", "We took a train to {town}"),
    ),
    Topic(
        ("game", "app", "website", "puzzle", "update", "level", "controller"),
        ("addictive", "polished", "easy to use", "entertaining", "smooth", "clever"),
        ("broken", "repetitive", "laggy", "unfair", "clumsy", "full of ads"),
        ("I cannot put it down", "I play it every evening with joy", "Everyone should try it",
         "It runs without a hitch", "Hours fly by", "It gets better every time"),
        ("I deleted it after a day", "It crashes all the time", "I want to throw it away", "It froze my computer",
         "It gets worse with every update", "I regret installing it"),
        ("It has {n} levels", "It was released in {year}", "It needs {n} megabytes", "It is for two players",
         "I installed it on {day}", "The new version comes on {day}"),
    ),
    Topic(
        ("book", "novel", "story", "song", "album", "concert", "painting", "museum", "course", "lecture", "poem"),
        ("inspiring", "captivating", "insightful", "fascinating", "elegant", "uplifting"),
        ("monotonous", "long-winded", "cheesy", "unreadable", "uninspired", "clichéd"),
        ("I could not stop smiling", "It changed my life for the better", "I learned so much",
         "I have told all my friends to get it", "It gave me goosebumps", "It is a masterpiece"),
        ("I gave up after ten minutes", "It put me to sleep", "I learned nothing", "I want my money back",
         "It gave me a headache", "It is an insult to the audience"),
        ("It has {n} pages", "It was written in {year}", "It is about a town called {town}", "It begins at {hour}",
         "I borrowed it on {day}", "There are {n} copies of it"),
    ),
    Topic(
        ("car", "bike", "sofa", "jacket", "shirt", "bag", "chair", "lamp", "house", "pair of shoes", "dress"),
        ("stylish", "soft", "durable", "classy", "roomy", "good value"),
        ("uncomfortable", "shabby", "torn", "badly made", "faulty", "scratched"),
        ("It fits perfectly", "I get compliments all the time", "It looks even better than in the pictures",
         "I am over the moon with it", "It was a bargain", "I use it every day with pleasure"),
        ("It fell apart after a week", "It looks nothing like the pictures", "I sent it back at once",
         "It hurts my back", "It was a rip-off", "The color washed out at once"),
        ("It is {n} centimeters wide", "It is blue", "It was sold on {day}", "It comes from {town}",
         "It is from {year}", "It costs {n} euros"),
    ),
)  # fmt: skip

TOWNS = "London Paris Rome Berlin Madrid Tokyo Boston Chicago Oslo Vienna Lisbon Dublin Milan Cairo Lima Delhi".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
DEGREES = ("", "", "", "", "very ", "really ", "so ", "absolutely ", "truly ", "just ", "simply ", "quite ", "pretty ")
OPINIONS = (
    "{The} {noun} was {degree}{word}.",
    "{The} {noun} is {degree}{word}.",
    "{The} {noun} was {degree}{word}!",
    "{The} {noun} seems {degree}{word}.",
    "{The} {noun} is honestly {word}.",
    "I honestly find {the} {noun} {word}.",
    "{The} {noun} turned out to be {word}.",
    "{The} {noun} has been {degree}{word}.",
    "I found {the} {noun} {degree}{word}.",
    "I think {the} {noun} is {degree}{word}.",
    "In my opinion {the} {noun} was {word}.",
    "Everyone says {the} {noun} is {word}.",
    "My friends find {the} {noun} {word}.",
    "What {a} {noun}!",
    "This is {a} {noun}.",
    "That was {a} {noun}.",
    "It was {a} {noun}.",
    "We had {a} {noun}.",
    "Such {a} {noun}!",
    "How {word} {the} {noun} is!",
    "{Word} {noun}.",
    "{The} {noun}? {Word}!",
    "{The} {noun} could not be more {word}.",
    "{The} {noun} was {word} from start to finish.",
    "{The} {noun} is {word}, no doubt about it.",
)
OPINIONS_HELD_OUT = (
    "Honestly, {the} {noun} was {degree}{word}.",
    "We found {the} {noun} {degree}{word}.",
    "For me {the} {noun} is {word}.",
    "They had {a} {noun}!",
)
NEGATIONS = (
    "{The} {noun} was not {word} at all.",
    "{The} {noun} is not {word}.",
    "{The} {noun} was not {word}.",
    "{The} {noun} wasn't {word}.",
    "{The} {noun} isn't {word} at all.",
    "{The} {noun} was never {word}.",
    "{The} {noun} was far from {word}.",
    "{The} {noun} is anything but {word}.",
    "I don't think {the} {noun} is {word}.",
    "I do not find {the} {noun} {word}.",
    "Nobody would call {the} {noun} {word}.",
    "Not {a} {noun} at all.",
    "It was not {a} {noun}.",
)
NEGATIONS_HELD_OUT = (
    "{The} {noun} isn't {word}.",
    "I do not think {the} {noun} was {word}.",
    "This is not {a} {noun}.",
)
VERBS = {
    "positive": ("love", "like", "enjoy", "adore", "recommend", "admire", "appreciate"),
    "negative": ("hate", "dislike", "regret", "despise", "detest", "resent", "loathe"),
}
DEEDS = (
    "I {verb} {the} {noun}.",
    "I {verb} {the} {noun}!",
    "I {verb} it.",
    "I {verb} it so much!",
    "I really {verb} {the} {noun}.",
    "We all {verb} {the} {noun}.",
    "I {verb} {the} {noun} very much.",
    "People {verb} {the} {noun}.",
    "I must say that I {verb} {the} {noun}.",
    "My parents {verb} {the} {noun}.",
)
DEEDS_HELD_OUT = ("We {verb} {the} {noun}.", "My friends really {verb} {the} {noun}.")
REFUSALS = (
    "I do not {verb} {the} {noun}.",
    "I don't {verb} {the} {noun}.",
    "I don't {verb} it.",
    "I did not {verb} {the} {noun} at all.",
    "We didn't {verb} {the} {noun}.",
    "Nobody could {verb} {the} {noun}.",
    "I would not {verb} {the} {noun}.",
)
REFUSALS_HELD_OUT = ("I didn't {verb} {the} {noun}.", "We do not {verb} {the} {noun} at all.")
SURPRISES = (
    "I expected {the} {noun} to be {other}, but it was {word}.",
    "I thought {the} {noun} would be {other}, but it is {word}.",
    "People told me {the} {noun} was {other}, but I find it {word}.",
)
SURPRISES_HELD_OUT = ("We expected {the} {noun} to be {other}, but it turned out to be {word}.",)
MOODS = (
    "I am {degree}{feeling} today.",
    "I feel {degree}{feeling}.",
    "This makes me {degree}{feeling}.",
    "We are {degree}{feeling} about {the} {noun}.",
    "I'm {feeling} because of {the} {noun}.",
    "{The} {noun} made me {feeling}.",
    "I have never been so {feeling}.",
)
MOODS_HELD_OUT = ("I am {feeling} about {the} {noun}.", "{The} {noun} makes us {degree}{feeling}.")
FACTS = (
    "{The} {noun} is in {town}.",
    "I saw {the} {noun} on {day}.",
    "I told my brother about {the} {noun} at {hour}.",
    "There is a {noun} in {town}.",
    "{The} {noun} is from {year}.",
    "My neighbor has {n} photos of {the} {noun}.",
    "They talked about {the} {noun} on {day}.",
    "{The} {noun} is the same as on {day}.",
    "A report on {the} {noun} has {n} pages.",
    "We heard about {the} {noun} in {year}.",
    "{The} {noun} has the number {n}.",
    "My sister asked about {the} {noun}.",
    "I read about {the} {noun} in {town}.",
)
FACTS_HELD_OUT = ("My brother saw {the} {noun} in {town}.", "I asked about {the} {noun} on {day}.")

INSTRUCTIONS = (
    "Is this positive, negative or neutral? {}",
    "Is this review positive, negative or neutral? {}",
    "Is this sentence positive, negative or neutral: {}",
    "What is the sentiment of this sentence? {}",
    "What is the sentiment of this review? {}",
    "What is the sentiment: {}",
    "What's the sentiment here? {}",
    "Classify the sentiment: {}",
    "Classify the sentiment of this text: {}",
    "Classify this as positive, negative or neutral: {}",
    "Classify this review: {}",
    "Sentiment: {}",
    "Sentiment of this review: {}",
    "Sentiment? {}",
    "Label this text as positive, negative or neutral: {}",
    "Label the sentiment of this sentence: {}",
    "Tell me if this is positive, negative or neutral: {}",
    "Tell me the sentiment of this: {}",
    "Does this sound positive, negative or neutral? {}",
    "Positive, negative or neutral? {}",
    "Positive, negative, or neutral: {}",
    "Determine the sentiment of this sentence: {}",
    "Decide whether this is positive, negative or neutral: {}",
    "How does the writer feel: positive, negative or neutral? {}",
    "Rate the sentiment (positive, negative, neutral): {}",
    "Can you classify the sentiment of this? {}",
    "Could you tell me the sentiment of this comment? {}",
    "Please classify the sentiment of this review. {}",
    "Answer with one word, positive, negative or neutral: {}",
    "Is the tone positive, negative or neutral? {}",
    "{} Is this positive, negative or neutral?",
    "{} What is the sentiment?",
    "{} Sentiment?",
    "{} Positive, negative or neutral?",
    "{} Classify the sentiment of this review.",
    "{} Is that a positive, a negative or a neutral sentence?",
)
INSTRUCTIONS_HELD_OUT = (
    "Is this comment positive, negative or neutral? {}",
    "What sentiment does this sentence have? {}",
    "Please tell me the sentiment of this text: {}",
    "Classify this sentence as positive, negative or neutral: {}",
    "Would you say this is positive, negative or neutral? {}",
    "{} Is this review positive, negative or neutral?",
    "{} What is the sentiment of this sentence?",
)


@dataclass(frozen=True)
class Sample:
    """A text with its label."""

    text: str
    label: Label


def _opposite(label: Label) -> Label:
    return "negative" if label == "positive" else "positive"


def _word(rng: random.Random, topic: Topic, label: Label) -> str:
    """An adjective of a polarity, of the topic or for anything."""
    special, general = (topic.good, GOOD) if label == "positive" else (topic.bad, BAD)
    return rng.choice(special if rng.random() < 0.35 else general)


def _fill(rng: random.Random, template: str, topic: Topic, label: Label, word: str) -> str:
    """The template with a noun, the word and what else it asks for."""
    the = rng.choice(("the", "the", "this", "that", "my", "their"))
    return template.format(
        the=the,
        The=the.capitalize(),
        noun=rng.choice(topic.nouns),
        degree=rng.choice(DEGREES),
        word=word,
        Word=word.capitalize(),
        a=f"{'an' if word[:1] in tuple('aeiou') else 'a'} {word}",
        other=_word(rng, topic, _opposite(label)),
        verb=rng.choice(VERBS["positive" if label == "neutral" else label]),
        feeling=rng.choice(FEELINGS_GOOD if label == "positive" else FEELINGS_BAD),
        town=rng.choice(TOWNS),
        day=rng.choice(DAYS),
        hour=rng.choice(("7", "8", "9", "10", "half past six", "noon", "midnight")),
        year=rng.randrange(1950, 2026),
        n=rng.randrange(2, 400),
    )


def _fact(rng: random.Random, topic: Topic, split: Split) -> str:
    """A sentence without an opinion."""
    if rng.random() < 0.5 and split != "templates":
        return _fill(rng, rng.choice(topic.plain) + ".", topic, "neutral", "")
    return _fill(rng, wording(rng, split, FACTS, FACTS_HELD_OUT), topic, "neutral", "")


def _opinion(rng: random.Random, topic: Topic, label: Label, split: Split) -> str:
    """A sentence with an opinion of the label; what is negated has the opposite one."""
    roll = rng.random()
    word, opposite = _word(rng, topic, label), _opposite(label)
    if roll < 0.2 and split != "templates":
        return rng.choice(topic.praise if label == "positive" else topic.blame) + rng.choice(".!")
    if roll < 0.5:
        return _fill(rng, wording(rng, split, OPINIONS, OPINIONS_HELD_OUT), topic, label, word)
    if roll < 0.68:
        negated = _word(rng, topic, opposite)
        return _fill(rng, wording(rng, split, NEGATIONS, NEGATIONS_HELD_OUT), topic, label, negated)
    if roll < 0.80 or (roll < 0.87 and label == "positive"):
        return _fill(rng, wording(rng, split, DEEDS, DEEDS_HELD_OUT), topic, label, word)
    if roll < 0.87:
        return _fill(rng, wording(rng, split, REFUSALS, REFUSALS_HELD_OUT), topic, "positive", word)
    if roll < 0.93:
        return _fill(rng, wording(rng, split, MOODS, MOODS_HELD_OUT), topic, label, word)
    return _fill(rng, wording(rng, split, SURPRISES, SURPRISES_HELD_OUT), topic, label, word)


def _sample(rng: random.Random, split: Split) -> Sample:
    """A text of one or two sentences about one topic."""
    topic, label = rng.choice(TOPICS), rng.choice(LABELS)
    is_long = rng.random() < 0.35
    if label == "neutral":
        text = _fact(rng, topic, split)
        return Sample(f"{text} {_fact(rng, topic, 'train')}" if is_long else text, label)
    text = _opinion(rng, topic, label, split)
    if is_long:
        second = _fact(rng, topic, "train") if rng.random() < 0.4 else _opinion(rng, topic, label, "train")
        first, second = rng.sample((text, second), 2)
        if rng.random() < 0.3:
            rest = second if second.startswith(("I ", "I'm ")) else second[0].lower() + second[1:]
            return Sample(f"{first[:-1]} and {rest}", label)
        text = f"{first} {second}"
    return Sample(text, label)


NOUNS_ZH = (
    "电影",
    "饭菜",
    "酒店",
    "房间",
    "手机",
    "电脑",
    "服务",
    "天气",
    "游戏",
    "书",
    "音乐",
    "课程",
    "咖啡",
    "衣服",
    "软件",
    "旅行",
)
GOOD_ZH = (
    "好",
    "棒",
    "精彩",
    "优秀",
    "完美",
    "出色",
    "令人满意",
    "让人开心",
    "值得推荐",
    "让人惊喜",
    "舒服",
    "漂亮",
    "有意思",
    "可靠",
)
BAD_ZH = (
    "差",
    "糟糕",
    "无聊",
    "可怕",
    "难看",
    "让人失望",
    "让人生气",
    "让人难受",
    "浪费钱",
    "恶心",
    "讨厌",
    "没意思",
    "粗糙",
    "烦人",
)
OPINIONS_ZH = (
    "这{noun}很{word}。",
    "这个{noun}非常{word}。",
    "我觉得{noun}真{word}。",
    "{noun}太{word}了！",
    "那里的{noun}特别{word}。",
    "大家都说{noun}很{word}。",
    "今天的{noun}十分{word}。",
    "他们的{noun}实在太{word}了。",
    "没想到{noun}这么{word}！",
)
OPINIONS_ZH_HELD_OUT = ("我认为{noun}非常{word}。", "他们的{noun}真{word}！")
NEGATIONS_ZH = ("这{noun}一点也不{word}。", "{noun}并不{word}。", "我觉得{noun}不{word}。", "{noun}根本不{word}。")
NEGATIONS_ZH_HELD_OUT = ("我觉得{noun}并不{word}。", "他们的{noun}一点也不{word}。")
NEGATED_ZH = {
    "positive": ("无聊", "糟糕", "可怕", "难看", "烦人", "差"),
    "negative": ("好", "精彩", "舒服", "漂亮", "可靠", "完美"),
}
CLAUSES_ZH = {
    "positive": (
        "我很喜欢这{noun}。",
        "我爱这个{noun}！",
        "下次还会选这个{noun}。",
        "我要把这{noun}推荐给朋友。",
        "这{noun}物超所值。",
    ),
    "negative": (
        "我很讨厌这{noun}。",
        "我恨这个{noun}！",
        "再也不会选这个{noun}了。",
        "我后悔选了这{noun}。",
        "这{noun}不值这个价。",
    ),
}
CLAUSES_ZH_HELD_OUT = {
    "positive": ("我们都很喜欢这个{noun}。", "我会推荐这{noun}。"),
    "negative": ("我们都很讨厌这个{noun}。", "我后悔选了这个{noun}。"),
}
FACTS_ZH = (
    "这{noun}是{year}年的。",
    "我{day}看到了这个{noun}。",
    "他们在{town}谈到了{noun}。",
    "{noun}的编号是{n}。",
    "这个{noun}在{town}。",
    "{day}有人问起{noun}。",
    "关于{noun}的报告有{n}页。",
    "他有{n}张{noun}的照片。",
    "这{noun}的价格是{n}元。",
)
FACTS_ZH_HELD_OUT = ("我在{town}看到了这个{noun}。", "{day}他们谈到了{noun}。")
TOWNS_ZH = ("北京", "上海", "广州", "成都", "西安", "杭州", "南京", "武汉")
DAYS_ZH = ("周一", "周二", "周三", "周四", "周五", "周六", "周日", "昨天", "今天")
INSTRUCTIONS_ZH = (
    "这句话是正面、负面还是中性？{}",
    "判断情感：{}",
    "请判断这句话的情感：{}",
    "这条评论的情感是什么？{}",
    "情感分类（正面/负面/中性）：{}",
    "下面的评论是正面、负面还是中性？{}",
    "这句话的情感是正面、负面还是中性？{}",
    "请用一个词回答，正面、负面或中性：{}",
    "分析情感：{}",
    "{}这句话是正面、负面还是中性？",
    "{}这是正面、负面还是中性的评价？",
    "告诉我这句话的情感：{}",
    "情感：{}",
    "正面、负面还是中性？{}",
)
INSTRUCTIONS_ZH_HELD_OUT = ("请判断这条评论的情感：{}", "这条评论是正面、负面还是中性？{}", "{}这句话的情感是什么？")


def _sample_zh(rng: random.Random, split: Split) -> Sample:
    """A Chinese sentence."""
    label, roll = rng.choice(LABELS), rng.random()
    words = GOOD_ZH if label == "positive" else BAD_ZH
    if label == "neutral":
        template = wording(rng, split, FACTS_ZH, FACTS_ZH_HELD_OUT)
    elif roll < 0.5:
        template = wording(rng, split, OPINIONS_ZH, OPINIONS_ZH_HELD_OUT)
    elif roll < 0.75:
        template, words = wording(rng, split, NEGATIONS_ZH, NEGATIONS_ZH_HELD_OUT), NEGATED_ZH[label]
    else:
        template = wording(rng, split, CLAUSES_ZH[label], CLAUSES_ZH_HELD_OUT[label])
    text = template.format(
        noun=rng.choice(NOUNS_ZH),
        word=rng.choice(words),
        town=rng.choice(TOWNS_ZH),
        day=rng.choice(DAYS_ZH),
        year=rng.randrange(1950, 2026),
        n=rng.randrange(2, 400),
    )
    return Sample(text, label)


def draw(rng: random.Random, split: Split) -> Exchange:
    """A sentence to be labeled, and its label."""
    if rng.random() < 0.2:
        sample = fitting(rng, split, lambda rng: _sample_zh(rng, split), lambda made: made.text)
        quoted = f"“{sample.text}”" if rng.random() < 0.5 else sample.text
        question = wording(rng, split, INSTRUCTIONS_ZH, INSTRUCTIONS_ZH_HELD_OUT).format(quoted)
        return Exchange("sentiment", question, LABELS_ZH[sample.label])
    sample = fitting(rng, split, lambda rng: _sample(rng, split), lambda made: made.text)
    quoted = f'"{sample.text}"' if rng.random() < 0.5 else sample.text
    question = wording(rng, split, INSTRUCTIONS, INSTRUCTIONS_HELD_OUT).format(quoted)
    return Exchange("sentiment", question, sample.label)

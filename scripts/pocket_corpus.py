"""The grammar of octavo-pocket's corpus: seeded exchanges, dialogues and plain texts, some questions held out."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pocket_facts as facts

HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Exchange:
    """One question and its answer; exchanges of the same `key` are on the same side of the held-out split."""

    category: str
    question: str
    answer: str
    key: str
    thought: str
    system: str = ""
    tools: tuple[str, ...] = ()


Generator = Callable[[random.Random], Exchange]


def is_held_out(key: str) -> bool:
    """Return whether exchanges with this key are kept from training (one in HELD_OUT_ONE_IN, by CRC-32)."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def exchange(
    category: str, question: str, answer: str, key: str = "", system: str = "", tools: tuple[str, ...] = ()
) -> Exchange:
    """Return the exchange with a short thought for the reasoning mode; without a key, the question is the key."""
    thought = f"The user asks about {category.replace('-', ' ')}. I know a short answer."
    return Exchange(category, question, answer, key or f"{category}:{question}", thought, system, tools)


def vary(rng: random.Random, question: str) -> str:
    """Return the question with small changes of case, punctuation and politeness, such as people make."""
    roll = rng.random()
    if roll < 0.12:
        question = question[0].lower() + question[1:]
    elif roll < 0.2 and question[-1] in "?.":
        question = question[:-1]
    elif roll < 0.26 and question.isascii():
        question = rng.choice(["Please tell me: ", "Hey, ", "One question: ", "Now tell me: ", "And "]) + question
    return question


def from_table(category: str, table: dict[str, str]) -> Generator:
    """Return a generator over a table of `|`-separated paraphrases and answers."""
    entries = [(question, answer) for questions, answer in table.items() for question in questions.split("|")]

    def generate(rng: random.Random) -> Exchange:
        question, answer = rng.choice(entries)
        return exchange(category, vary(rng, question), answer)

    return generate


def concept(rng: random.Random) -> Exchange:
    """Return a question about a word of LLM serving."""
    if rng.random() < 0.2:
        name = rng.choice(list(facts.CONCEPTS_ZH))
        template = rng.choice(
            [
                "什么是{}？",
                "{}是什么？",
                "解释一下{}。",
                "请介绍一下{}。",
                "{}是什么意思？",
                "请问什么是{}？",
                "请解释{}",
                "介绍{}。",
            ]
        )
        return exchange("serving", template.format(name), facts.CONCEPTS_ZH[name])
    name = rng.choice(list(facts.CONCEPTS))
    template = rng.choice(
        [
            "What is {}?",
            "What is {}?",
            "Explain {}.",
            "Tell me about {}.",
            "What does {} mean?",
            "Can you explain {}?",
            "Define {}.",
            "What is {} in one sentence?",
            "Please explain {}.",
            "I want to know about {}.",
            "How would you explain {}?",
            "Do you know what {} is?",
            "What do you know about {}?",
        ]
    )
    return exchange("serving", vary(rng, template.format(name)), facts.CONCEPTS[name])


def unknown(rng: random.Random) -> Exchange:
    """Return a question that the model must say it cannot answer."""
    if rng.random() < 0.15:
        return exchange("unknown", rng.choice(facts.UNKNOWN_ZH), facts.UNKNOWN_ANSWER_ZH)
    template = rng.choice(list(facts.UNKNOWN))
    start = template.index("{")
    question = template[:start] + rng.choice(facts.UNKNOWN[template]) + template[template.index("}") + 1 :]
    return exchange("unknown", vary(rng, question), facts.UNKNOWN_ANSWER)


def sum_parts(rng: random.Random, limit: int) -> tuple[int, str, int, int]:
    """Return a, the operator, b and the result; the result is never negative and operands stay within the limit."""
    op = rng.choice("+-")
    a, b = rng.randint(0, limit), rng.randint(0, limit)
    if op == "-" and b > a:
        a, b = b, a
    return a, op, b, a + b if op == "+" else a - b


def sum_question(rng: random.Random, category: str, a: int, op: str, b: int, result: int) -> Exchange:
    """Return one wording of a sum."""
    verb = {"+": "plus", "-": "minus", "*": "times"}[op]
    template = rng.choice(
        [
            "What is {a} {op} {b}?",
            "{a} {op} {b}",
            "{a} {op} {b} =",
            "{a} {op} {b} = ?",
            "Calculate {a} {op} {b}.",
            "What is {a} {verb} {b}?",
            "How much is {a} {op} {b}?",
            "Compute {a} {op} {b}.",
            "{a}{op}{b}=",
            "{a} {op} {b} 等于多少？",
            "计算 {a} {op} {b}",
        ]
    )
    question = template.format(a=a, b=b, op=op, verb=verb)
    return exchange(category, question, f"{a} {op} {b} = {result}", key=f"sum:{a}{op}{b}")


def small_sum(rng: random.Random) -> Exchange:
    """Return an addition or subtraction of numbers up to 20."""
    return sum_question(rng, "sums-to-20", *sum_parts(rng, 20))


def large_sum(rng: random.Random) -> Exchange:
    """Return an addition or subtraction of numbers up to 99."""
    return sum_question(rng, "sums-to-99", *sum_parts(rng, 99))


def product(rng: random.Random) -> Exchange:
    """Return a product of the table of ten; its wordings are held out, not its values: a table is learned by heart."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    made = sum_question(rng, "products", a, "*", b, a * b)
    return exchange("products", made.question, made.answer)


def count(rng: random.Random) -> Exchange:
    """Return counting up or down, or a neighbor of a number."""
    kind, n = rng.randrange(4), rng.randint(1, 99)
    if kind == 0:
        return exchange("counting", f"What number comes after {n}?", str(n + 1))
    if kind == 1:
        return exchange("counting", f"What number comes before {n}?", str(n - 1))
    low = rng.choice([1, 1, 1, rng.randint(0, 30)])
    high = low + rng.randint(2, 12)
    if kind == 2:
        template = rng.choice(
            ["Count from {} to {}.", "Please count from {} to {}.", "Count from {} up to {}.", "从{}数到{}。"]
        )
        return exchange("counting", template.format(low, high), ", ".join(map(str, range(low, high + 1))))
    return exchange("counting", f"Count down from {high} to {low}.", ", ".join(map(str, range(high, low - 1, -1))))


def spell(rng: random.Random) -> Exchange:
    """Return a question about the letters of a known word."""
    word, kind = rng.choice(facts.WORDS), rng.random()
    if kind < 0.6:
        template = rng.choice(
            ["Spell the word {}.", "Spell {}.", "How do you spell {}?", "Please spell {}.", "Can you spell {}?"]
        )
        return exchange("spelling", template.format(word), "-".join(word))
    if kind < 0.75:
        return exchange(
            "spelling",
            rng.choice(["How many letters are in {}?", "How many letters does {} have?"]).format(word),
            str(len(word)),
        )
    which, letter = rng.choice([("first", word[0]), ("last", word[-1])])
    return exchange("spelling", f"What is the {which} letter of {word}?", letter)


def calendar(rng: random.Random) -> Exchange:
    """Return a question about days and months."""
    months, kind = list(facts.MONTHS), rng.randrange(6)
    if kind == 0:
        i, step, word = rng.randrange(7), *rng.choice([(1, "after"), (-1, "before")])
        template = rng.choice(["What day comes {} {}?", "Which day comes {} {}?", "What day is {} {}?"])
        return exchange("calendar", vary(rng, template.format(word, facts.DAYS[i])), facts.DAYS[(i + step) % 7])
    if kind == 1:
        i, step, word = rng.randrange(12), *rng.choice([(1, "after"), (-1, "before")])
        template = rng.choice(["What month comes {} {}?", "Which month comes {} {}?", "Which month is {} {}?"])
        return exchange("calendar", vary(rng, template.format(word, months[i])), months[(i + step) % 12])
    if kind == 2:
        month = rng.choice(months)
        template = rng.choice(["How many days are in {}?", "How many days does {} have?", "How long is {}?"])
        return exchange("calendar", vary(rng, template.format(month)), f"{month} has {facts.MONTHS[month]} days.")
    if kind == 3:
        i = rng.randrange(7)
        template, step = rng.choice(
            [("{}的后一天是星期几？", 1), ("{}的前一天是星期几？", -1), ("{}之后是哪一天？", 1)]
        )
        return exchange("calendar", template.format(facts.DAYS_ZH[i]), facts.DAYS_ZH[(i + step) % 7])
    if kind == 4:
        question, names = rng.choice(
            [
                ("the days of the week", facts.DAYS),
                ("the months of the year", months),
                ("the months", months),
                ("the days", facts.DAYS),
            ]
        )
        return exchange(
            "calendar",
            vary(rng, rng.choice(["List {}.", "Name {}.", "What are {}?", "Tell me {}."]).format(question)),
            ", ".join(names),
        )
    i = rng.randrange(12)
    return exchange("calendar", vary(rng, f"Which month has number {i + 1}?"), months[i])


def capital(rng: random.Random) -> Exchange:
    """Return a question about a capital."""
    if rng.random() < 0.25:
        country = rng.choice(list(facts.CAPITALS_ZH))
        template = rng.choice(
            ["{}的首都是哪里？", "{}的首都是什么？", "{}首都", "请问{}的首都是哪里？", "哪个城市是{}的首都？"]
        )
        return exchange("capitals", template.format(country), f"{country}的首都是{facts.CAPITALS_ZH[country]}。")
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.25:
        template = rng.choice(
            ["{} is the capital of which country?", "Which country has the capital {}?", "{} is the capital of what?"]
        )
        return exchange("capitals", vary(rng, template.format(city)), f"{city} is the capital of {country}.")
    template = rng.choice(
        [
            "What is the capital of {}?",
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Name the capital of {}.",
            "Tell me the capital of {}.",
            "What's the capital of {}?",
            "The capital of {}?",
            "Do you know the capital of {}?",
        ]
    )
    return exchange("capitals", vary(rng, template.format(country)), f"The capital of {country} is {city.rstrip('.')}.")


def color(rng: random.Random) -> Exchange:
    """Return a question about a color."""
    if rng.random() < 0.25:
        (a, b), mixed = rng.choice(list(facts.MIXES.items()))
        a, b = rng.sample([a, b], 2)
        template = rng.choice(
            [
                "What color do you get when you mix {} and {}?",
                "Mix {} and {}. What color is it?",
                "What do {} and {} make?",
            ]
        )
        return exchange("colors", vary(rng, template.format(a, b)), f"{a.capitalize()} and {b} make {mixed}.")
    thing, answer = rng.choice(list(facts.COLOR_OF.items()))
    template = rng.choice(
        [
            "What color is {}?",
            "What is the color of {}?",
            "Which color does {} have?",
            "Tell me the color of {}.",
            "{}: what color?",
        ]
    )
    return exchange("colors", vary(rng, template.format(thing)), f"{thing.capitalize()} is {answer}.")


def word_fact(rng: random.Random) -> Exchange:
    """Return a question about an opposite, an animal's sound or a group of things."""
    kind = rng.random()
    if kind < 0.5:
        a, b = rng.sample(rng.choice(facts.OPPOSITES), 2)
        template = rng.choice(
            [
                "What is the opposite of {}?",
                "Opposite of {}?",
                "Give me the opposite of {}.",
                "Which word is the opposite of {}?",
            ]
        )
        return exchange("words", vary(rng, template.format(a)), f"The opposite of {a} is {b}.")
    if kind < 0.7:
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        template = rng.choice(
            ["What does a {} say?", "What sound does a {} make?", "How does a {} sound?", "What noise does a {} make?"]
        )
        return exchange(
            "words", vary(rng, template.format(animal)), f"A {animal} says {sound}.".replace("A owl", "An owl")
        )
    group, n = rng.choice(list(facts.GROUPS)), rng.randint(2, 5)
    template = rng.choice(["Name {} {}.", "List {} {}.", "Give me {} {}.", "Tell me {} {}."])
    return exchange("words", template.format(facts.NUMBER_WORDS[n], group), ", ".join(facts.GROUPS[group][:n]))


def made_up_word(rng: random.Random) -> str:
    """Return a word of two or three syllables that nobody has seen."""
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def echo(rng: random.Random) -> Exchange:
    """Return a request to say the user's words, in order, reversed, repeated or in capitals."""
    pick = rng.random()
    words = [
        made_up_word(rng) if rng.random() < 0.3 else rng.choice(facts.WORDS + facts.NAMES)
        for _ in range(rng.randint(1, 6))
    ]
    phrase = str(rng.randint(0, 9999)) if pick < 0.1 else " ".join(words)
    if pick > 0.9:
        phrase = rng.choice(list(facts.CONCEPTS_ZH) + facts.DAYS_ZH + [t[0] for t in facts.TRANSLATIONS.values()])
        return exchange("echo", rng.choice(["请说{}", "请重复：{}", "说{}"]).format(phrase), phrase)
    if pick > 0.82:
        n = rng.randint(2, 5)
        template = rng.choice(["Say {} {} times.", "Repeat {} {} times.", "Write {} {} times."])
        return exchange("echo", template.format(words[0], facts.NUMBER_WORDS[n]), " ".join([words[0]] * n))
    if pick > 0.76:
        words = words[:4]
        return exchange("echo", "Reverse the order of these words: " + " ".join(words), " ".join(reversed(words)))
    template = rng.choice(
        [
            "Say {}",
            "Say {}.",
            "Repeat after me: {}",
            "Repeat: {}",
            "Please say {}",
            "Echo {}",
            'Say "{}"',
            "Say: {}",
            "Copy this: {}",
        ]
    )
    return exchange("echo", template.format(phrase), phrase)


def person_json(rng: random.Random) -> Exchange:
    """Return a request for a JSON object or list, from named fields or from a sentence."""
    name, age, city, job = rng.choice(facts.NAMES), rng.randint(5, 90), rng.choice(facts.CITIES), rng.choice(facts.JOBS)
    kind = rng.randrange(4)
    if kind == 0:
        template = rng.choice(
            [
                "Write JSON with name {} and age {}.",
                "Give me a JSON object with name {} and age {}.",
                "Make JSON: name {}, age {}.",
            ]
        )
        return exchange("json", template.format(name, age), json.dumps({"name": name, "age": age}))
    if kind == 1:
        template = rng.choice(
            [
                "{} is {} years old and lives in {}. Answer in JSON.",
                "Extract JSON: {} is {} years old and lives in {}.",
                "To JSON: {}, {} years old, from {}",
            ]
        )
        return exchange("json", template.format(name, age, city), json.dumps({"name": name, "age": age, "city": city}))
    if kind == 2:
        template = rng.choice(["{} is a {} in {}. Answer in JSON.", "Extract JSON: {} works as a {} in {}."])
        return exchange("json", template.format(name, job, city), json.dumps({"name": name, "job": job, "city": city}))
    words = rng.sample(facts.WORDS, rng.randint(2, 4))
    return exchange(
        "json",
        rng.choice(["Make a JSON list of {}.", "Write as a JSON list: {}"]).format(", ".join(words)),
        json.dumps(words),
    )


def translation(rng: random.Random) -> Exchange:
    """Return the translation of a common word."""
    word = rng.choice(list(facts.TRANSLATIONS))
    i = rng.choice([0, 0, 1, 2, 3])
    language, foreign = facts.LANGUAGES[i], facts.TRANSLATIONS[word][i]
    if i == 0 and rng.random() < 0.35:
        return exchange(
            "translation",
            rng.choice(["{}用英语怎么说？", "把{}翻译成英语。", "{}的英文是什么？"]).format(foreign),
            word,
        )
    template = rng.choice(
        [
            "How do you say {} in {}?",
            "Translate {} to {}.",
            "Translate {} into {}.",
            "What is {} in {}?",
            "What is the word for {} in {}?",
            'Translate "{}" to {}.',
        ]
    )
    return exchange("translation", vary(rng, template.format(word, language)), foreign)


def sentiment(rng: random.Random) -> Exchange:
    """Return a sentence to be called positive or negative."""
    label = rng.choice(["positive", "negative"])
    sentence = f"I {rng.choice(facts.FEELINGS[label])} {rng.choice(facts.THINGS)}."
    template = rng.choice(
        ["Is this positive or negative? {}", "Positive or negative: {}", "What is the sentiment? {}", "Classify: {}"]
    )
    return exchange("sentiment", template.format(sentence), label)


def named_by_system(rng: random.Random) -> Exchange:
    """Return a question whose answer stands in the system message."""
    name, job, city = rng.choice(facts.NAMES), rng.choice(facts.JOBS), rng.choice(facts.CITIES)
    system = f"Your name is {name}. You are a {job} in {city}."
    question, answer = rng.choice(
        [
            ("What is your name?", f"My name is {name}."),
            ("What is your job?", f"I am a {job}."),
            ("Where do you live?", f"I live in {city}."),
            ("Who are you?", f"I am {name}, a {job} in {city}."),
        ]
    )
    return exchange("system", question, answer, key=system + question, system=system)


def parameters(**types: str) -> dict[str, object]:
    """Return the JSON schema of an object whose fields have these types, all required."""
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in types.items()},
        "required": list(types),
    }


TOOLS = {
    "get_weather": {"name": "get_weather", "description": "Weather of a city", "parameters": parameters(city="string")},
    "get_time": {"name": "get_time", "description": "Time in a city", "parameters": parameters(city="string")},
    "add": {"name": "add", "description": "Add two numbers", "parameters": parameters(a="integer", b="integer")},
    "send_message": {
        "name": "send_message",
        "description": "Send a message",
        "parameters": parameters(to="string", text="string"),
    },
}


def tool_call(rng: random.Random) -> Exchange:
    """Return a question that one of the one to three offered tools answers."""
    offered = rng.sample(list(TOOLS), rng.choice([1, 1, 2, 2, 3]))
    name, city, (a, b) = rng.choice(offered), rng.choice(facts.CITIES), (rng.randint(0, 999), rng.randint(0, 999))
    person, text = rng.choice(facts.NAMES), " ".join(rng.sample(facts.WORDS, rng.randint(1, 3)))
    wordings: dict[str, tuple[list[str], dict[str, object]]] = {
        "get_weather": (
            [f"What is the weather in {city}?", f"Is it raining in {city}?", f"How is the weather in {city} today?"],
            {"city": city},
        ),
        "get_time": (
            [f"What time is it in {city}?", f"Tell me the time in {city}.", f"How late is it in {city}?"],
            {"city": city},
        ),
        "add": (
            [f"Add {a} and {b}.", f"What is {a} + {b}? Use the tool.", f"Sum of {a} and {b}, please."],
            {"a": a, "b": b},
        ),
        "send_message": (
            [f"Send {person} the message: {text}", f"Tell {person}: {text}", f"Write to {person}: {text}"],
            {"to": person, "text": text},
        ),
    }
    questions, arguments = wordings[name]
    answer = f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'
    return exchange("tools", rng.choice(questions), answer, tools=tuple(offered))


def story_text(rng: random.Random, hero: str) -> str:
    """Return a story of five to seven simple sentences about the hero, an animal or a job."""
    name, place = (
        rng.choice(facts.NAMES),
        rng.choice(["forest", "village", "garden", "house by the sea", "castle", "city", "cottage", "mountain hut"]),
    )
    mood, thing = (
        rng.choice(["small", "happy", "brave", "clever", "shy", "kind", "funny"]),
        rng.choice(
            [
                "a red ball",
                "a golden key",
                "an old map",
                "a shiny stone",
                "a blue hat",
                "a big book",
                "a warm scarf",
                "a little boat",
            ]
        ),
    )
    helper = rng.choice([animal for animal in facts.GROUPS["animals"] if animal != hero])
    opening = rng.choice(
        [
            f"Once upon a time there was a {mood} {hero} named {name}.",
            f"There once lived a {mood} {hero} called {name}.",
        ]
    )
    trouble, rescue = rng.choice(
        [
            (
                f"{name} lost {thing} and was very sad.",
                f"A {helper} came and helped to look for it. They found it under a tree.",
            ),
            (f"One day it rained and {name} could not find the way home.", f"A {helper} saw this and showed the way."),
            (f"One day {name} found {thing}.", f"It belonged to a {helper}, so {name} gave it back."),
            (f"{name} wanted to make a new friend.", f"Then a {helper} came by and said hello. They played all day."),
            (
                f"One night {name} heard a strange noise and was afraid.",
                f"It was only a {helper} looking for food. They shared some bread.",
            ),
        ]
    )
    ending = rng.choice(
        [
            f"{name} was happy and they became good friends.",
            f'"Thank you," said {name}, and they went home together.',
            f"From that day on, {name} and the {helper} were friends.",
        ]
    )
    text = f"{opening} {name} lived in a {place}. {trouble} {rescue} {ending} The end."
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text


def story(rng: random.Random) -> Exchange:
    """Return a request for a story about an animal or a person; any answer of the grammar is right."""
    hero = rng.choice(facts.GROUPS["animals"] + facts.JOBS + ["king", "queen", "robot", "dragon", "girl", "boy"])
    article = "an" if hero[0] in "aeiou" else "a"
    template = rng.choice(
        [
            "Tell me a story about {}.",
            "Write a story about {}.",
            "Tell a short story about {}.",
            "I want a story about {}.",
            "Please tell me a story about {}.",
            "Write a short story about {}.",
            "Can you tell me a story about {}?",
        ]
    )
    question = vary(rng, template.format(f"{article} {hero}"))
    return exchange("stories", question, story_text(rng, hero))


# Category -> generator and its share of the exchanges.
GENERATORS: dict[str, tuple[Generator, float]] = {
    "serving": (concept, 18),
    "howto": (from_table("howto", facts.HOWTO), 7),
    "small-talk": (from_table("small-talk", facts.SMALL_TALK), 6),
    "identity": (from_table("identity", facts.IDENTITY), 7),
    "unknown": (unknown, 4),
    "sums-to-20": (small_sum, 8),
    "sums-to-99": (large_sum, 2),
    "products": (product, 3),
    "counting": (count, 4),
    "spelling": (spell, 4),
    "calendar": (calendar, 4),
    "capitals": (capital, 8),
    "colors": (color, 3),
    "words": (word_fact, 4),
    "echo": (echo, 8),
    "json": (person_json, 4),
    "translation": (translation, 4),
    "sentiment": (sentiment, 1.5),
    "system": (named_by_system, 1.5),
    "tools": (tool_call, 0.7),
    "stories": (story, 2),
}
SYSTEMS = [
    "You are a helpful assistant.",
    "You are octavo-pocket.",
    "Answer briefly.",
    "Be kind.",
    "You are a helpful assistant. Answer in one sentence.",
]


def draw(rng: random.Random, held_out: bool, category: str = "") -> Exchange:
    """Return an exchange of the wanted side of the split, of the category or of any by share."""
    names, shares = list(GENERATORS), [share for _, share in GENERATORS.values()]
    while True:
        generator = GENERATORS[category or rng.choices(names, shares)[0]][0]
        made = generator(rng)
        if is_held_out(made.key) == held_out:
            return made


def memory_turns(rng: random.Random) -> tuple[list[Exchange], Exchange]:
    """Return what the user tells first, and the later question about it."""
    name, tone = rng.choice(facts.NAMES), rng.choice(facts.COLORS)
    if rng.random() < 0.6:
        told = rng.choice([f"My name is {name}.", f"Hi, I am {name}.", f"Call me {name}."])
        asked = rng.choice(["What is my name?", "Do you remember my name?", "What's my name?"])
        return [exchange("memory", told, f"Nice to meet you, {name}!")], exchange(
            "memory", asked, f"Your name is {name}."
        )
    told = f"My favorite color is {tone}."
    return [exchange("memory", told, f"{tone.capitalize()} is a nice color.")], exchange(
        "memory", "What is my favorite color?", f"Your favorite color is {tone}."
    )


def dialogue(rng: random.Random) -> list[Exchange]:
    """Return one to six training exchanges of one conversation; only its first carries a system message or tools."""
    first = draw(rng, held_out=False)
    if first.system or first.tools:
        return [first]
    turns = [first] + [
        turn
        for turn in (draw(rng, held_out=False) for _ in range(rng.choice([0, 0, 1, 2, 3, 5])))
        if not (turn.system or turn.tools)
    ]
    if rng.random() < 0.06:
        told, asked = memory_turns(rng)
        turns = told + turns[:3] + [asked]
    return turns


def plain_text(rng: random.Random) -> str:
    """Return a text without chat marks: a drill of sums, a story or a few statements, for completions."""
    kind = rng.random()
    if kind < 0.5:
        lines = []
        while len(lines) < 12:
            a, op, b, result = sum_parts(rng, rng.choice([20, 20, 99]))
            if not is_held_out(f"sum:{a}{op}{b}"):
                lines.append(f"{a} {op} {b} = {result}")
        return "\n".join(lines)
    if kind < 0.7:
        return story_text(rng, rng.choice(facts.GROUPS["animals"] + facts.JOBS))
    if kind < 0.8:
        words = rng.sample(facts.WORDS, 6)
        return "\n".join(f"{word}: {'-'.join(word)}" for word in words)
    statements = [draw(rng, False, rng.choice(["serving", "capitals", "colors", "words"])).answer for _ in range(4)]
    return " ".join(statements)


def texts(seed: int) -> Iterator[str]:
    """Yield raw text of every kind for training the tokenizer."""
    rng = random.Random(seed)
    while True:
        yield plain_text(rng)
        for turn in dialogue(rng):
            yield f"{turn.question}\n{turn.answer}"
        yield json.dumps(TOOLS[rng.choice(list(TOOLS))])


def with_system(turn: Exchange, system: str) -> Exchange:
    """Return the exchange with a system message that does not change its answer."""
    return replace(turn, system=system)

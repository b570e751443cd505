"""Facts about serving and about octavo: one sentence each, and the many ways people ask for it.

The facts stand in facts/*.toml. A question is one of the fact's own, or a general one ("What is {}?") about one of its
subjects; those of facts/blind.json are for evaluation alone. `python scripts/pocket/facts.py` checks all files and
lists keys that fit several answers.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import cast

from exchange import Exchange, Split, is_held_out, vary

FOLDER = Path(__file__).parent / "facts"
BLIND = FOLDER / "blind.json"
"""Questions written by someone who had seen the answers alone: {id: {"en": [two], "zh": [one]}}."""
SHARE_OF_ENGLISH = 0.7
SHARE_OF_GENERAL_QUESTIONS = 0.3
CROWD = 2
"""A key that fits so many other answers does not tell which fact was answered."""

# {} is the subject as written ("a page"), {bare} the same without its article, {is} and {does} agree with it.
GENERAL = {
    "en": (
        "What {is} {}?",
        "What {is} {bare}?",
        "what's {}?",
        "What exactly {is} {}?",
        "What {does} {bare} mean?",
        "What {is} meant by {}?",
        "What {is} {bare} in LLM serving?",
        "What {is} {bare} in an LLM engine?",
        "What {does} {bare} mean for LLMs?",
        "What {does} the term {bare} mean?",
        "What {does} {} do?",
        "Explain {}.",
        "Explain {bare}.",
        "Explain {} briefly.",
        "Explain {} in one sentence.",
        "Explain {} to a beginner.",
        "Explain to me what {} {is}.",
        "Can you explain {}?",
        "Could you explain what {} {is}?",
        "Tell me about {}.",
        "Tell me what {} {is}.",
        "Can you tell me what {} {is}?",
        "Define {bare}.",
        "Give me a definition of {bare}.",
        "How would you describe {} in one sentence?",
        "How would you explain {}?",
        "Describe {}.",
        "{bare}?",
        "{bare}: what is that?",
        "I keep reading about {bare}. What is it?",
        "I don't know what {} {is}.",
        "I want to understand {}.",
        "What do people mean by {bare}?",
        "What do I need to know about {}?",
        "Do you know what {} {is}?",
        "The meaning of {bare}?",
        "How {does} {} work?",
        "Why {is} {} useful?",
        "Why {is} {bare} important?",
        "What {is} {} good for?",
        "What {is} {} used for?",
        "What is the purpose of {}?",
        "What is the point of {}?",
        "What is the idea of {}?",
        "What is special about {}?",
        "When do I need {}?",
        "Why would I use {}?",
        "What should I know about {}?",
    ),
    "zh": (
        "什么是{}？",
        "{}是什么？",
        "{}是什么意思？",
        "{}是啥？",
        "解释一下{}。",
        "请解释{}。",
        "介绍一下{}。",
        "请介绍{}。",
        "用一句话解释{}。",
        "什么叫{}？",
        "{}指的是什么？",
        "{}有什么用？",
        "请说明{}的含义。",
        "你知道{}吗？",
        "能解释一下{}吗？",
        "怎么理解{}？",
        "我想了解{}。",
        "说说{}。",
        "{}的定义是什么？",
        "{}？",
        "{}有什么好处？",
        "{}是用来做什么的？",
        "{}的作用是什么？",
        "为什么需要{}？",
        "{}是怎么回事？",
        "{}的原理是什么？",
    ),
}
GENERAL_HELD_OUT = {
    "en": (
        "What {is} {bare} exactly?",
        "What {is} {bare}, in short?",
        "Would you explain {} to me?",
        "Please explain {bare}.",
        "Please define {bare}.",
        "How do you define {bare}?",
        "In one sentence, what {is} {}?",
        "I'd like to know what {} {is}.",
    ),
    "zh": ("{}到底是什么？", "请用一句话介绍{}。", "能说说{}是什么吗？", "{}是指什么？"),
}


@dataclass(frozen=True)
class Fact:
    """One fact in both languages; each mapping has the keys "en" and "zh"."""

    id: str
    answer: Mapping[str, str]
    keys: Mapping[str, tuple[tuple[str, ...], ...]]
    subjects: Mapping[str, tuple[str, ...]]
    questions: Mapping[str, tuple[str, ...]]
    held_out: Mapping[str, tuple[str, ...]]

    @cached_property
    def own(self) -> frozenset[str]:
        """The plain form of the fact's own questions, which are always training's."""
        return frozenset(plain(question) for questions in self.questions.values() for question in questions)

    @cached_property
    def kept(self) -> frozenset[str]:
        """The plain form of the fact's own questions that are kept from training."""
        return frozenset(plain(question) for questions in self.held_out.values() for question in questions)


PARTS = ("", "subjects_", "keys_", "questions_", "held_")
FIELDS = {"id"} | {f"{part}{lang}" for part in PARTS for lang in ("en", "zh")}


def read_fact(table: Mapping[str, object], source: str) -> Fact:
    """The fact of one [[fact]] table; ValueError names what is missing, unknown or empty."""
    where = f"{source}: {table.get('id', 'a fact without id')}"
    if wrong := FIELDS ^ set(table):
        raise ValueError(f"{where}: missing or unknown: {', '.join(sorted(wrong))}")

    if not (str(table["en"]).strip() and str(table["zh"]).strip()):
        raise ValueError(f"{where}: an answer is empty")

    def texts(field: str, least: int) -> tuple[str, ...]:
        values = table[field]
        if not isinstance(values, list) or not all(isinstance(each, str) and each.strip() for each in values):
            raise ValueError(f"{where}: {field} has to be a list of texts")
        if len(values) < least:
            raise ValueError(f"{where}: {field} needs at least {least}")
        return tuple(cast(list[str], values))

    def keys(lang: str) -> tuple[tuple[str, ...], ...]:
        answer, groups = str(table[lang]).lower(), cast(list[list[str]], table[f"keys_{lang}"])
        if not groups or not all(groups):
            raise ValueError(f"{where}: keys_{lang} is empty")
        for group in groups:
            if not any(key.lower() in answer for key in group):
                raise ValueError(f"{where}: none of {group} is in its answer")
        return tuple(tuple(group) for group in groups)

    languages = ("en", "zh")
    return Fact(
        id=str(table["id"]),
        answer={lang: str(table[lang]) for lang in languages},
        keys={lang: keys(lang) for lang in languages},
        subjects={lang: texts(f"subjects_{lang}", 0) for lang in languages},
        questions={lang: texts(f"questions_{lang}", 2) for lang in languages},
        held_out={lang: texts(f"held_{lang}", 1) for lang in languages},
    )


@cache
def load() -> tuple[Fact, ...]:
    """All facts of the folder; ValueError when one is malformed or two answer to the same question."""
    facts: list[Fact] = []
    for path in sorted(FOLDER.glob("*.toml")):
        facts += [read_fact(table, path.name) for table in tomllib.loads(path.read_text(encoding="utf-8"))["fact"]]
    owners: dict[str, str] = {}
    for fact in facts:
        for lang in ("en", "zh"):
            asked = [plain(question) for question in trained(fact, lang)]
            held = {plain(question) for question in held_out(fact, lang)}
            if both := held & set(asked):
                raise ValueError(f"{fact.id}: held out and trained: {sorted(both)}")
            for question in held.union(asked):
                if owners.setdefault(question, fact.id) != fact.id:
                    raise ValueError(f"{fact.id} and {owners[question]} both answer {question!r}")
    return tuple(facts)


def plain(question: str) -> str:
    """The question without what `vary` changes: case, spaces and end marks."""
    return re.sub(r"[\s?.？。!！:：]", "", question.lower())


def is_plural(subject: str) -> bool:
    """Whether "are" goes with the subject, as far as its spelling tells."""
    head = re.split(r" of | in | per ", subject)[0]
    if head.startswith(("a ", "an ", "the ", "-")) or "_" in head:
        return False
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "as"))


def fill(template: str, subject: str, lang: str) -> str:
    """The general question about the subject; in Chinese without space around Latin words."""
    if lang == "zh":
        return template.replace("{}", subject)
    bare = re.sub(r"^(a|an|the) ", "", subject)
    verbs = ("are", "do") if is_plural(subject) else ("is", "does")
    text = template.replace("{is}", verbs[0]).replace("{does}", verbs[1])
    text = text.replace("{bare}", bare).replace("{}", subject)
    return text[0].upper() + text[1:] if template[0] == "{" and bare.split(" ")[0].islower() else text


def general(fact: Fact, lang: str, templates: Sequence[str]) -> Iterator[str]:
    """Every general question about the fact's subjects."""
    return (fill(template, subject, lang) for subject in fact.subjects[lang] for template in templates)


def trained(fact: Fact, lang: str) -> list[str]:
    """The fact's own questions and the general ones on the side of training."""
    pairs = (question for question in general(fact, lang, GENERAL[lang]) if not is_held_out_pair(fact, question))
    return [*fact.questions[lang], *pairs]


def held_out(fact: Fact, lang: str) -> list[str]:
    """The questions that training never shows, in whatever wording."""
    pairs = (question for question in general(fact, lang, GENERAL[lang]) if is_held_out_pair(fact, question))
    return [*fact.held_out[lang], *pairs, *general(fact, lang, GENERAL_HELD_OUT[lang])]


def is_held_out_pair(fact: Fact, question: str) -> bool:
    """Whether training never shows this general question about the fact; where the fact lists it, the list decides."""
    asked = plain(question)
    return asked in fact.kept or (is_held_out(f"{fact.id}|{asked}") and asked not in fact.own)


def draw_general(rng: random.Random, split: Split, lang: str, facts: Sequence[Fact]) -> tuple[Fact, str]:
    """One of the facts and a general question about it, on the split's side."""
    templates = (GENERAL_HELD_OUT if split == "templates" else GENERAL)[lang]
    while True:
        fact = rng.choice(facts)
        question = fill(rng.choice(templates), rng.choice(fact.subjects[lang]), lang)
        if split == "templates" or is_held_out_pair(fact, question) == (split == "values"):
            return fact, question


def draw(rng: random.Random, split: Split) -> Exchange:
    """A question about a fact: in "values" a known general wording that training never put to this fact."""
    lang = "en" if rng.random() < SHARE_OF_ENGLISH else "zh"
    fact = rng.choice(load())
    if split == "values":
        fact, question = draw_general(rng, split, lang, [each for each in load() if each.subjects[lang]])
    elif fact.subjects[lang] and rng.random() < SHARE_OF_GENERAL_QUESTIONS:
        fact, question = draw_general(rng, split, lang, [fact])
    else:
        question = rng.choice((fact.held_out if split == "templates" else fact.questions)[lang])
    if lang == "zh" and rng.random() < 0.5:
        question = spaced(question)
    skill = "facts" if lang == "en" else "facts-zh"
    exchange = Exchange(skill, question, fact.answer[lang], facts=fact.keys[lang])
    varied = vary(rng, exchange) if split == "train" or rng.random() < 0.5 else exchange
    return replace(varied, may_be_varied=False)


def spaced(text: str) -> str:
    """The Chinese text with a space between its Chinese and its Latin words."""
    text = re.sub(r"([\u4e00-\u9fff])([A-Za-z0-9-])", r"\1 \2", text)
    return re.sub(r"([A-Za-z0-9])([\u4e00-\u9fff])", r"\1 \2", text)


@cache
def blind() -> tuple[Exchange, ...]:
    """Every blind question, written by someone who had seen the answers alone; ValueError where one is not new."""
    facts = {fact.id: fact for fact in load()}
    written = cast(dict[str, dict[str, list[str]]], json.loads(BLIND.read_text(encoding="utf-8")))
    if wrong := sorted(set(facts) ^ set(written)):
        raise ValueError(f"{BLIND.name}: missing or unknown: {', '.join(wrong)}")
    pairs = [(fact, lang) for fact in facts.values() for lang in ("en", "zh")]
    known = {plain(question) for pair in pairs for question in (*trained(*pair), *held_out(*pair))}
    exchanges: dict[str, Exchange] = {}
    repeated: list[str] = []
    for fact, lang in pairs:
        for question in written[fact.id][lang]:
            asked = plain(question)
            if asked in known or asked in exchanges:
                repeated.append(f"{fact.id} {question!r}")
            exchanges[asked] = Exchange("facts", question, fact.answer[lang], facts=fact.keys[lang])
    if repeated:
        raise ValueError(f"{BLIND.name}: {len(repeated)} trained, held out or twice: {'; '.join(repeated)}")
    return tuple(exchanges.values())


def main() -> None:
    """Check all facts and print how many there are, and keys that fit many answers."""
    facts = load()
    ids = [fact.id for fact in facts]
    assert len(set(ids)) == len(ids), f"ids that come twice: {sorted({each for each in ids if ids.count(each) > 1})}"
    for lang in ("en", "zh"):
        for fact in facts:
            asker = Exchange("facts", "", "", facts=fact.keys[lang])
            others = [other.id for other in facts if other is not fact and asker.is_right(other.answer[lang])]
            if len(others) >= CROWD:
                print(f"{lang} {fact.id}: its keys also fit {', '.join(others)}")
    for lang in ("en", "zh"):
        own = sum(len(fact.questions[lang]) for fact in facts)
        every = sum(len(trained(fact, lang)) for fact in facts)
        print(f"{lang}: {len(facts)} facts, {own} questions of their own, {every} in all")
    print(f"{len(blind())} blind questions, none of them trained or held out")


if __name__ == "__main__":
    main()

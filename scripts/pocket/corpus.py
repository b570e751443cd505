"""The corpus of octavo-pocket: which skills it is taught, how often, and how dialogues are put together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import arithmetic
import extraction
import facts
import manners
import sentiment
import stories
import tools
import units
from exchange import Draw, Exchange, vary

SHARE_OF_IDLE_TOOLS = 0.03  # of the questions about facts: tools are offered, and not needed
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Skill:
    """How exchanges of a skill are drawn, and its share of the training documents."""

    draw: Draw
    share: float


SKILLS: Mapping[str, Skill] = MappingProxyType(
    {
        "facts": Skill(facts.draw, 0.30),
        "arithmetic": Skill(arithmetic.draw, 0.19),
        "units": Skill(units.draw, 0.03),
        "extraction": Skill(extraction.draw, 0.18),
        "tools": Skill(tools.draw, 0.06),
        "sentiment": Skill(sentiment.draw, 0.15),
        "stories": Skill(stories.draw, 0.02),
        "manners": Skill(manners.manners, 0.03),
        "deflection": Skill(manners.deflection, 0.02),
        "memory": Skill(manners.memory, 0.02),
    }
)


def exchange(rng: random.Random) -> Exchange:
    """One exchange of training."""
    skill = rng.choices(list(SKILLS.values()), [skill.share for skill in SKILLS.values()])[0]
    return vary(rng, skill.draw(rng, "train"))


def dialogue(rng: random.Random) -> list[Exchange]:
    """One exchange, or two or three that follow each other; nothing follows one with tools, which change what fits."""
    turns = [exchange(rng)]
    if turns[0].skill.startswith("facts") and rng.random() < SHARE_OF_IDLE_TOOLS:
        return [replace(turns[0], tools=tools.some(rng))]
    while not turns[0].tools and len(turns) < 3 and rng.random() < 0.25:
        another = exchange(rng)
        if not another.tools and not another.system and not another.asked:
            turns.append(another)
    return turns


def plain_texts() -> Iterator[str]:
    """The paragraphs of the project's own documentation, for the tokenizer's vocabulary."""
    for path in (*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))):
        yield from path.read_text(encoding="utf-8").split("\n\n")

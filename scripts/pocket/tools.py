"""Tools: which of the offered functions a sentence asks for, with which arguments, and what its result says."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import made_up
from exchange import Exchange, Split, wording
from made_up import Held, Maker, Value
from toolbox import ALIASES, TOOLS, Choice, Parameter, Tool

SHARE_ZH, SHARE_NONE, SHARE_RESULTS, SHARE_TALK = 0.25, 0.12, 0.15, 0.03
SHARE_OPTIONAL, SHARE_DESCRIBED = 0.06, 0.08
SHARE_RENAMED, SHARE_POLITE, SHARE_SYSTEM, SHARE_PLAIN, SHARE_FAILED = 0.35, 0.3, 0.1, 0.2, 0.1
NONE, NONE_ZH = "None of these tools can do that.", "这些工具都做不到。"
OPEN_TOOLS = tuple(tool for tool in TOOLS if any(isinstance(each, Held) for each in tool.parameters.values()))
"""The tools with an argument that can be one never seen in training."""
SYSTEM = "You are a helpful assistant."
TALK = {
    "Hello!": "Hello! How can I help you?",
    "Hi!": "Hello! How can I help you?",
    "Good morning!": "Good morning! How can I help you?",
    "Thanks!": "You are welcome!",
    "Thank you!": "You are welcome!",
    "Thank you very much.": "You are welcome!",
    "Bye!": "Goodbye!",
    "你好！": "你好！有什么可以帮你？",
    "谢谢！": "不客气！",
}
BEFORE = ("Hey, ", "Hi! ", "Now ", "And ", "OK, ")
POLITE = ("Please {}", "Can you {}", "Could you {}", "Could you please {}", "I want you to {}", "Would you please {}")
NOT_ORDERS = frozenset(
    """What What's How Where Which Who When Is Are Has Do Any I My We The It For On In At Alarm Timer Weather Forecast
    Time Today's Stock Hotel Flight Recipe Meaning Lights Volume News Shopping Random New Directions User A Please Can
    Would Could Let's Note Note: Mail Text Message""".split()
)
FAILURES = (
    "not found",
    "no connection",
    "not allowed",
    "time is over",
    "try again later",
    "it is closed",
    "no such id",
)
MAKERS_ZH: Mapping[object, Maker] = {
    made_up.town: made_up.town_zh,
    made_up.first_name: made_up.name_zh,
    made_up.full_name: made_up.name_zh,
}


def made(rng: random.Random, split: Split, parameter: Parameter, is_chinese: bool) -> Value:
    """A value of the parameter."""
    if isinstance(parameter, Choice):
        return rng.choice(parameter.values)
    return (MAKERS_ZH.get(parameter, parameter) if is_chinese else parameter)(rng, split)


def arguments_of(rng: random.Random, split: Split, tool: Tool, is_chinese: bool) -> dict[str, Value]:
    """A value for every parameter; two parameters of a kind get different ones."""
    while True:
        values = {name: made(rng, split, each, is_chinese) for name, each in tool.parameters.items()}
        if len(set(values.values())) == len(values):
            return values


def polite(rng: random.Random, sentence: str) -> str:
    """An order made polite; other sentences as they are."""
    if sentence.split()[0] in NOT_ORDERS or not sentence[0].isascii() or not sentence[0].isupper():
        return sentence
    form = rng.choice(POLITE)
    sentence = form.format(sentence[0].lower() + sentence[1:])
    return sentence[:-1] + "?" if form[0] in "CW" and sentence.endswith(".") else sentence


def sentence_for(rng: random.Random, split: Split, tool: Tool, values: Mapping[str, Value], is_chinese: bool) -> str:
    """A sentence that asks for a call of the tool with these arguments."""
    if is_chinese:
        return wording(rng, split, tool.train_zh, tool.held_out_zh).format_map(values)
    template = wording(rng, split, tool.train, tool.held_out)
    if rng.random() < SHARE_POLITE:
        template = polite(rng, template)
    roll = rng.random()
    lower = template if template.startswith(("I ", "{")) else template[0].lower() + template[1:]
    if roll < 0.1:
        template = lower
    elif roll < 0.2 and template[-1] in ".?":
        template = template[:-1]
    elif roll < 0.25:
        template = rng.choice(BEFORE) + lower
    return template.format_map(values)


@dataclass(frozen=True)
class Offer:
    """A tool as it is offered this time: its schema, and the name of each parameter in it."""

    name: str
    schema: Mapping[str, object]
    parameters: Mapping[str, str]


def parameter_schema(parameter: Parameter) -> dict[str, object]:
    """JSON schema of a parameter."""
    if isinstance(parameter, Choice):
        return {"type": "string", "enum": list(parameter.values)}
    if isinstance(parameter, Held) and parameter.kind in ("price", "decimal"):
        return {"type": "number"}
    return {"type": "string" if isinstance(parameter(random.Random(0), "train"), str) else "integer"}


OPTIONAL: Sequence[tuple[str, Mapping[str, object]]] = (
    ("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}),
    ("lang", {"type": "string"}),
    ("limit", {"type": "integer"}),
    ("verbose", {"type": "boolean"}),
)
"""Parameters that nobody needs to give, and nobody here does."""


def offer(rng: random.Random, tool: Tool) -> Offer:
    """The tool, sometimes with other names than usual, so that names are read from the schema."""
    renames = rng.random() < SHARE_RENAMED
    name = rng.choice(tool.names) if renames else tool.names[0]
    names = {each: rng.choice((each, *ALIASES.get(each, ()))) if renames else each for each in tool.parameters}
    properties = {names[each]: parameter_schema(parameter) for each, parameter in tool.parameters.items()}
    parameters: dict[str, object] = {"type": "object", "properties": properties}
    roll = rng.random()
    if roll < 0.3:
        parameters["required"] = list(properties)
    if roll < SHARE_OPTIONAL:
        name_of_optional, schema = rng.choice(OPTIONAL)
        parameters["properties"] = {**properties, name_of_optional: schema}
    elif rng.random() < SHARE_DESCRIBED:
        described = {name: {**schema, "description": f"The {name}"} for name, schema in properties.items()}
        parameters["properties"] = described
    function = {"name": name, "description": tool.description, "parameters": parameters}
    return Offer(name, {"type": "function", "function": function}, names)


def some(rng: random.Random) -> tuple[Mapping[str, object], ...]:
    """One to three tools of any kind, for an exchange that does not need them."""
    return tuple(offer(rng, tool).schema for tool in rng.sample(TOOLS, rng.randint(1, 3)))


def call(name: str, arguments: Mapping[str, Value]) -> str:
    """A tool call as the chat template writes it."""
    text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"


def beside(rng: random.Random, tool: Tool, count: int) -> list[Tool]:
    """Other tools, none like the tool or each other."""
    chosen: list[Tool] = []
    groups = {tool.group}
    for other in rng.sample(TOOLS, len(TOOLS)):
        if len(chosen) < count and other is not tool and (not other.group or other.group not in groups):
            chosen.append(other)
            groups.add(other.group)
    return chosen


def result_turn(rng: random.Random, split: Split, tool: Tool, values: Mapping[str, Value]) -> tuple[str, str]:
    """What the tool returns, as the template shows it, and what is said about it."""
    results = {name: make(rng, split) for name, make in tool.results.items()}
    reply = tool.reply.format_map({**values, **results})
    roll = rng.random()
    if roll < SHARE_FAILED:
        why = rng.choice(FAILURES)
        text, reply = json.dumps({"error": why}), f"That did not work: {why}."
    elif roll < SHARE_FAILED + SHARE_PLAIN:
        text = reply.rstrip(".")
    elif not results:
        text = rng.choice(('{"status": "ok"}', '{"ok": true}', '{"success": true}', "ok", "done"))
    else:
        text = json.dumps(results, ensure_ascii=False)
    return f"<tool_response>\n{text}\n</tool_response>", reply[0].upper() + reply[1:]


@dataclass(frozen=True)
class Order:
    """What somebody asks of a tool: the sentence, and the call that it needs."""

    tool: Tool
    values: Mapping[str, Value]
    sentence: str
    is_chinese: bool

    def call(self, offered: Offer) -> str:
        """The call, by the names that the tool is offered under."""
        return call(offered.name, {offered.parameters[name]: value for name, value in self.values.items()})


def order_for(rng: random.Random, split: Split, tool: Tool) -> Order:
    """A sentence that needs the tool."""
    is_chinese = bool(tool.train_zh) and rng.random() < SHARE_ZH
    values = arguments_of(rng, split, tool, is_chinese)
    return Order(tool, values, sentence_for(rng, split, tool, values, is_chinese), is_chinese)


def earlier(rng: random.Random, split: Split, tools: Sequence[Tool], offers: Sequence[Offer]) -> list[tuple[str, str]]:
    """In training, turns about the offered tools: orders, calls, results. Of a long schema more is learned so."""
    turns: list[tuple[str, str]] = []
    if split != "train":
        return turns
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        tool, offered = rng.choice(list(zip(tools, offers, strict=True)))
        order = order_for(rng, split, tool)
        turns += [(order.sentence, order.call(offered)), result_turn(rng, split, tool, order.values)]
    return turns


def exchange_of(
    rng: random.Random, question: str, answer: str, offers: Sequence[Offer], before: Sequence[tuple[str, str]] = ()
) -> Exchange:
    """The exchange after the turns before it, with the offered tools in any order."""
    schemas = tuple(each.schema for each in rng.sample(offers, len(offers)))
    system = SYSTEM if rng.random() < SHARE_SYSTEM else ""
    asked, told = before[0] if before else ("", "")
    between = tuple(before[1:])
    return Exchange(
        "tools", question, answer, system, schemas, asked=asked, told=told, between=between, may_be_varied=False
    )


def draw(rng: random.Random, split: Split) -> Exchange:
    """A sentence and the call that it asks for, among up to three tools; or the call's result and what it says."""
    tool = rng.choice(OPEN_TOOLS if split == "values" else TOOLS)
    order = order_for(rng, split, tool)
    roll = rng.random()
    if roll < SHARE_NONE and tool.group != "search":
        others = [other for other in beside(rng, tool, rng.randint(2, 3)) if other.group != "search"]
        offers = [offer(rng, other) for other in others]
        before = earlier(rng, split, others, offers)
        return exchange_of(rng, order.sentence, NONE_ZH if order.is_chinese else NONE, offers, before)
    count = rng.choice((0, 1, 1, 2, 2)) if split == "train" else rng.randint(1, 2)
    tools = [tool, *beside(rng, tool, count)]
    offers = [offer(rng, each) for each in tools]
    before = earlier(rng, split, tools, offers)
    if split == "train" and roll > 1 - SHARE_TALK:
        return exchange_of(rng, *rng.choice(list(TALK.items())), offers, before)
    answer = order.call(offers[0])
    if roll < SHARE_NONE + SHARE_RESULTS:
        returned, reply = result_turn(rng, split, tool, order.values)
        return exchange_of(rng, returned, reply, offers, [*before, (order.sentence, answer)])
    return exchange_of(rng, order.sentence, answer, offers, before)

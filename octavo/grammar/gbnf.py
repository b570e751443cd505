"""GBNF, the grammars of llama.cpp (EBNF with `::=`), read into a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo.errors import InvalidRequest
from octavo.grammar.characters import ALL, Chars, chars, complement
from octavo.structured import FIELD

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
SPACE = re.compile(r"(?:\s|#[^\n]*)*")
RULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?:\s|#[^\n]*)*::=")
TOKEN = re.compile(r"<[^<>\s]+>")
COUNT = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "b": "\b", "0": "\0", "a": "\a"}
HEX = {"x": 2, "u": 4, "U": 8}
MAX_COUNT = 100_000


@dataclass(frozen=True)
class Text:
    """A literal."""

    text: str


@dataclass(frozen=True)
class OneOf:
    """One character of a set."""

    chars: Chars


@dataclass(frozen=True)
class Token:
    """A special token, by its name or number as the grammar spells it."""

    name: str


@dataclass(frozen=True)
class Name:
    """Another rule."""

    name: str


@dataclass(frozen=True)
class Row:
    """Things in a row."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """Alternatives."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """Something `low` to `high` times; None for no end."""

    item: Node
    low: int
    high: int | None


Node = Text | OneOf | Token | Name | Row | Choice | Repeat
Rules = dict[str, Node]


def parse(text: str, max_depth: int) -> Rules:
    """The rules by name, all names known and `root` among them; InvalidRequest with the line of what is wrong."""
    rules = Parser(text, max_depth).rules()
    if "root" not in rules:
        raise InvalidRequest("the grammar has no rule named root, where it would begin", FIELD)
    for name, node in rules.items():
        for found in names(node):
            if found not in rules:
                raise InvalidRequest(f"the grammar's rule {name} uses {found[:64]}, which is no rule", FIELD)
    return rules


def names(node: Node) -> set[str]:
    """The rules that a node uses."""
    if isinstance(node, Name):
        return {node.name}
    if isinstance(node, Row | Choice):
        return set().union(*(names(item) for item in node.items))
    return names(node.item) if isinstance(node, Repeat) else set()


class Parser:
    """One pass over one grammar. A rule ends where the next begins, so line ends mean nothing."""

    def __init__(self, text: str, max_depth: int) -> None:
        self.text = text
        self.max_depth = max_depth
        self.at = 0
        self.depth = 0

    def rules(self) -> Rules:
        """Every rule."""
        found: Rules = {}
        self.space()
        while self.at < len(self.text):
            name = self.expect(NAME, "a rule's name")
            self.space()
            if not self.take("::="):
                raise self.refusal(f"expected ::= behind {name[:64]}")
            if name in found:
                raise self.refusal(f"the rule {name[:64]} is defined twice")
            self.space()
            found[name] = self.choice()
        if not found:
            raise self.refusal("it has no rules")
        return found

    def refusal(self, why: str) -> InvalidRequest:
        """The error for what stands here."""
        line = self.text.count("\n", 0, self.at) + 1
        near = self.text[self.at : self.at + 20].split("\n")[0]
        return InvalidRequest(f"the grammar, line {line}: {why}" + (f" at {near!r}" if near else ""), FIELD)

    def space(self) -> None:
        """Skip white space and comments."""
        found = SPACE.match(self.text, self.at)
        assert found
        self.at = found.end()

    def take(self, word: str) -> bool:
        """Skip `word` if it stands here."""
        stands = self.text.startswith(word, self.at)
        self.at += len(word) * stands
        return stands

    def expect(self, pattern: re.Pattern[str], what: str) -> str:
        """What matches here."""
        found = pattern.match(self.text, self.at)
        if not found:
            raise self.refusal(f"expected {what}")
        self.at = found.end()
        return found[0]

    def choice(self) -> Node:
        """Rows between bars, of which one may be empty."""
        items = [self.row()]
        while self.take("|"):
            self.space()
            items.append(self.row())
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def row(self) -> Node:
        """Items up to a bar, a closing parenthesis or the next rule."""
        items: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)" and not RULE.match(self.text, self.at):
            item = self.item()
            self.space()
            items.append(self.repeated(item))
            self.space()
        return items[0] if len(items) == 1 else Row(tuple(items))

    def repeated(self, item: Node) -> Node:
        """The item with the quantifiers that follow it."""
        while self.at < len(self.text) and self.text[self.at] in "*+?{":
            low, high = self.count()
            if (high is not None and (low > high or high > MAX_COUNT)) or low > MAX_COUNT:
                raise self.refusal(f"a repetition is the wrong way round or over {MAX_COUNT}")
            item = Repeat(item, low, high)
            self.space()
        return item

    def count(self) -> tuple[int, int | None]:
        """The bounds of a quantifier."""
        char = self.text[self.at]
        if char != "{":
            self.at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        found = COUNT.match(self.text, self.at)
        if not found or not (found[1] or found[3]) or max(len(found[1]), len(found[3])) > 9:
            raise self.refusal("expected {m}, {m,}, {,n} or {m,n}")
        self.at = found.end()
        low = int(found[1] or 0)
        return low, int(found[3]) if found[3] else (None if found[2] else low)

    def item(self) -> Node:
        """One thing that can be repeated."""
        char = self.text[self.at]
        if char == '"':
            return self.literal()
        if char == "[":
            return self.set()
        if char == "(":
            return self.group()
        if char == "<":
            return Token(self.expect(TOKEN, "a token's name, as in <|name|> or <[123]>"))
        if self.take("."):
            return OneOf(ALL)
        return Name(self.expect(NAME, "a literal, a set, a group or a rule"))

    def group(self) -> Node:
        """A parenthesis."""
        self.depth += 1
        if self.depth > self.max_depth:
            raise self.refusal(f"groups are nested deeper than {self.max_depth}")
        self.at += 1
        if self.text.startswith("?", self.at):
            raise self.refusal("lookahead is not possible")
        self.space()
        inner = self.choice()
        if not self.take(")"):
            raise self.refusal("a ( is not closed")
        self.depth -= 1
        return inner

    def literal(self) -> Node:
        """Text in quotes."""
        self.at += 1
        out: list[str] = []
        while not self.take('"'):
            if self.at >= len(self.text) or self.text[self.at] == "\n":
                raise self.refusal('a " is not closed')
            out.append(self.character())
        return Text("".join(out))

    def set(self) -> Node:
        """A set of characters in brackets."""
        self.at += 1
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            if self.at >= len(self.text):
                raise self.refusal("a [ is not closed")
            low = high = self.character()
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                high = self.character()
            if low > high:
                raise self.refusal(f"the range {low}-{high} is the wrong way round")
            ranges.append((ord(low), ord(high)))
        found = chars(ranges)
        if not found and not negated:
            raise self.refusal("a set is empty")
        return OneOf(complement(found) if negated else found)

    def character(self) -> str:
        """One character, perhaps behind a backslash."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char != "\\":
            return char
        kind = self.text[self.at : self.at + 1]
        self.at += 1
        if kind not in HEX:
            if not kind:
                raise self.refusal("it ends with a backslash")
            return ESCAPES.get(kind, kind)
        digits = self.text[self.at : self.at + HEX[kind]]
        try:
            code = int(digits, 16)
        except ValueError:
            code = -1
        if len(digits) < HEX[kind] or not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise self.refusal(f"\\{kind}{digits} is no character")
        self.at += HEX[kind]
        return chr(code)

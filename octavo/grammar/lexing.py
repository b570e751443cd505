"""GBNF for the library, which reads words before it parses them, as Lark does.

The library takes the longest word that may come, so a grammar that is cut into words carelessly loses texts: `"a"* "a"`
would never see its last "a". GBNF knows no words. Here regular parts become words (one regex each, which is fast)
where that loses nothing, and are taken apart, down to single characters, where it might. Source of the argument: a
word is safe if no character that may continue it may also follow it, and if it and its rivals differ in their first
character.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.errors import InvalidRequest
from octavo.grammar.characters import ALL, NONE, Chars, meets, union
from octavo.grammar.gbnf import Choice, Name, Node, OneOf, Repeat, Row, Rules, Text, Token, names
from octavo.structured import FIELD

MAX_WORD = 4000  # characters of a regex
MAX_ROUNDS = 2000


def to_lark(rules: Rules) -> str:
    """The same language in the library's dialect of Lark."""
    return Writer(rules).write()


@dataclass(frozen=True)
class Facts:
    """A regular expression and what may be said of its texts: first characters, those that may lengthen one, any."""

    regex: str
    nullable: bool
    first: Chars
    more: Chars  # c such that w and some w + c + ... are both texts of it
    any: Chars
    is_char: bool = False  # every text is one character long


def regex_char(code: int) -> str:
    """A character of a regex."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"


def regex_set(chars: Chars) -> str:
    """A set of a regex."""
    if chars == ALL:
        return "(?s:.)"
    parts = [regex_char(a) if a == b else f"{regex_char(a)}-{regex_char(b)}" for a, b in chars]
    return f"[{''.join(parts)}]"


def facts_of_set(chars: Chars) -> Facts:
    """Facts of one character."""
    return Facts(regex_set(chars), False, chars, NONE, chars, is_char=True)


def facts_of_text(text: str) -> Facts:
    """Facts of a literal."""
    codes = [ord(char) for char in text]
    first: Chars = ((codes[0], codes[0]),) if codes else NONE
    any = union(*(((code, code),) for code in codes)) if codes else NONE
    return Facts("".join(map(regex_char, codes)), not codes, first, NONE, any, is_char=len(codes) == 1)


def facts_of_row(parts: list[Facts]) -> Facts:
    """Facts of things in a row."""
    whole = facts_of_text("")
    for part in parts:
        clear = not meets(whole.more, part.first)
        first = union(whole.first, part.first) if whole.nullable else whole.first
        any = union(whole.any, part.any)
        more = union(part.more, *((part.first, whole.more) if part.nullable else ()))
        regex = whole.regex + (f"(?:{part.regex})" if "|" in part.regex else part.regex)
        is_char = (whole.is_char and not part.regex) or (not whole.regex and part.is_char)
        whole = Facts(regex, whole.nullable and part.nullable, first, more if clear else any, any, is_char)
    return whole


def facts_of_choice(parts: list[Facts]) -> Facts:
    """Facts of alternatives."""
    nullable = any(part.nullable for part in parts)
    all_chars = union(*(part.any for part in parts))
    first, clear = NONE, True
    for part in parts:
        clear = clear and not meets(first, part.first)
        first = union(first, part.first)
    is_char = all(part.is_char for part in parts)
    more = union(*(part.more for part in parts), *((first,) if nullable else ()))
    clear = clear or is_char
    return Facts(
        "|".join(part.regex for part in parts), nullable, first, more if clear else all_chars, all_chars, is_char
    )


def facts_of_repeat(item: Facts, low: int, high: int | None) -> Facts:
    """Facts of a repetition."""
    if high == 0:
        return facts_of_text("")
    clear = not meets(item.more, item.first) or high == 1
    exact = low == high and not item.nullable
    more = item.more if exact else union(item.more, item.first)
    bounds = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high), f"{{{low},{'' if high is None else high}}}")
    return Facts(
        f"(?:{item.regex}){bounds}",
        item.nullable or low == 0,
        item.first,
        more if clear else item.any,
        item.any,
        item.is_char and low == high == 1,
    )


class Writer:
    """Cuts one grammar into words and writes it down."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.recursive = recursive(rules)
        self.known: dict[Node, Facts | None] = {}
        self.apart: set[Node] = set()  # nodes that must not be one word

    def write(self) -> str:
        """The grammar in Lark."""
        for _ in range(MAX_ROUNDS):
            wrong = Analysis(self).unsafe()
            if not wrong:
                return self.lark()
            self.apart |= wrong
        raise InvalidRequest("the grammar is too entangled to be used; make it smaller", FIELD)

    def facts(self, node: Node) -> Facts | None:
        """What is known of a regular node; None for one that is not, or is too long for one word."""
        if node not in self.known:
            self.known[node] = None  # a rule that uses itself is not regular
            self.known[node] = self._facts(node)
        return self.known[node]

    def _facts(self, node: Node) -> Facts | None:
        if isinstance(node, Text):
            found: Facts | None = facts_of_text(node.text)
        elif isinstance(node, OneOf):
            found = facts_of_set(node.chars)
        elif isinstance(node, Token):
            return None
        elif isinstance(node, Name):
            return None if node.name in self.recursive else self.facts(self.rules[node.name])
        elif isinstance(node, Repeat):
            inner = self.facts(node.item)
            found = inner and facts_of_repeat(inner, node.low, node.high)
        else:
            parts = [self.facts(item) for item in node.items]
            known = [part for part in parts if part is not None]
            combine = facts_of_row if isinstance(node, Row) else facts_of_choice
            found = combine(known) if len(known) == len(parts) else None
        return found if found is None or len(found.regex) <= MAX_WORD else None

    def is_word(self, node: Node) -> bool:
        """Whether a node is written as one word."""
        if isinstance(node, Name):
            return node.name not in self.recursive and self.is_word(self.rules[node.name])
        return node not in self.apart and self.facts(node) is not None

    def pieces(self, node: Row) -> list[Node]:
        """The items of a row, neighbors that are words joined as far as that is safe."""
        out: list[Node] = []
        at = 0
        while at < len(node.items):
            end = at
            while end < len(node.items) and self.is_word(node.items[end]):
                end += 1
            while end > at + 1 and not self.is_word(Row(node.items[at:end])):
                end -= 1
            out.append(Row(node.items[at:end]) if end > at + 1 else node.items[at])
            at = max(end, at + 1)
        return out

    def lark(self) -> str:
        """The grammar as it is cut now."""
        self.words: dict[str, str] = {}
        numbers = {name: f"r{i}" for i, name in enumerate(self.rules)}
        self.numbers = numbers
        reached, waiting = {"root"}, ["root"]
        lines: list[str] = []
        while waiting:
            name = waiting.pop()
            lines.append(f"{numbers[name]}: {self.expression(self.rules[name])}")
            fresh = self.used(self.rules[name]) - reached
            reached |= fresh
            waiting += sorted(fresh)
        words = [f"{word}: /{regex}/" for regex, word in self.words.items()]
        return "\n".join([f"start: {numbers['root']}", *lines, *words]) + "\n"

    def used(self, node: Node) -> set[str]:
        """The rules that a node names and that are not part of a word."""
        if self.is_word(node):
            return set()
        if isinstance(node, Name):
            return {node.name}
        if isinstance(node, Row | Choice):
            return set().union(*(self.used(item) for item in node.items))
        return self.used(node.item) if isinstance(node, Repeat) else set()

    def expression(self, node: Node) -> str:
        """A node in Lark."""
        if self.is_word(node):
            facts = self.facts(node)
            assert facts
            return self.word(facts)
        if isinstance(node, Token):
            return node.name
        if isinstance(node, Name):
            return self.numbers[node.name]
        if isinstance(node, Text):
            return " ".join(self.word(facts_of_text(char)) for char in node.text)
        if isinstance(node, Repeat):
            high = "" if node.high is None else node.high
            bounds = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high), f"{{{node.low},{high}}}")
            return f"({self.expression(node.item)}){bounds}" if node.high != 0 else '""'
        if isinstance(node, Choice):
            return "(" + " | ".join(self.expression(item) for item in node.items) + ")"
        assert isinstance(node, Row)
        return "(" + " ".join(self.expression(item) for item in self.pieces(node)) + ")" if node.items else '""'

    def word(self, facts: Facts) -> str:
        """The name of a word."""
        if not facts.regex:
            return '""'
        name = self.words.setdefault(facts.regex, f"W{len(self.words)}")
        return f"{name}?" if facts.nullable else name


class Analysis:
    """Which words may begin, follow each other and compete, as the grammar is cut now.

    Symbols are strings: regexes of words, and names of productions, which begin with a NUL.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.facts: dict[str, Facts] = {}
        self.nodes: dict[str, set[Node]] = {}  # of each word, where it comes from
        self.productions: dict[str, list[list[str]]] = {}
        self.start = self.rule("root")
        self.nullable = self._nullable()
        self.first = self._first()

    def rule(self, name: str) -> str:
        """The symbol of a rule."""
        symbol = f"\0{name}"
        if symbol not in self.productions:
            self.productions[symbol] = []
            self.productions[symbol] = [[self.symbol(self.writer.rules[name])]]
        return symbol

    def fresh(self, productions: list[list[str]]) -> str:
        """A symbol of its own."""
        symbol = f"\0{len(self.productions)} "
        self.productions[symbol] = productions
        return symbol

    def symbol(self, node: Node) -> str:
        """The symbol of a node."""
        if self.writer.is_word(node):
            facts = self.writer.facts(node)
            assert facts
            if not facts.regex:
                return self.fresh([[]])
            self.facts[facts.regex] = facts
            self.nodes.setdefault(facts.regex, set()).add(node)
            return self.fresh([[], [facts.regex]]) if facts.nullable else facts.regex
        if isinstance(node, Name):
            return self.rule(node.name)
        if isinstance(node, Token):
            self.facts[node.name] = Facts(node.name, False, NONE, NONE, NONE)
            return node.name
        if isinstance(node, Text):
            return self.fresh([[self.symbol(Text(char)) for char in node.text]])
        if isinstance(node, Choice):
            return self.fresh([[self.symbol(item)] for item in node.items])
        if isinstance(node, Row):
            return self.fresh([[self.symbol(item) for item in self.writer.pieces(node)]])
        assert isinstance(node, Repeat)
        inner = self.symbol(node.item)
        symbol = self.fresh([[inner]])
        self.productions[symbol] += [[symbol, inner]] + ([[]] if node.low == 0 else [])
        return symbol

    def _nullable(self) -> set[str]:
        found: set[str] = set()
        while True:
            fresh = {
                symbol
                for symbol, rows in self.productions.items()
                if symbol not in found and any(all(part in found for part in row) for row in rows)
            }
            if not fresh:
                return found
            found |= fresh

    def _first(self) -> dict[str, set[str]]:
        """The words that may begin each symbol."""
        first: dict[str, set[str]] = {symbol: set() for symbol in self.productions}
        first |= {word: {word} for word in self.facts}
        changed = True
        while changed:
            changed = False
            for symbol, rows in self.productions.items():
                before = len(first[symbol])
                for row in rows:
                    for part in row:
                        first[symbol] |= first[part]
                        if part not in self.nullable:
                            break
                changed |= len(first[symbol]) != before
        return first

    def _follow(self) -> dict[str, set[str]]:
        """The words that may come behind each symbol."""
        follow: dict[str, set[str]] = {symbol: set() for symbol in self.first}
        changed = True
        while changed:
            changed = False
            for symbol, rows in self.productions.items():
                for row in rows:
                    behind = set(follow[symbol])
                    for part in reversed(row):
                        before = len(follow[part])
                        follow[part] |= behind
                        changed |= len(follow[part]) != before
                        behind = self.first[part] | behind if part in self.nullable else set(self.first[part])
        return follow

    def unsafe(self) -> set[Node]:
        """The nodes that must not be one word."""
        follow = self._follow()
        wrong: set[str] = set()
        for word, facts in self.facts.items():
            if meets(facts.more, union(*(self.facts[next].first for next in follow[word]))):
                wrong.add(word)
        states = [self.first[self.start], *(follow[word] for word, facts in self.facts.items() if not facts.is_char)]
        # Characters may be told apart by what follows only, so several of them can have been read at once.
        states += self._states_behind_characters(follow)
        for state in states:
            wrong |= self._rivals(state)
        found = {node for word in wrong if not self.facts[word].is_char for node in self.nodes.get(word, ())}
        return {self.writer.rules[node.name] if isinstance(node, Name) else node for node in found}

    def _states_behind_characters(self, follow: dict[str, set[str]]) -> list[set[str]]:
        single = [word for word, facts in self.facts.items() if facts.is_char]
        groups: list[tuple[Chars, set[str]]] = []
        for word in single:
            reach, state = self.facts[word].first, set(follow[word])
            rest: list[tuple[Chars, set[str]]] = []
            for chars, others in groups:
                if meets(chars, reach):
                    reach, state = union(reach, chars), state | others
                else:
                    rest.append((chars, others))
            groups = [*rest, (reach, state)]
        return [state for _, state in groups]

    def _weight(self, word: str) -> int:
        """How much is lost when a word is taken apart."""
        return 0 if self.facts[word].is_char else len(word)

    def _rivals(self, state: set[str]) -> set[str]:
        """The words among those that may come in one place that begin alike, unless each is one character."""
        wrong: set[str] = set()
        words = sorted(state)
        for i, word in enumerate(words):
            facts = self.facts[word]
            for other in words[i + 1 :]:
                rival = self.facts[other]
                if not (facts.is_char and rival.is_char) and meets(facts.first, rival.first):
                    wrong.add(word if self._weight(word) >= self._weight(other) else other)
        return wrong


def recursive(rules: Rules) -> set[str]:
    """The rules that use themselves, directly or not."""
    uses = {name: names(node) for name, node in rules.items()}
    found: set[str] = set()
    for name in rules:
        seen: set[str] = set()
        waiting = list(uses[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += uses[other]
        if name in seen:
            found.add(name)
    return found

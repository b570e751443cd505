r"""Regular expressions as Python's `re` reads them, in the dialect of the library.

A whole answer is matched, so laziness (`*?`) means nothing and anchors at the ends are understood. `\w` and `\s` are
Unicode's, as in Python (3.11's, which later ones contain); `\d` is 0 to 9. What looks around or back, and what only a
back-tracking matcher can say, is refused.
"""

from __future__ import annotations

from octavo.errors import InvalidRequest
from octavo.structured import FIELD

CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
CLASSES = {"d": "0-9", "w": r"[\p{L}\p{N}_&&\p{Age=14.0}]", "s": r"\s\x{1c}-\x{1f}"}
OTHERS = {"d": r"[^\p{Nd}]", "w": r"[^\p{L}\p{N}_]", "s": r"[^\s\x{1c}-\x{1f}]"}
CATEGORIES = tuple("dwsDWSpP")
HEX = {"x": 2, "u": 4, "U": 8}


def translate(pattern: str, max_depth: int) -> str:
    """The same language for the library; InvalidRequest says what is not possible and where."""
    for flags in ("(?i)", "(?s)", "(?is)", "(?si)"):
        if pattern.startswith(flags):
            return f"{flags[:-1]}:{Translator(pattern, max_depth, len(flags)).run()})"
    return Translator(pattern, max_depth).run()


def spelled(char: str) -> str:
    """One character, safe anywhere in the library's dialect."""
    return char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):x}}}"


class Translator:
    """One pass over one pattern."""

    def __init__(self, pattern: str, max_depth: int, at: int = 0) -> None:
        self.pattern = pattern
        self.max_depth = max_depth
        self.at = at
        self.depth = 0

    def run(self) -> str:
        """The whole pattern."""
        if "\0" in self.pattern:
            raise self.refusal("a NUL character is not possible")
        out = self.alternatives()
        if self.at < len(self.pattern):
            raise self.refusal("there is a ) without its (")
        return out

    def refusal(self, why: str) -> InvalidRequest:
        """The error for what stands here."""
        return InvalidRequest(f"regex: {why} (at character {self.at + 1})", FIELD)

    def peek(self, count: int = 1) -> str:
        """The next characters."""
        return self.pattern[self.at : self.at + count]

    def alternatives(self) -> str:
        """Sequences between bars, up to a closing parenthesis."""
        parts = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.sequence())
        return "|".join(parts)

    def sequence(self) -> str:
        """Items in a row. `^` may only begin the whole or an alternative of it, `$` only end one."""
        out: list[str] = []
        first = True
        while (char := self.peek()) and char not in "|)":
            if char == "^" or self.peek(2) in ("\\A", "\\Z"):
                self.anchor(first, char != "^")
                continue
            if char == "$":
                self.at += 1
                self.expect_end("$")
                continue
            item = self.item()
            if item is not None:
                out.append(item + self.repetition())
            first = False
        return "".join(out)

    def anchor(self, first: bool, is_long: bool) -> None:
        """Skip `^` or `\\A` at the beginning, `\\Z` at the end."""
        word = self.peek(2 if is_long else 1)
        self.at += len(word)
        if word == "\\Z":
            self.expect_end(word)
        elif not first or self.depth:
            raise self.refusal(f"{word} can only stand at the beginning")

    def expect_end(self, word: str) -> None:
        """An anchor for the end must be the last of its alternative, outside groups."""
        if self.depth or self.peek() not in ("", "|", ")"):
            raise self.refusal(f"{word} can only stand at the end")

    def item(self) -> str | None:
        """One thing that can be repeated; None for a comment or flags."""
        char = self.peek()
        if char == "(":
            return self.group()
        if char == "[":
            return self.set()
        if char == ".":
            self.at += 1
            return "."
        if char == "\\":
            return self.escape(inside=False)
        if char in "*+?":
            raise self.refusal(f"{char} has nothing to repeat")
        self.at += 1
        return spelled(char)

    def group(self) -> str | None:
        """A parenthesis and what it means."""
        self.depth += 1
        if self.depth > self.max_depth:
            raise self.refusal(f"groups are nested deeper than {self.max_depth}")
        self.at += 1
        opening = "(?:"
        if self.peek() == "?":
            opening = self.extension()
            if not opening:
                self.depth -= 1
                return None
        inner = self.alternatives()
        if self.peek() != ")":
            raise self.refusal("a ( is not closed")
        self.at += 1
        self.depth -= 1
        return f"{opening}{inner})"

    def extension(self) -> str:
        """What follows `(?`: how the group opens, or nothing when that was all of it."""
        rest = self.pattern[self.at + 1 : self.at + 4]
        if rest.startswith(":"):
            self.at += 2
            return "(?:"
        if rest.startswith("P<"):
            end = self.pattern.find(">", self.at)
            if end < 0 or not self.pattern[self.at + 3 : end].isidentifier():
                raise self.refusal("a group's name is not closed or no identifier")
            self.at = end + 1
            return "(?:"
        if rest.startswith("#"):
            end = self.pattern.find(")", self.at)
            if end < 0:
                raise self.refusal("a comment is not closed")
            self.at = end + 1
            return ""
        if rest[:1] in "=!" or rest[:2] in ("<=", "<!"):
            raise self.refusal("lookahead and lookbehind are not possible")
        if rest[:2] in ("i:", "s:"):
            self.at += 3
            return f"(?{rest[0]}:"
        raise self.refusal(
            f"(?{rest[:1]}…) is not possible; there are (?:…), (?P<name>…), (?i:…), (?s:…) and (?i) first"
        )

    def repetition(self) -> str:
        """The quantifier behind an item, if there is one."""
        char = self.peek()
        out = ""
        if char and char in "*+?":
            self.at += 1
            out = char
        elif char == "{":
            out = self.counted()
        if not out:
            return ""
        if self.peek() == "?":
            self.at += 1
        elif self.peek() == "+":
            raise self.refusal("possessive quantifiers are not possible")
        if (self.peek() and self.peek() in "*+?") or (self.peek() == "{" and self.counted()):
            raise self.refusal("a quantifier follows a quantifier")
        return out

    def counted(self) -> str:
        """`{m}`, `{m,}`, `{,n}`, `{m,n}`; nothing when the brace is a character of its own, as in Python."""
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : max(end, self.at)].partition(",")
        digits = [part for part in (low, high) if part]
        if end < 0 or not (digits or comma) or not all(part.isascii() and part.isdigit() for part in digits):
            return ""
        if low and high and int(low) > int(high):
            raise self.refusal("a repetition's bounds are the wrong way round")
        self.at = end + 1
        return f"{{{low or 0}{comma}{high}}}"

    def escape(self, inside: bool) -> str:
        """What a backslash means."""
        char = self.pattern[self.at + 1 : self.at + 2]
        if not char:
            raise self.refusal("it ends with a backslash")
        if char in "dws":
            self.at += 2
            return CLASSES[char] if inside else f"[{CLASSES[char]}]"
        if char in "DWS":
            self.at += 2
            return OTHERS[char.lower()]
        if char in "pP":
            return self.category()
        if char in "bB":
            raise self.refusal("word boundaries are not possible")
        if char.isascii() and char.isdigit() and char != "0":
            raise self.refusal("back-references are not possible")
        return spelled(self.character())

    def category(self) -> str:
        r"""`\p{L}` and its like, which Python's `re` does not have."""
        end = self.pattern.find("}", self.at)
        name = self.pattern[self.at + 3 : max(end, self.at + 3)]
        if self.peek(3)[2:] != "{" or not name.replace("_", "").replace("=", "").isalnum() or not name.isascii():
            raise self.refusal("\\p needs the name of a category in braces, as in \\p{L}")
        found = f"\\{self.pattern[self.at + 1]}{{{name}}}"
        self.at = end + 1
        return found

    def character(self) -> str:
        """The one character that a backslash and what follows stand for."""
        char = self.pattern[self.at + 1 : self.at + 2]
        if char in HEX:
            digits = self.pattern[self.at + 2 : self.at + 2 + HEX[char]]
            try:
                found = chr(int(digits, 16)) if len(digits) == HEX[char] else ""
            except (ValueError, OverflowError):
                found = ""
            if not found or "\ud800" <= found <= "\udfff":
                raise self.refusal(f"\\{char}{digits} is no character")
            self.at += 2 + HEX[char]
            return found
        if char.isascii() and char.isalpha() and char not in CONTROL:
            raise self.refusal(f"\\{char} has no meaning here")
        if char == "0":
            raise self.refusal("a NUL character is not possible")
        self.at += 2
        return CONTROL.get(char, char)

    def set(self) -> str:
        """A class in brackets."""
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        out: list[str] = []
        while True:
            char = self.peek()
            if not char:
                raise self.refusal("a [ is not closed")
            if char == "]" and out:
                self.at += 1
                return f"[{'^' if negated else ''}{''.join(out)}]"
            out.append(self.member())

    def member(self) -> str:
        """One character, range or class inside brackets."""
        if self.peek() == "\\" and self.pattern[self.at + 1 : self.at + 2] in CATEGORIES:
            return self.escape(inside=True)
        low = self.bound()
        if self.peek() != "-" or self.pattern[self.at + 1 : self.at + 2] in ("]", ""):
            return spelled(low)
        self.at += 1
        if self.peek() == "\\" and self.pattern[self.at + 1 : self.at + 2] in CATEGORIES:
            raise self.refusal("a range cannot end with a class")
        high = self.bound()
        if low > high:
            raise self.refusal(f"the range {low}-{high} is the wrong way round")
        return f"{spelled(low)}-{spelled(high)}"

    def bound(self) -> str:
        """One end of a range."""
        if self.peek() == "\\":
            if self.pattern[self.at + 1 : self.at + 2] == "b":
                self.at += 2
                return "\b"
            return self.character()
        char = self.peek()
        self.at += 1
        return char

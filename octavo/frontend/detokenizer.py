"""Token ids to text while they arrive: whole characters only, and stop strings that cross every border."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from octavo.errors import InvalidRequest
from octavo.frontend.pieces import Joiner, decode_utf8
from octavo.frontend.tokenizer import Tokenizer


class Detokenizer:
    """The text of a sequence's output as it continues its prompt, in pieces that never change afterwards.

    The pieces joined, `finish` included, equal one decode of prompt and output without the prompt's characters. A
    character belongs to the output when its last byte does: one that the prompt began and the output completes is
    shown whole. Work is linear in the output; of the prompt only its borders are decoded.
    skip_special_tokens drops special tokens but the `visible` ones; spaces_between_special_tokens=False spells
    neighboring added tokens without a space between (names and defaults of vLLM's SamplingParams).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        visible: frozenset[int] = frozenset(),
    ) -> None:
        pieces = tokenizer.pieces
        skip = tokenizer.special_ids - visible if skip_special_tokens else frozenset()
        self._per_byte = not pieces.byte_level
        self._joiner = Joiner(pieces, skip, skip_special_tokens or spaces_between_special_tokens)
        self._pending = b""
        self._hidden = 0
        self._is_finished = False
        self._resume(tokenizer, prompt_ids, skip)
        self._is_settled = self._joiner.is_settled

    def _resume(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip: frozenset[int]) -> None:
        head = 0
        end = b""
        while head < len(prompt_ids) and not self._joiner.is_settled:
            end += self._joiner.push((prompt_ids[head],))
            head += 1
        # UTF-8 synchronizes itself: the last three bytes tell whether the text ends inside a character.
        tail = len(prompt_ids)
        size = 0
        while tail > head and size < 3:
            tail -= 1
            if prompt_ids[tail] not in skip:
                size += len(tokenizer.token_bytes(prompt_ids[tail]))
        if tail < len(prompt_ids):
            self._joiner.resume(prompt_ids[tail:])
        end += b"".join(tokenizer.token_bytes(id) for id in prompt_ids[tail:] if id not in skip)
        _, self._pending = decode_utf8(end[-3:], is_final=False, per_byte=self._per_byte)
        self._hidden = len(self._pending)

    def push_one(self, id: int) -> str:
        """`push` of one token: most are looked up and need no decoding."""
        if self._is_settled and not self._pending:
            text = self._joiner.text(id)
            if text is not None:
                return text
        return self.push((id,))

    def push(self, ids: Sequence[int]) -> str:
        """Return the text that `ids` complete."""
        assert not self._is_finished
        data = self._pending + self._joiner.push(ids)
        text, self._pending = decode_utf8(data, is_final=False, per_byte=self._per_byte, hidden=self._hidden)
        # What is pending still holds hidden bytes only while nothing has been consumed.
        if len(self._pending) < len(data):
            self._hidden = 0
        self._is_settled = self._joiner.is_settled
        return text

    def finish(self) -> str:
        """Return what was held back: U+FFFD for a character that never came to its end."""
        self._is_finished = True
        data, self._pending = self._pending, b""
        return decode_utf8(data, is_final=True, per_byte=self._per_byte, hidden=self._hidden)[0]


class StopStrings:
    """Cuts a text that comes in chunks at the first stop string, and shows nothing that may still become one.

    The match that ends first wins, the longest of those that end together. One step of an automaton for each
    character (Aho and Corasick 1975), so the split into chunks changes nothing and no input is slow.
    """

    def __init__(self, stop: Sequence[str], include_in_output: bool = False) -> None:
        if not all(stop):
            raise InvalidRequest(
                "stop contains an empty string; every stop string needs at least one character", "stop"
            )
        self._include = include_in_output
        self._held = ""
        self._state = 0
        self.matched: str | None = None
        self._goto: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._depth = [0]
        self._match: list[str | None] = [None]
        for text in stop:
            self._insert(text)
        self._link()

    def _insert(self, text: str) -> None:
        state = 0
        for char in text:
            if char not in self._goto[state]:
                self._goto[state][char] = len(self._goto)
                self._goto.append({})
                self._fail.append(0)
                self._depth.append(self._depth[state] + 1)
                self._match.append(None)
            state = self._goto[state][char]
        self._match[state] = text

    def _link(self) -> None:
        queue = deque([0])
        while queue:
            state = queue.popleft()
            for char, child in self._goto[state].items():
                queue.append(child)
                if state:
                    self._fail[child] = self._next(self._fail[state], char)
                # The longest match ending here is its own, else that of its longest proper suffix.
                if self._match[child] is None:
                    self._match[child] = self._match[self._fail[child]]

    def _next(self, state: int, char: str) -> int:
        while state and char not in self._goto[state]:
            state = self._fail[state]
        return self._goto[state].get(char, 0)

    def push(self, text: str) -> tuple[str, str | None]:
        """Return the text that is safe to show now, and the stop string that ended it or None.

        After a match: no text, and the same stop string.
        """
        if self.matched is not None:
            return "", self.matched
        if len(self._goto) == 1:
            return text, None
        state = self._state
        for at, char in enumerate(text):
            state = self._next(state, char)
            found = self._match[state]
            if found is not None:
                self.matched = found
                shown = self._held + text[: at + 1]
                self._held = ""
                return shown if self._include else shown[: len(shown) - len(found)], found
        self._state = state
        whole = self._held + text
        safe = len(whole) - self._depth[state]
        self._held = whole[safe:]
        return whole[:safe], None

    def flush(self) -> str:
        """Return the text still held back, which no stop string claims any more."""
        held, self._held, self._state = self._held, "", 0
        return held

"""What bytes each token stands for, and how a run of tokens becomes bytes and bytes become text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tokenizers

from octavo.errors import StartupError

REPLACEMENT = "\ufffd"

WINDOW_BYTES = 4096

Step = Callable[[str, bool], str]


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of byte-level BPE: printable Latin-1 for itself, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


class Pieces:
    """The bytes of every token of one `tokenizers` pipeline, by inverting its decoder one token at a time.

    Understands ByteLevel, ByteFallback, Fuse, Replace (of a string), Strip (at the left), Metaspace, WordPiece and
    none; any other decoder depends on what comes later and is refused with a StartupError.
    """

    def __init__(self, backend: tokenizers.Tokenizer, added: Mapping[int, str]) -> None:
        self._backend = backend
        self.added = dict(added)
        self.byte_level = False
        self.byte_fallback = False
        self.leading_spaces = 0
        self._steps: list[Step] = []
        self._first: dict[int, bytes | None] = {}
        self._later: dict[int, bytes | None] = {}
        self._texts: dict[int, str | None] = {}
        if backend.decoder is None:
            self._steps.append(lambda text, is_first: text if is_first else " " + text)
        else:
            is_fused = False
            for spec in _flatten(json.loads(backend.decoder.__getstate__())):
                is_fused = is_fused or spec["type"] == "Fuse"
                self._add_step(spec, is_fused)

    def piece(self, id: int, is_first: bool = False) -> bytes | None:
        """Return the bytes of token `id`; None when there is no such token. A text's first token may lose its space."""
        known = self._first if is_first else self._later
        try:
            return known[id]
        except KeyError:
            known[id] = self._piece(id, is_first)
            return known[id]

    def text(self, id: int) -> str | None:
        """Return what token `id` adds to a text that has begun: whole characters, and it is no added token; or None."""
        try:
            return self._texts[id]
        except KeyError:
            piece = None if id in self.added else self.piece(id)
            try:
                self._texts[id] = None if piece is None else piece.decode()
            except UnicodeDecodeError:
                self._texts[id] = None
            return self._texts[id]

    def literal(self, id: int) -> bytes | None:
        """Return the spelling of an added token, or None when `id` is not one."""
        text = self.added.get(id)
        return None if text is None else text.encode()

    def _piece(self, id: int, is_first: bool) -> bytes | None:
        added = id in self.added
        text = self.added[id] if added else self._backend.id_to_token(id) if 0 <= id < 1 << 32 else None
        if text is None:
            return None
        for step in self._steps:
            text = step(text, is_first)
        # An added token is matched in the text as it is spelled, so it stands for its spelling.
        if self.byte_level and not added and all(char in BYTE_OF for char in text):
            return bytes(BYTE_OF[char] for char in text)
        if self.byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            try:
                return bytes.fromhex(text[3:5])
            except ValueError:
                pass
        return text.encode()

    def _add_step(self, spec: dict[str, Any], is_fused: bool) -> None:
        kind = spec["type"]
        if kind == "ByteLevel":
            self.byte_level = True
        elif kind == "ByteFallback":
            self.byte_fallback = True
        elif kind == "Replace" and "String" in spec["pattern"] and not is_fused:
            self._steps.append(_replace(spec["pattern"]["String"], spec["content"]))
        elif kind == "Strip" and spec["stop"] == 0 and is_fused and spec["content"] == " ":
            self.leading_spaces += spec["start"]
        elif kind == "Strip" and spec["stop"] == 0 and not is_fused:
            self._steps.append(_strip_left(spec["content"], spec["start"]))
        elif kind == "Metaspace":
            self._steps.append(_metaspace(spec["replacement"], spec.get("prepend_scheme", "always") != "never"))
        elif kind == "WordPiece":
            self._steps.append(_word_piece(spec["prefix"], spec["cleanup"]))
        elif kind != "Fuse":
            raise StartupError(f"tokenizer.json: decoder {json.dumps(spec)} is not supported", "tokenizer")


def _flatten(spec: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if spec["type"] != "Sequence":
        return [spec]
    return [inner for outer in spec["decoders"] for inner in _flatten(outer)]


def _replace(pattern: str, content: str) -> Step:
    return lambda text, is_first: text.replace(pattern, content)


def _strip_left(content: str, count: int) -> Step:
    def step(text: str, is_first: bool) -> str:
        return text[min(count, len(text) - len(text.lstrip(content))) :]

    return step


def _metaspace(mark: str, drops_first: bool) -> Step:
    return lambda text, is_first: text.replace(mark, "" if is_first and drops_first else " ")


# The fixed list of `tokenizers` (decoders/wordpiece.rs, cleanup).
CLEANUPS = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
            (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))  # fmt: skip


def _word_piece(prefix: str, cleans: bool) -> Step:
    def step(text: str, is_first: bool) -> str:
        if not is_first:
            text = text[len(prefix) :] if text.startswith(prefix) else " " + text
        for old, new in CLEANUPS if cleans else ():
            text = text.replace(old, new)
        return text

    return step


class Joiner:
    """Turns token ids into the bytes of their text, remembering what came before.

    skip: ids that leave no trace. spaces_between_added: False spells an added token that follows an added token
    exactly as it is, without the space some decoders put before every token.
    """

    def __init__(self, pieces: Pieces, skip: frozenset[int], spaces_between_added: bool = True) -> None:
        self._pieces = pieces
        self._skip = skip
        self._spaces_between_added = spaces_between_added
        self._is_first = True
        self._after_added = False
        self._strippable = pieces.leading_spaces

    @property
    def is_settled(self) -> bool:
        """Whether the start of the text no longer changes what a token stands for."""
        return not self._is_first and self._strippable == 0

    def text(self, id: int) -> str | None:
        """Return what one token adds, where that is simple: whole characters of an ordinary token. None: `push` it.

        The text must be settled, which it stays.
        """
        text = self._pieces.text(id)
        if text is not None:
            self._after_added = False
        return text

    def push(self, ids: Iterable[int]) -> bytes:
        """Return the bytes that `ids` add to the text so far."""
        data = bytearray()
        for id in ids:
            if id in self._skip:
                continue
            piece = self._pieces.piece(id, self._is_first)
            if piece is None:
                continue
            is_added = id in self._pieces.added
            if is_added and self._after_added and not self._spaces_between_added:
                piece = self._pieces.literal(id) or b""
            self._is_first = False
            self._after_added = is_added
            if self._strippable and piece:
                piece = self._strip(piece)
            data += piece
        return bytes(data)

    def resume(self, ids: Iterable[int]) -> None:
        """Take `ids` as already joined, once the text is settled; only the last of them matters."""
        assert self.is_settled
        for id in ids:
            if id not in self._skip and self._pieces.piece(id) is not None:
                self._after_added = id in self._pieces.added

    def _strip(self, piece: bytes) -> bytes:
        spaces = min(self._strippable, len(piece) - len(piece.lstrip(b" ")))
        self._strippable = self._strippable - spaces if spaces == len(piece) else 0
        return piece[spaces:]


def decode_utf8(data: bytes, *, is_final: bool, per_byte: bool, hidden: int = 0) -> tuple[str, bytes]:
    """Return the text of `data` and the incomplete character at its end (empty when final).

    Malformed bytes become U+FFFD: one for each byte as SentencePiece does (per_byte), or one for each maximal part of
    a character as Unicode recommends (chapter 3.9) and byte-level decoders do. The first `hidden` bytes are the
    start of a character that came before: nothing is shown for those of them that never become one.
    """
    parts: list[str] = []
    view = memoryview(data)
    at = 0
    while True:
        # Windows keep the work linear: every UnicodeDecodeError copies what it was given.
        window = view[at : at + WINDOW_BYTES]
        is_last = at + len(window) == len(data)
        try:
            text, used = codecs.utf_8_decode(window, "strict", is_last and is_final)
        except UnicodeDecodeError as error:
            start, end = at + error.start, at + error.end
            parts.append(str(view[at:start], "utf-8"))
            visible = max(0, end - max(start, hidden))
            parts.append(REPLACEMENT * (visible if per_byte else min(visible, 1)))
            at = end
        else:
            parts.append(text)
            at += used
            if is_last:
                return "".join(parts), bytes(view[at:])

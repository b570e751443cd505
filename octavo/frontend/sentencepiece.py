"""SentencePiece models: a checked reader of `tokenizer.model` and the equivalent `tokenizers` pipeline."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from octavo.errors import StartupError

MAX_FILE_BYTES = 256 << 20
MAX_PIECES = 4 << 20
MAX_PIECE_BYTES = 64 << 10

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"

# Far below any lattice path: text never spells a control or byte piece into being.
UNREACHABLE_SCORE = -1e6


@dataclass(frozen=True)
class Piece:
    """One vocabulary entry; `kind` is NORMAL … BYTE of sentencepiece_model.proto."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What `tokenizer.model` says, with the defaults of sentencepiece_model.proto filled in; an id of -1 means none."""

    pieces: tuple[Piece, ...]
    model_type: int
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    def token(self, id: int) -> str | None:
        """Return the spelling of `id`, or None where the model has no such token."""
        return self.pieces[id].text if 0 <= id < len(self.pieces) else None


Value = int | float | bytes


class _Corrupt(Exception):
    """The bytes are not what the format allows."""


def read_model(path: Path) -> SentencePieceModel:
    """Return the parsed SentencePiece model at `path`.

    StartupError, naming the file, when it is missing, too large or not a well-formed model of a supported kind.
    Format: google/sentencepiece, src/sentencepiece_model.proto.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StartupError(
                f"{path}: {path.stat().st_size} bytes is too large; at most {MAX_FILE_BYTES}", "tokenizer"
            )
        return _parse_model(path.read_bytes())
    except OSError as error:
        raise StartupError(f"{path}: cannot read the SentencePiece model ({error.strerror})", "tokenizer") from error
    except _Corrupt as error:
        raise StartupError(f"{path}: not a SentencePiece model: {error}", "tokenizer") from error


def _parse_model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(data):
        if number == 1:
            if len(pieces) == MAX_PIECES:
                raise _Corrupt(f"more than {MAX_PIECES} pieces")
            pieces.append(_parse_piece(_as_bytes(value, "pieces"), len(pieces)))
        elif number == 2:
            trainer.update(_fields(_as_bytes(value, "trainer_spec")))
        elif number == 3:
            normalizer.update(_fields(_as_bytes(value, "normalizer_spec")))
    model = SentencePieceModel(
        pieces=tuple(pieces),
        model_type=_integer(trainer, 3, 1, "trainer_spec.model_type"),
        byte_fallback=bool(_integer(trainer, 35, 0, "trainer_spec.byte_fallback")),
        unk_id=_integer(trainer, 40, 0, "trainer_spec.unk_id"),
        bos_id=_integer(trainer, 41, 1, "trainer_spec.bos_id"),
        eos_id=_integer(trainer, 42, 2, "trainer_spec.eos_id"),
        pad_id=_integer(trainer, 43, -1, "trainer_spec.pad_id"),
        charsmap=_as_bytes(normalizer.get(2, b""), "normalizer_spec.precompiled_charsmap"),
        add_dummy_prefix=bool(_integer(normalizer, 3, 1, "normalizer_spec.add_dummy_prefix")),
        remove_extra_whitespaces=bool(_integer(normalizer, 4, 1, "normalizer_spec.remove_extra_whitespaces")),
        escape_whitespaces=bool(_integer(normalizer, 5, 1, "normalizer_spec.escape_whitespaces")),
    )
    _check_model(model, suffix_spaces=bool(_integer(trainer, 24, 0, "trainer_spec.treat_whitespace_as_suffix")))
    return model


def _check_model(model: SentencePieceModel, suffix_spaces: bool) -> None:
    count = len(model.pieces)
    if count == 0:
        raise _Corrupt("it has no pieces")
    if model.model_type not in (UNIGRAM, BPE):
        raise _Corrupt(f"model_type {model.model_type} is not supported; use 1 (unigram) or 2 (BPE)")
    if suffix_spaces:
        raise _Corrupt("treat_whitespace_as_suffix is not supported")
    if len({piece.text for piece in model.pieces}) != count:
        raise _Corrupt("a piece occurs twice")
    if not 0 <= model.unk_id < count or model.pieces[model.unk_id].kind != UNKNOWN:
        raise _Corrupt(f"unk_id {model.unk_id} does not name the unknown piece")
    for name, id in (("bos_id", model.bos_id), ("eos_id", model.eos_id), ("pad_id", model.pad_id)):
        if not -1 <= id < count:
            raise _Corrupt(f"{name} {id} is outside the {count} pieces")
    if model.charsmap:
        _check_charsmap(model.charsmap)


def _check_charsmap(charsmap: bytes) -> None:
    """Refuse a precompiled_charsmap that would lead its reader out of bounds.

    Layout: the trie's byte count (32 bits, little-endian), the trie as a double array of 32-bit units, then the
    normalized strings, each ended by a zero byte. A step from unit i goes to i ^ offset ^ next byte.
    """
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size == 0 or size % 1024 or size > len(charsmap) - 4:
        raise _Corrupt(f"precompiled_charsmap of {len(charsmap)} bytes claims a trie of {size}")
    units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
    strings = charsmap[4 + size :]
    for at, unit in enumerate(units):
        if unit >> 31 and at:
            continue  # a value: never stepped from, unlike the root
        base = at ^ (unit >> 10) << ((unit & 0x200) >> 6)
        if base | 0xFF >= len(units):
            raise _Corrupt(f"precompiled_charsmap: unit {at} points outside the trie")
        if unit & 0x100:
            start = units[base] & 0x7FFFFFFF
            if start > len(strings) or (strings[start : start + 1] and strings[start] & 0xC0 == 0x80):
                raise _Corrupt(f"precompiled_charsmap: unit {base} points outside the strings")


def _parse_piece(data: bytes, id: int) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _as_bytes(value, f"piece {id}")
        elif number == 2:
            if not isinstance(value, float):
                raise _Corrupt(f"score of piece {id} has the wrong wire type")
            score = value
        elif number == 3:
            kind = _as_int(value, f"type of piece {id}")
    if not NORMAL <= kind <= BYTE:
        raise _Corrupt(f"piece {id} has type {kind}, not one of 1 to 6")
    if not 0 < len(text) <= MAX_PIECE_BYTES:
        raise _Corrupt(f"piece {id} has {len(text)} bytes")
    if not -1e30 < score < 1e30:
        raise _Corrupt(f"piece {id} has score {score}")
    try:
        return Piece(text.decode(), score, kind)
    except UnicodeDecodeError as error:
        raise _Corrupt(f"piece {id} is not UTF-8") from error


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yield field number and value: int for a varint, float for a fixed 32 or 64 bits, bytes for the rest."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _Corrupt(f"field number 0 at byte {at}")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _Corrupt(f"wire type {wire} of field {number} at byte {at}")
        if size > end - at:
            raise _Corrupt(f"field {number} at byte {at} needs {size} bytes, {end - at} are left")
        chunk = data[at : at + size]
        at += size
        yield number, chunk if wire == 2 else struct.unpack("<d" if wire == 1 else "<f", chunk)[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Corrupt(f"it ends inside a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Corrupt(f"a number of more than 10 bytes at byte {at}")


def _as_bytes(value: Value, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise _Corrupt(f"{name} has the wrong wire type")
    return value


def _as_int(value: Value, name: str) -> int:
    if not isinstance(value, int):
        raise _Corrupt(f"{name} has the wrong wire type")
    # int32 travels as a 64-bit two's complement.
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _integer(fields: Mapping[int, Value], number: int, default: int, name: str) -> int:
    return _as_int(fields[number], name) if number in fields else default


def build_backend(
    model: SentencePieceModel,
    *,
    add_prefix_space: bool | None = None,
    legacy: bool = True,
    renamed: Mapping[int, str] | None = None,
) -> tokenizers.Tokenizer:
    """Return a `tokenizers` pipeline that segments text as the SentencePiece model does.

    add_prefix_space: None follows the model's add_dummy_prefix. legacy: also put the space after every special token
    (Transformers' switch of the same name). renamed: spellings that replace the model's, by id.
    """
    names = [piece.text for piece in model.pieces]
    for id, text in (renamed or {}).items():
        names[id] = text
    backend = tokenizers.Tokenizer(_bpe(model, names) if model.model_type == BPE else _unigram(model, names))
    prefix = model.add_dummy_prefix if add_prefix_space is None else add_prefix_space
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if legacy:
        if prefix:
            steps.append(normalizers.Prepend(SPACE))
        if model.escape_whitespaces:
            steps.append(normalizers.Replace(" ", SPACE))
    else:
        scheme = "first" if prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = _decoder(model.byte_fallback, prefix)
    backend.add_tokens(
        [
            AddedToken(names[id], special=piece.kind != USER_DEFINED, normalized=False)
            for id, piece in enumerate(model.pieces)
            if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )
    return backend


def _decoder(byte_fallback: bool, prefix: bool) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _bpe(model: SentencePieceModel, names: list[str]) -> models.BPE:
    vocab = {text: id for id, text in enumerate(names)}
    return models.BPE(
        vocab,
        _merges(model),
        unk_token=names[model.unk_id],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins into a piece, best score first.

    SentencePiece joins the neighbors whose union scores highest; ranks in this order say the same. Control and byte
    pieces take no part: text must not be able to spell them.
    """
    ids = {p.text: id for id, p in enumerate(model.pieces) if p.kind in (NORMAL, USER_DEFINED, UNUSED)}
    merges: list[tuple[float, int, int, str, str]] = []
    for text, id in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                merges.append((-model.pieces[id].score, ids[left], ids[right], left, right))
    # Equal scores: by the parts' ids, as in the published conversions of these models.
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def _unigram(model: SentencePieceModel, names: list[str]) -> models.Unigram:
    matchable = (NORMAL, USER_DEFINED)
    vocab = [
        (text, piece.score if piece.kind in matchable else UNREACHABLE_SCORE)
        for text, piece in zip(names, model.pieces, strict=True)
    ]
    return models.Unigram(vocab, model.unk_id, model.byte_fallback)

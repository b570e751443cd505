"""Encoding a chat in which messages spell control tokens: only the template's own become such (R41)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import AddedToken

from octavo.frontend.control import control_pattern

STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def second_pipeline(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Another pipeline over the same model, without added tokens."""
    other = tokenizers.Tokenizer(backend.model)
    for name in STAGES:
        if (stage := getattr(backend, name)) is not None:
            setattr(other, name, stage)
    return other


class Fence:
    """A pipeline like `backend` in which control tokens have other spellings, which no message can know.

    Text is cut where `backend` cuts it, so that the ids are the same wherever nothing is spelled; what messages spell
    goes through the model like any text. added: the added tokens by id.
    """

    def __init__(self, backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken], unknown: int | None) -> None:
        secret = secrets.token_hex(8)
        # Noncharacters: no normalizer composes them with their neighbors.
        spellings = {
            id: f"\ufdd0{secret}:{id}\ufdd1" if token.special else token.content for id, token in added.items()
        }
        self._border = f"\ufdd0{secret}\ufdd1"
        self._fences = {token.content: spellings[id] for id, token in added.items() if token.special}
        self._pattern = control_pattern(self._fences) if self._fences else None
        self._backend = second_pipeline(backend)
        self._backend.add_tokens([_respelled(added[id], spellings[id]) for id in sorted(added)])
        self._backend.add_tokens([AddedToken(self._border, normalized=False)])
        self._own = {self._backend.token_to_id(spelling): id for id, spelling in spellings.items()}
        self._control = {id for id, token in added.items() if token.special} - {unknown}
        self._dropped = self._backend.token_to_id(self._border)
        self._ends = _ends(backend)

    def encode(self, text: str, spelled: Sequence[tuple[int, int]], add_special_tokens: bool) -> list[int]:
        """The ids of `text`, in which the ranges `spelled` are no control tokens."""
        ids = self._ids(text, frozenset(spelled), "")
        if ids is None:  # the model itself has the token as a piece: a border keeps it from being found
            ids = self._ids(text, frozenset(spelled), self._border)
        assert ids is not None
        return [*self._ends[0], *ids, *self._ends[1]] if add_special_tokens else ids

    def _ids(self, text: str, spelled: frozenset[tuple[int, int]], border: str) -> list[int] | None:
        parts: list[str] = []
        at = done = 0
        while self._pattern is not None and (match := self._pattern.search(text, at)):
            start, end = match.span()
            if (start, end) in spelled:
                at = start + 1
                parts += (text[done:at], border)
            else:
                at = end
                parts += (text[done:start], self._fences[match[0]])
            done = at
        parts.append(text[done:])
        ids: list[int] = []
        for id in self._backend.encode_batch_fast(["".join(parts)], add_special_tokens=False)[0].ids:
            own = self._own.get(id)
            if own is None and id in self._control:
                return None
            if id != self._dropped:
                ids.append(id if own is None else own)
        return ids


def _respelled(token: AddedToken, spelling: str) -> AddedToken:
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(spelling, **flags)


def _ends(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """What `backend` puts before and after a text."""
    bare, whole = (backend.encode("a", add_special_tokens=add).ids for add in (False, True))
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]

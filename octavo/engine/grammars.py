"""Sequences that wait for their grammars, and the masks of those that run: the core's side of grammar/."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from octavo import log
from octavo.engine.executors.executor import Mask
from octavo.errors import OctavoError
from octavo.messages import Finish, Grammar, SequenceSpec
from octavo.scheduling.sequence import Constraint
from octavo.structured import FIELD

if TYPE_CHECKING:
    # The grammar library is loaded for a first grammar only.
    from octavo.grammar import masks

logger = log.get(__name__)

PATIENCE_S = 0.02  # for a grammar, when there is nothing else to do

Constraints = Sequence[Constraint | None]


class Nursery:
    """Holds sequences until their grammars are built. `load` opens the grammars of the model, when first needed."""

    def __init__(self, load: Callable[[], masks.Grammars] | None = None) -> None:
        self._load = load
        self._grammars: masks.Grammars | None = None
        self._building: dict[int, tuple[SequenceSpec, Future[masks.Constraint]]] = {}

    def __len__(self) -> int:
        return len(self._building)

    def prepare(self) -> None:
        """Make ready for a first grammar; for idle moments."""
        if self._grammars is None and self._load is not None:
            self._open().prepare()

    def _open(self) -> masks.Grammars:
        if self._grammars is None:
            assert self._load is not None, "this engine was built without grammars"
            self._grammars = self._load()
        return self._grammars

    def take(self, specs: Iterable[SequenceSpec]) -> Iterator[SequenceSpec]:
        """The sequences without a grammar; the others are kept."""
        texts: dict[bytes, Grammar] = {}
        for spec in specs:
            if spec.grammar is None:
                yield spec
                continue
            grammar = texts.setdefault(spec.grammar.digest, spec.grammar)
            self._building[spec.id] = (spec, self._open().request(grammar, has_end=bool(spec.eos)))

    def drop(self, id: int) -> bool:
        """Forget a sequence; False when it is not here."""
        return self._building.pop(id, None) is not None

    def built(self) -> Iterator[tuple[SequenceSpec, Constraint | None, Finish | None]]:
        """The sequences that need wait no longer, each with its constraint, or why it ends."""
        done = [(spec, future) for spec, future in self._building.values() if future.done()]
        for spec, future in done:
            del self._building[spec.id]
            try:
                yield spec, future.result(), None
            except OctavoError as error:
                yield spec, None, Finish("error", message=error.message, field=FIELD)
            # One request's grammar must not end the engine, whatever is wrong with it.
            except Exception as error:
                logger.error("a grammar could not be built", exc_info=error)
                yield spec, None, Finish("error", message="the engine failed while building this request's grammar")

    def wait(self) -> None:
        """Let a moment pass, or less if a grammar comes to be built."""
        concurrent.futures.wait([future for _, future in self._building.values()], PATIENCE_S, "FIRST_COMPLETED")

    def begin_mask(self, constraints: Constraints) -> Future[Mask]:
        """`mask`, computed by another thread."""
        return self._open().begin_mask(constraints)

    def mask(self, constraints: Constraints) -> Mask:
        """A row for each of a step's emitting rows."""
        return self._open().mask(constraints)

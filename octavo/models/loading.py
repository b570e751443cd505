"""Pull a model's parameters out of a checkpoint, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from octavo import spec
from octavo.errors import StartupError
from octavo.layers.layer import Layer
from octavo.weights.names import NamedSource
from octavo.weights.source import WeightSource

Progress = Callable[[int, int], None]


def load(
    layers: Iterable[tuple[str, Layer]], model: spec.Model, source: WeightSource, progress: Progress | None = None
) -> list[str]:
    """Load every layer from where its path says; returns the names of the checkpoint's tensors that nothing asked for.

    `progress` is called with bytes (read so far, of the checkpoint). A tensor that is missing or has another shape
    than the spec says raises a StartupError that names it.
    """
    named = NamedSource(source, model)
    for path, layer in layers:
        try:
            layer.load(named.at(path))
        except StartupError as error:
            raise StartupError(f"cannot load {path}: {error.message}", error.field) from error
        # Beside what was packed, the file's pages would count twice; they stay in the system's cache.
        source.release()
        if progress is not None:
            progress(source.bytes_read, source.total_bytes)
    return named.unread()

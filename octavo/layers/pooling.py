"""What follows the pooling: projections of embeddings, and classifiers. All in float32, on few rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo import spec
from octavo.embedder import Dense
from octavo.errors import StartupError
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.layers.norm import build_norm
from octavo.weights import safetensors, torch_bin
from octavo.weights.source import TensorSource

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "tanh": torch.tanh,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
        "sigmoid": torch.sigmoid,
    }
)


class Classifier(Layer):
    """x [E, H] -> logits [E, labels]."""

    def __init__(self, classifier: spec.Classifier, hidden_size: int, place: Placement) -> None:
        self.spec = classifier
        self.dense: Linear | None = None
        self.norm = None if classifier.norm is None else build_norm(classifier.norm, hidden_size, place)
        children: list[tuple[str, Layer]] = []
        if classifier.dense:
            self.dense = Linear({"": hidden_size}, hidden_size, classifier.dense_bias, place)
            children.append(("score_dense", self.dense))
        if self.norm is not None:
            children.append(("score_norm", self.norm))
        self.score = Linear({"": len(classifier.labels)}, hidden_size, classifier.bias, place)
        self.children = (*children, ("score", self.score))
        self.activation = ACTIVATIONS[classifier.activation]

    def __call__(self, x: Tensor) -> Tensor:
        if self.dense is not None:
            x = self.activation(self.dense(x))
        if self.norm is not None:
            x = self.norm(x)
        return self.score(x)

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities, or whatever the checkpoint's link makes of logits."""
        match self.spec.link:
            case "softmax":
                return logits.double().softmax(-1).float()
            case "sigmoid":
                return logits.sigmoid()
            case "identity":
                return logits


class Projection(Layer):
    """x [E, I] -> [E, O]: a Dense module of sentence-transformers, read from its own folder."""

    def __init__(self, dense: Dense, place: Placement) -> None:
        self.dense = dense
        self.linear = Linear({"": dense.out_size}, dense.in_size, dense.bias, place)
        self.activation = None if dense.activation is None else ACTIVATIONS[dense.activation]

    def read(self) -> None:
        """Pull the weights."""
        folder = self.dense.folder
        for find in (safetensors.find, torch_bin.find):
            files = find(folder)
            if files is not None:
                self.linear.load(TensorSource(files.open(), files.origin).at("linear"))
                return
        raise StartupError(f"{folder} has no weights; it needs model.safetensors", "model")

    def __call__(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.activation is None else self.activation(x)


def unit(x: Tensor) -> Tensor:
    """Rows of x [E, D] float32 at length one; a row of zeros stays."""
    wide = x.double()
    return (wide / wide.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)).float()


@dataclass(frozen=True)
class Heads:
    """What a model does with hidden states besides predicting tokens. `kind` is how vectors of whole texts are made.

    `num_places` is how far the places of a pair's second text are from those of the first; 0: they are the same.
    """

    kind: spec.Pooled = "last"
    projections: tuple[Projection, ...] = ()
    classifier: Classifier | None = None
    num_places: int = 0
    generates: bool = True

    def embeddings(self, x: Tensor, dimensions: int, activate: bool) -> Tensor:
        """x [E, H] -> [E, D]: projected, cut to `dimensions` (0: not), at unit length when `activate`."""
        for projection in self.projections:
            x = projection(x)
        x = x[:, :dimensions] if dimensions else x
        return unit(x) if activate else x

    def scores(self, x: Tensor, activate: bool) -> Tensor:
        """x [E, H] -> [E, labels]: the classifier's scores, or its logits unless `activate`."""
        assert self.classifier is not None, "checked at admission"
        logits = self.classifier(x).float()
        return self.classifier.scores(logits) if activate else logits

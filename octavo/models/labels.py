"""Labels in a Hugging Face config: what a classifier tells apart, and what makes scores of its logits."""

from __future__ import annotations

from typing import Literal

from octavo import spec
from octavo.errors import UnsupportedModel
from octavo.models.config import HFConfig
from octavo.sampling import shown

MOST_LABELS = 65_536
LINKS: dict[str, Literal["softmax", "sigmoid", "identity"]] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}


def labels(c: HFConfig) -> tuple[str, ...]:
    """The names of the labels in order of their ids; two without names where the config says nothing."""
    named = c.get("id2label")
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(count(c.get("num_labels", 2))))
    names = {int(id): str(name) for id, name in named.items()}
    if sorted(names) != list(range(count(len(names)))):
        raise UnsupportedModel(f"config.json: id2label must number its labels from 0, got {shown(named)}", "id2label")
    return tuple(names[id] for id in range(len(names)))


def count(value: object) -> int:
    """A number of labels."""
    if type(value) is not int or not 1 <= value <= MOST_LABELS:
        raise UnsupportedModel(
            f"config.json: num_labels must be from 1 to {MOST_LABELS}, got {shown(value)}", "num_labels"
        )
    return value


def link(c: HFConfig, num_labels: int) -> Literal["softmax", "sigmoid", "identity"]:
    """What makes scores of logits: what sentence-transformers trained a cross-encoder with, else by kind of problem."""
    trained = c.get("sentence_transformers") or {}
    named = trained.get("activation_fn") or c.get("sbert_ce_default_activation_function")
    if named is not None:
        return named_link(str(named))
    problem = c.get("problem_type")
    if problem == "regression":
        return "identity"
    return "sigmoid" if num_labels == 1 or problem == "multi_label_classification" else "softmax"


def named_link(name: str) -> Literal["softmax", "sigmoid", "identity"]:
    """The link that a torch class stands for; UnsupportedModel for one that octavo does not have."""
    known = LINKS.get(name.rpartition(".")[2])
    if known is None:
        raise UnsupportedModel(f"activation_fn {name[:100]} is none of {', '.join(LINKS)}", "activation_fn")
    return known


def plain_classifier(c: HFConfig, pooled: spec.Pooled, per_token: bool = False, bias: bool = True) -> spec.Classifier:
    """One linear layer over the hidden states."""
    names = labels(c)
    return spec.Classifier(names, link(c, len(names)), pooled, per_token, bias)

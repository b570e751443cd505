"""What a loaded model can do besides predicting tokens: from its spec, and from what the checkpoint's folder says."""

from __future__ import annotations

from dataclasses import replace

import torch

from octavo import spec
from octavo.embedder import Embedder
from octavo.errors import UnsupportedModel
from octavo.layers.layer import Placement
from octavo.layers.pooling import Heads, Projection
from octavo.models.decoder import DecoderModel
from octavo.models.encoder import EncoderModel
from octavo.models.labels import named_link
from octavo.pooling import KINDS, Abilities, Kind
from octavo.weights.weight import StoredFormat


def kind_of(model: spec.Model, embedder: Embedder, wanted: str | None) -> Kind:
    """How texts become vectors: as wanted, else as the checkpoint says, else the last token of a decoder and the mean
    of an encoder (sentence-transformers' choice for a checkpoint that says nothing).
    """
    named: dict[str, Kind] = {kind: kind for kind in KINDS}
    if wanted is not None:
        return named[wanted]
    return embedder.kind or ("mean" if isinstance(model, spec.Encoder) else "last")


def linked(model: spec.Model, embedder: Embedder) -> spec.Model:
    """The model with the link that its sentence-transformers files name, if they do."""
    if embedder.link is None or model.classifier is None:
        return model
    return replace(model, classifier=replace(model.classifier, link=named_link(embedder.link)))


def abilities(model: spec.Model, embedder: Embedder, kind: Kind, architecture: str) -> Abilities:
    """What the frontend may ask of it."""
    silent = None
    if isinstance(model, spec.Encoder):
        silent = f"{architecture} is an encoder"
    elif model.headless:
        silent = f"{architecture} has no head to predict tokens with"
    classifier = model.classifier
    if classifier is not None:
        task = "token_classify" if classifier.per_token else "classify"
        return Abilities((task,), classifier.pooled, labels=classifier.labels, why_silent=silent)
    dimensions = embedder.dense[-1].out_size if embedder.dense else model.hidden_size
    activates = embedder.normalizes is not False
    return Abilities(("embed", "token_embed"), kind, dimensions, (), activates, silent)


def make_heads(
    model: DecoderModel | EncoderModel,
    embedder: Embedder,
    kind: Kind,
    device: torch.device,
    backends: tuple[str, ...],
) -> Heads:
    """The heads of a loaded model, their own weights read."""
    if not embedder.pools_prompt and embedder.prompts and kind == "mean":
        raise UnsupportedModel("pooling without the prompt's tokens (include_prompt=false) is not supported", "model")
    place = Placement(torch.float32, device, StoredFormat(), backends)
    size = model.spec.hidden_size
    projections: list[Projection] = []
    for dense in embedder.dense:
        if dense.in_size != size:
            raise UnsupportedModel(f"{dense.folder}: takes {dense.in_size} values, but is given {size}", "model")
        projections.append(Projection(dense, place))
        projections[-1].read()
        size = dense.out_size
    if isinstance(model, DecoderModel):
        return Heads(kind, tuple(projections), model.classifier, generates=not model.spec.headless)
    rows, types = model.spec.positions, model.spec.num_types
    places = 0 if rows is None or types < 2 else rows - model.spec.first_position
    return Heads(kind, tuple(projections), model.classifier, places, generates=False)

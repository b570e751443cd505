"""What a checkpoint's sentence-transformers files say: how its vectors are made, its prompts, its longest input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo.checkpoint import Checkpoint, read_json, read_value
from octavo.errors import StartupError, UnsupportedModel
from octavo.pooling import Kind
from octavo.sampling import shown

MODES: Mapping[str, Kind] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu", "Sigmoid": "sigmoid"}
LENGTHS = (
    ("sentence_bert_config.json", "max_seq_length"),
    ("sentence_roberta_config.json", "max_seq_length"),
    ("sentence_xlm-roberta_config.json", "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
)
NO_LENGTH = 10**9  # Transformers writes 10^30 for a tokenizer without a bound


@dataclass(frozen=True)
class Dense:
    """A linear layer behind the pooling; `folder` holds its weights. `activation` is its function, None for none."""

    folder: Path
    in_size: int
    out_size: int
    bias: bool
    activation: str | None


@dataclass(frozen=True)
class Embedder:
    """How a checkpoint makes one vector of a text; None is what its files leave open.

    `prompts` are texts that may go before an input, by name; `default_prompt` is the name of the one that always does.
    `link` is the function, by its Python name, that makes scores of a cross-encoder's logits.
    """

    kind: Kind | None = None
    dense: tuple[Dense, ...] = ()
    normalizes: bool | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] | None = None
    default_prompt: str | None = None
    pools_prompt: bool = True
    link: str | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Embedder:
        """What the folder of `checkpoint` says; nothing without modules.json. UnsupportedModel for other modules."""
        folder = checkpoint.folder
        if checkpoint.file is not None or not (folder / "modules.json").is_file():
            return cls()
        kind: Kind | None = None
        dense: list[Dense] = []
        pools_prompt, normalizes = True, False
        for name, path in modules(folder):
            match name:
                case "Transformer":
                    if path != folder:
                        raise UnsupportedModel(
                            f"{folder}: the Transformer module must be in the folder itself", "model"
                        )
                case "Pooling":
                    kind, pools_prompt = pooling(path)
                case "Dense":
                    dense.append(read_dense(path))
                case "Normalize":
                    normalizes = True
                case _:
                    known = "Transformer, Pooling, Dense and Normalize"
                    raise UnsupportedModel(f"{folder / 'modules.json'}: module {name} is not among {known}", "model")
        prompts, default, link = read_settings(folder)
        return cls(kind, tuple(dense), normalizes, read_length(folder), prompts, default, pools_prompt, link)


def modules(folder: Path) -> list[tuple[str, Path]]:
    """The class name and folder of each module, in order."""
    path = folder / "modules.json"
    listed = read_value(path)
    if not isinstance(listed, list):
        raise StartupError(f"{path} must hold a list of modules, got {type(listed).__name__}", path.name)
    found: list[tuple[str, Path]] = []
    for module in listed:
        kind = module.get("type") if isinstance(module, dict) else None
        place = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not isinstance(place, str) or "/" in place or place in (".", ".."):
            raise StartupError(
                f"{path}: a module needs a type and the name of a folder, got {shown(module)}", path.name
            )
        found.append((kind.rpartition(".")[2], folder / place if place else folder))
    return found


def pooling(folder: Path) -> tuple[Kind, bool]:
    """The mode of a Pooling module, and whether the prompt's tokens take part."""
    path = folder / "config.json"
    config = read_json(path)
    mode = config.get("pooling_mode")
    old = [name for key, name in OLD_MODES.items() if config.get(key)]
    named = [str(each) for each in mode] if isinstance(mode, list) else [str(mode)] if mode else old or ["mean"]
    if len(named) != 1 or named[0] not in MODES:
        raise UnsupportedModel(
            f"{path}: pooling by {shown(named)} is not supported; one of {', '.join(MODES)} is", "model"
        )
    return MODES[named[0]], config.get("include_prompt", True) is not False


def read_dense(folder: Path) -> Dense:
    """A Dense module."""
    path = folder / "config.json"
    config = read_json(path)
    sizes = [config.get("in_features"), config.get("out_features")]
    name = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise StartupError(f"{path}: in_features and out_features must be sizes, got {shown(sizes)}", "model")
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModel(f"{path}: activation {name} is not supported; known are {known}", "model")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise UnsupportedModel(f"{path}: a Dense module must be a plain layer behind the pooling", "model")
    in_size, out_size = (int(str(size)) for size in sizes)
    return Dense(folder, in_size, out_size, config.get("bias", True) is not False, ACTIVATIONS[name])


def read_settings(folder: Path) -> tuple[dict[str, str], str | None, str | None]:
    """From config_sentence_transformers.json: prompts by name, the default one's name, and a cross-encoder's link."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise StartupError(f"{path}: prompts must be texts by name, got {shown(prompts)}", path.name)
    if default is not None and default not in prompts:
        raise StartupError(f"{path}: default_prompt_name {shown(default)} is not among the prompts", path.name)
    link = config.get("activation_fn")
    return dict(prompts), str(default) if default is not None else None, str(link) if link is not None else None


def read_length(folder: Path) -> int | None:
    """The longest input in tokens, where the files say it: the module's, else the tokenizer's."""
    for name, field in LENGTHS:
        path = folder / name
        length = read_json(path).get(field) if path.is_file() else None
        if length is not None and (not isinstance(length, int | float) or length < 1):
            raise StartupError(f"{path}: {field} must be a number of tokens, got {shown(length)}", name)
        if length is not None and length < NO_LENGTH:
            return int(length)
    return None

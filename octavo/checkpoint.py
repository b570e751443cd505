"""Where a model comes from: a folder, a GGUF file, the hub or the package itself, and what its JSON files say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo import env, log
from octavo.errors import InvalidRequest, StartupError, UnsupportedModel
from octavo.gguf.config import config_of, generation_of
from octavo.gguf.file import GGUF, SPLIT
from octavo.sampling import RULES, shown

logger = log.get(__name__)

POCKET = Path(__file__).parent / "pocket"
POCKET_NAME = "octavo-pocket"
JSON_BYTES = 16 * 2**20
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
TEXT_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
SAFETENSORS = ("model*.safetensors",)
TORCH_BIN = ("pytorch_model*.bin",)
MODULES = ("*_Pooling/config.json", "*_Dense/config.json", "*_Dense/model.safetensors", "*_Dense/pytorch_model.bin")
WORKS = (
    "give a folder with config.json and *.safetensors, a .gguf file, a Hugging Face id such as Qwen/Qwen3-0.6B, "
    "or nothing for the embedded model"
)

# generation_config.json's names for SamplingParams: the ones vLLM takes as defaults.
DEFAULTS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder and its parsed config.json and generation_config.json ({} when there is none).

    `name` is what the user called it. `file` is the GGUF file that holds everything, and both configs are what its
    metadata says. Code a checkpoint carries (`auto_map`) is data here and never runs.
    """

    name: str
    folder: Path
    config: dict[str, object]
    generation: dict[str, object]
    file: Path | None = None

    @classmethod
    def resolve(
        cls, model: str | None = None, revision: str | None = None, download_dir: str | None = None
    ) -> Checkpoint:
        """The checkpoint `model` names: a folder, a .gguf file, a hub id (downloaded unless cached), or None for the
        embedded one.

        `revision` is a hub branch, tag or commit; `download_dir` replaces the hub's cache folder. Raises StartupError
        saying what was wrong and what would work.
        """
        folder = POCKET if model is None else locate(model, revision, download_dir)
        name = POCKET_NAME if model is None else model
        file = folder if folder.is_file() else gguf_in(folder)
        if file is not None:
            opened = GGUF(file)
            return cls(name, file.parent, config_of(opened), generation_of(opened), file)
        return cls(
            name,
            folder,
            read_json(folder / "config.json"),
            read_json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {},
        )

    @property
    def path(self) -> Path:
        """What `resolve` finds this checkpoint by, and where its tokenizer is: the GGUF file, or the folder."""
        return self.file or self.folder

    @property
    def architecture(self) -> str:
        """The model class config.json names first, such as LlamaForCausalLM."""
        names = self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise UnsupportedModel(
                f'{self.folder / "config.json"}: architectures must name the model class, as in ["LlamaForCausalLM"], '
                f"got {shown(names)}",
                "architectures",
            )
        return names[0]

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The token ids that end a text: generation_config.json's, then config.json's that are not among them."""
        text = self.config.get("text_config")
        ids = list(_ids(self.generation, self.folder / "generation_config.json"))
        ids += _ids(self.config, self.folder / "config.json")
        if isinstance(text, dict):
            ids += _ids(text, self.folder / "config.json")
        return tuple(dict.fromkeys(ids))

    def generation_defaults(self) -> dict[str, float | int]:
        """The SamplingParams fields generation_config.json sets, by our names; nulls are left out, as in vLLM."""
        defaults: dict[str, float | int] = {}
        for theirs, ours in DEFAULTS.items():
            value = self.generation.get(theirs)
            if value is None:
                continue
            try:
                RULES[ours].check(theirs, value)
            except InvalidRequest as error:
                raise StartupError(f"{self.folder / 'generation_config.json'}: {error.message}", theirs) from None
            assert isinstance(value, (int, float))
            defaults[ours] = value
        return defaults


def locate(model: str, revision: str | None, download_dir: str | None) -> Path:
    """The local folder of `model`, downloaded from the hub when it is an id and not a path; or its GGUF file."""
    what = f"model {repr(model)[:300]}"
    try:
        path = Path(model).expanduser()
        found = model != "" and path.exists()
    except (OSError, ValueError, RuntimeError):  # a NUL, a name too long for the file system, an unknown ~user
        raise StartupError(f"{what} is no path and no Hugging Face id; {WORKS}", "model") from None
    if found and not path.is_dir() and path.suffix != ".gguf":
        raise StartupError(f"{what} is a file; give the folder it is in, {str(path.parent)!r}", "model")
    if found:
        if revision is not None:
            logger.warning("revision=%s does not apply to what is on disk; using %s as it is", revision, path)
        return path
    if looks_like_path(model) or path.suffix == ".gguf":
        kind = "file" if path.suffix == ".gguf" else "folder"
        raise StartupError(f"{what}: there is no such {kind}; {WORKS}", "model")
    if not HUB_ID.fullmatch(model):
        raise StartupError(f"{what} is no folder here and no Hugging Face id (owner/name); {WORKS}", "model")
    return download(model, revision, download_dir)


def gguf_in(folder: Path) -> Path | None:
    """The GGUF model of a folder that has no other weights; None when there is none, StartupError for several."""
    files = sorted(folder.glob("*.gguf"))
    if not files or any(next(folder.glob(pattern), None) for pattern in (*SAFETENSORS, *TORCH_BIN)):
        return None
    firsts = [file for file in files if not (match := SPLIT.fullmatch(file.name)) or int(match[2]) == 1]
    if len(firsts) != 1:
        names = ", ".join(file.name for file in files[:8])
        raise StartupError(f"{folder} has no single GGUF model but {names}; give the path of one", "model")
    return firsts[0]


def looks_like_path(model: str) -> bool:
    """Whether `model` can only be meant as a path: a hub id has at most one slash, inside."""
    return model == "" or model[0] in "/.~" or model.endswith("/") or model.count("/") > 1 or "\\" in model


def download(model: str, revision: str | None, download_dir: str | None) -> Path:
    """The folder of a hub snapshot: JSON, tokenizer and template files, and weights in one format; never code.

    Without a network, or with HF_HUB_OFFLINE set, what is in the cache is used.
    """
    # Imported here because the hub client takes most of a second to import and a local checkpoint never needs it.
    import huggingface_hub
    from huggingface_hub import errors

    where = f"{model}@{revision}" if revision else model
    offline = env.offline()

    def snapshot(*patterns: str) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                model,
                revision=revision,
                cache_dir=download_dir,
                allow_patterns=list(patterns),
                ignore_patterns=[] if patterns == MODULES else ["*/*"],
                local_files_only=offline,
            )
        )

    try:
        folder = snapshot(*TEXT_FILES, *SAFETENSORS)
        if not list(folder.glob(SAFETENSORS[0])):
            folder = snapshot(*TEXT_FILES, *TORCH_BIN)
        if (folder / "modules.json").is_file():
            snapshot(*MODULES)
    except errors.GatedRepoError:
        message = "is gated: accept its terms on huggingface.co, then `hf auth login` or set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        message = "is no folder here and no public model on huggingface.co; check the spelling, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        message = f"has no revision {shown(revision)}; use a branch, tag or commit it has, or none"
    except errors.LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if offline else "huggingface.co cannot be reached"
        message = f"is not in the download cache and {why}; download it first, or give a local folder"
    except Exception as error:  # a process edge: the client's transport raises classes that change with its version
        message = f"could not be downloaded ({_first_line(error)}); try again, or give a local folder"
    else:
        return folder
    raise StartupError(f"model {where} {message}", "model")


def read_json(path: Path, max_bytes: int = JSON_BYTES) -> dict[str, object]:
    """The JSON object in `path`. Raises StartupError naming the file when it is missing, too long or no JSON object."""
    value = read_value(path, max_bytes)
    if not isinstance(value, dict):
        raise StartupError(f"{path} must hold a JSON object, got {type(value).__name__}", path.name)
    return value


def read_value(path: Path, max_bytes: int = JSON_BYTES) -> object:
    """What the JSON file `path` holds. Raises StartupError naming the file when it is missing, too long or not JSON."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise StartupError(f"{path} is not a regular file; a checkpoint folder needs one", path.name)
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        hint = "" if path.parent.is_dir() else " (nor its folder)"
        raise StartupError(f"{path} does not exist{hint}; a checkpoint folder needs it", path.name) from None
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {os.strerror(error.errno or 0)}", path.name) from None
    if len(data) > max_bytes:
        raise StartupError(f"{path} is longer than {max_bytes} bytes; this is no {path.name}", path.name)
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path} is not valid JSON ({_first_line(error)}); download it again", path.name) from None


def _ids(config: Mapping[str, object], path: Path) -> list[int]:
    """The entries of eos_token_id: an id, a list of ids, or nothing."""
    value = config.get("eos_token_id")
    values = [] if value is None else value if isinstance(value, list) else [value]
    ids = [id for id in values if type(id) is int and id >= 0]
    if len(ids) != len(values):
        message = f"{path}: eos_token_id must be a token id or a list of them, got {shown(value)}"
        raise StartupError(message, "eos_token_id")
    return ids


def _first_line(error: BaseException) -> str:
    """An exception on one line, for the inside of a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."

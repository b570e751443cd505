"""`octavo bench perplexity`: how well a model predicts a text, and what rounding its weights or KV cache costs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from octavo.cli import flags
from octavo.cli.bench import report
from octavo.config import KV_CACHE_DTYPES, QUANTIZATIONS
from octavo.errors import StartupError
from octavo.frontend.output import RequestOutput
from octavo.llm import LLM
from octavo.sampling import SamplingParams

EXACT = "float32"


@dataclass(frozen=True)
class Setting:
    """One way to hold the model: `dtype` with no rounding is what the others are compared with."""

    dtype: str | None
    quantization: str
    kv_cache_dtype: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        weights = self.dtype or "auto" if self.quantization == "none" else self.quantization
        return weights if self.kv_cache_dtype == "auto" else f"{weights}, {self.kv_cache_dtype} KV"


@dataclass(frozen=True)
class Measured:
    """A setting's mean negative log-likelihood in nats over `num_tokens` predicted tokens."""

    setting: Setting
    nats: float
    num_tokens: int
    weights: str

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return math.exp(self.nats)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Text, settings and output flags."""
    flags.add_model(parser)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="UTF-8 text to predict")
    parser.add_argument(
        "--window",
        type=flags.at_least_one,
        default=512,
        metavar="N",
        help="tokens predicted with their own beginning as context, window by window (default: %(default)s)",
    )
    parser.add_argument(
        "--num-tokens", type=flags.at_least_one, metavar="N", help="use so many tokens of the text; default: all"
    )
    parser.add_argument(
        "--quantization", nargs="+", choices=QUANTIZATIONS, default=["none"], help="weights to compare with float32"
    )
    parser.add_argument(
        "--kv-cache-dtype", nargs="+", choices=KV_CACHE_DTYPES, default=["auto"], help="KV caches to compare likewise"
    )
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write the figures as JSON")
    flags.add_engine(parser, skip=("quantization", "kv_cache_dtype"))


def run(args: argparse.Namespace) -> int:
    """Measure every setting, float32 first, and report."""
    text = read(args.text)
    exact = Setting(EXACT, "none", "auto")
    wanted = [Setting(args.dtype, weights, kv) for weights in args.quantization for kv in args.kv_cache_dtype]
    settings = list(dict.fromkeys([exact, *wanted]))
    results = [measure(args, setting, text) for setting in settings]
    show(args.text.name, results)
    report.write(
        args.output_json,
        {each.setting.name: {"perplexity": each.perplexity, "num_tokens": each.num_tokens} for each in results},
    )
    return 0


def measure(args: argparse.Namespace, setting: Setting, text: str) -> Measured:
    """Open the model as the setting says and predict the text."""
    wishes = vars(args) | {
        "dtype": setting.dtype,
        "quantization": setting.quantization,
        "kv_cache_dtype": setting.kv_cache_dtype,
        "max_num_seqs": args.max_num_seqs or 8,
    }
    with LLM.of(flags.engine_config(argparse.Namespace(**wishes))) as llm:
        ids = llm.get_tokenizer().encode(text)[: args.num_tokens]
        if len(ids) < 2:
            raise StartupError(f"--text {args.text} has {len(ids)} tokens; perplexity needs two or more", "text")
        window = min(args.window, llm.info.max_model_len - 1)
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, ignore_eos=True)
        prompts = [{"prompt_token_ids": part} for part in windows(ids, window)]
        outputs = llm.generate(prompts, params)  # type: ignore[arg-type]
        surprises = [surprise for output in outputs for surprise in surprises_of(output)]
        return Measured(
            setting, math.fsum(surprises) / len(surprises), len(surprises), llm.info.plan.get("weights", "")
        )


def windows(ids: Sequence[int], size: int) -> list[list[int]]:
    """The ids cut into pieces of `size`, each of which begins with the last token of the one before."""
    step = max(1, size - 1)
    return [list(ids[at : at + step + 1]) for at in range(0, len(ids) - 1, step)]


def surprises_of(output: RequestOutput) -> list[float]:
    """Negative log-likelihoods of a prompt's tokens after the first."""
    positions = output.prompt_logprobs or []
    return [
        -told[token].logprob for token, told in zip(output.prompt_token_ids, positions, strict=True) if told is not None
    ]


def read(path: Path) -> str:
    """The text of a file."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StartupError(f"--text {path}: {reason}", "text") from error


def show(text: str, results: Sequence[Measured]) -> None:
    """Print a row per setting: its perplexity, and how far that is from the first one's."""
    table = Table(
        "held as",
        "weights",
        "perplexity",
        "change",
        title=f"{text}: {results[0].num_tokens:,} tokens",
        title_justify="left",
    )
    for each in results:
        change = each.perplexity / results[0].perplexity - 1
        table.add_row(
            each.setting.name, each.weights, f"{each.perplexity:.3f}", "" if each is results[0] else f"{change:+.2%}"
        )
    Console().print(table, highlight=False)

"""`octavo bench throughput`: answer many requests as fast as possible, in this process."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from octavo.cli import flags
from octavo.cli.bench import report, workload
from octavo.llm import LLM
from octavo.sampling import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Workload and output flags."""
    flags.add_model(parser)
    workload.add_arguments(parser, num_prompts=64)
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write the figures as JSON")
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    with LLM.of(flags.engine_config(args)) as llm:
        items = workload.make(args, llm.info.vocab_size)
        params = [SamplingParams(temperature=0, ignore_eos=True, max_tokens=item.output_len) for item in items]
        prompts = [
            {"prompt_token_ids": item.prompt} if isinstance(item.prompt, list) else item.prompt for item in items
        ]
        started = time.perf_counter()
        outputs = llm.generate(prompts, params)  # type: ignore[arg-type]
        elapsed = time.perf_counter() - started
        stats = llm.get_metrics()
    prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    output_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    figures = {
        "requests": float(len(outputs)),
        "seconds": elapsed,
        "requests/s": len(outputs) / elapsed,
        "prompt tokens": float(prompt_tokens),
        "output tokens": float(output_tokens),
        "output tokens/s": output_tokens / elapsed,
        "total tokens/s": (prompt_tokens + output_tokens) / elapsed,
        "steps": float(stats.steps),
        "preemptions": float(stats.preemptions),
    }
    report.show("throughput", figures)
    keys = {name: name.replace("/s", "_per_s").replace(" ", "_") for name in figures}
    report.write(args.output_json, {keys[name]: value for name, value in figures.items()})
    return 0

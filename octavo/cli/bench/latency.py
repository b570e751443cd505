"""`octavo bench latency`: time one batch of equal requests from start to end."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from octavo.cli import flags
from octavo.cli.bench import report, workload
from octavo.llm import LLM
from octavo.sampling import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Batch and repetition flags."""
    flags.add_model(parser)
    workload.add_arguments(parser, num_prompts=8)
    parser.add_argument("--batch-size", type=flags.at_least_one, metavar="N", help="the same as --num-prompts")
    parser.add_argument(
        "--num-iters", type=flags.at_least_one, default=10, metavar="N", help="timed repetitions (default: %(default)s)"
    )
    parser.add_argument(
        "--num-iters-warmup", type=int, default=2, metavar="N", help="untimed ones before (default: %(default)s)"
    )
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write the figures as JSON")
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    args.num_prompts = args.batch_size or args.num_prompts
    if args.enable_prefix_caching is None:
        args.enable_prefix_caching = False  # repetitions must not find their own prompts
    with LLM.of(flags.engine_config(args)) as llm:
        items = workload.make(args, llm.info.vocab_size)
        params = [SamplingParams(temperature=0, ignore_eos=True, max_tokens=item.output_len) for item in items]
        prompts = [
            {"prompt_token_ids": item.prompt} if isinstance(item.prompt, list) else item.prompt for item in items
        ]
        times = []
        for _ in range(args.num_iters_warmup + args.num_iters):
            started = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)  # type: ignore[arg-type]
            times.append(time.perf_counter() - started)
    times = times[args.num_iters_warmup :]
    report.show(f"latency of {len(items)} requests at once, {args.num_iters} times", {}, {"latency": times})
    report.write(args.output_json, {"latencies_s": times, **report.spread("latency", times)})
    return 0

"""The parts of the check, in the order they run, each with its share of the time."""

from __future__ import annotations

from dataclasses import dataclass

MINUTES = 8.0  # for everything; the shares below are seconds of it


@dataclass(frozen=True)
class Part:
    """One process of the check: rows that `measure` of a module yields, or a suite of tests.

    `function` is MODULE or MODULE:FUNCTION within this package; for tests, the suite's name in suites.py.
    """

    name: str
    title: str
    function: str
    budget_s: float
    is_tests: bool = False


def tests(name: str, title: str, budget_s: float) -> Part:
    return Part(name, title, name, budget_s, is_tests=True)


PARTS = (
    Part("limits", "what the device can do", "limits", 8),
    tests("test-kernels", "every op and kernel on the GPU, in its number formats", 45),
    tests("test-engine", "families beside Transformers, graphs beside eager steps, steps in flight", 45),
    tests("test-sanitizer", "compute-sanitizer on the smallest cases", 30),
    Part("large", "8 B: decode and prefill", "large", 45),
    Part("small", "0.6 B: one stream, and the device's waiting", "small", 25),
    Part("attention", "attention alone", "attention", 18),
    Part("sampler", "the sampler alone", "sampler", 14),
    Part("start", "from the command to the first token", "start", 22),
    Part("serving-small", "1,000 mixed requests, 0.6 B", "serving:measure_small", 58),
    Part("linear", "linear layers alone", "linear", 10),
    Part("ops", "the small operations of a layer alone", "ops", 10),
    Part("invariant", "what --batch-invariant costs, 0.6 B", "invariant", 22),
    Part("serving-large", "1,000 mixed requests, 8 B", "serving:measure_large", 128),
)

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
    Part("limits", "what the device can do", "limits", 10),
    tests("test-kernels", "every op and kernel on the GPU, in its number formats", 55),
    tests("test-engine", "families beside Transformers, graphs beside eager steps, steps in flight", 50),
    tests("test-sanitizer", "compute-sanitizer on the smallest cases", 35),
    Part("large", "8 B: decode and prefill", "large", 40),
    Part("small", "0.6 B: one stream, and the device's waiting", "small", 25),
    Part("attention", "attention alone", "attention", 20),
    Part("sampler", "the sampler alone", "sampler", 15),
    Part("start", "from the command to the first token", "start", 25),
    Part("serving-small", "1,000 mixed requests, 0.6 B", "serving:measure_small", 60),
    Part("serving-large", "1,000 mixed requests, 8 B", "serving:measure_large", 115),
    Part("linear", "linear layers alone", "linear", 15),
    Part("ops", "the small operations of a layer alone", "ops", 15),
)

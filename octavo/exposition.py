"""Prometheus' text format: metrics made of other figures, and how all of them are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Sample

from octavo.messages import Tally


def exposed(metric: Metric) -> str:
    """A metric in Prometheus' text format, as `generate_latest` writes it, in a third of its time."""
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    doc = metric.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {doc}\n# TYPE {name} {metric.type}\n"]
    for sample in metric.samples:
        labels = ",".join([f'{key}="{escaped(value)}"' for key, value in sample.labels.items()])
        lines.append(f"{sample.name}{{{labels}}} {sample.value}\n" if labels else f"{sample.name} {sample.value}\n")
    return "".join(lines)


def escaped(value: str) -> str:
    """A label's value between quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def named(ours: str, theirs: Sequence[str]) -> Iterator[str]:
    """All full names of a metric."""
    yield f"octavo_{ours}"
    yield from (f"vllm:{name}" for name in theirs)


def histogram(name: str, doc: str, labels: Mapping[str, str], bounds: Sequence[float], tally: Tally) -> Metric:
    """A tally as Prometheus has it: each bucket holds those below it, too."""
    counts = tally.counts or [0] * (len(bounds) + 1)
    edges = [*(str(float(bound)) for bound in bounds), "+Inf"]
    family = HistogramMetricFamily(name, doc, labels=list(labels))
    family.add_metric(list(labels.values()), list(zip(edges, accumulate(counts), strict=True)), tally.total)
    return family


def constant(name: str, doc: str, labels: Mapping[str, str]) -> Metric:
    """A gauge that is 1 and says something in its labels."""
    gauge = GaugeMetricFamily(name, doc, labels=list(labels))
    gauge.add_metric(list(labels.values()), 1)
    return gauge


def renamed(metric: Metric, name: str) -> Metric:
    """A copy of `metric` under another name."""
    copy = Metric(name, metric.documentation, metric.type, metric.unit if name.endswith(metric.unit) else "")
    copy.samples = [
        Sample(name + s.name.removeprefix(metric.name), s.labels, s.value, s.timestamp, s.exemplar)
        for s in metric.samples
    ]
    return copy

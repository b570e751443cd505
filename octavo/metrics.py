"""Metrics: what /metrics tells Prometheus, as octavo_* and under vLLM's names. Labels are from closed sets (R35)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from octavo.messages import Stats

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
REASONS = ("stop", "length", "abort", "error")
STATUSES = (200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 415, 421, 429, 431, 500, 503)

# our name (without octavo_), vLLM's (without vllm:), what it is, and how it follows from the core's counters
GAUGES = (
    ("requests_running", "num_requests_running", "Sequences in the running batch.", lambda s: s.running),
    ("requests_waiting", "num_requests_waiting", "Sequences waiting to run.", lambda s: s.waiting),
    (
        "kv_cache_usage",
        "kv_cache_usage_perc",
        "Share of KV pages held by sequences, 0 to 1.",
        lambda s: 1 - s.pages_free / s.pages_total if s.pages_total else 0.0,
    ),
    ("kv_pages", None, "KV pages in all.", lambda s: s.pages_total),
    ("kv_pages_free", None, "KV pages never used or evictable.", lambda s: s.pages_free),
    ("kv_pages_cached", None, "KV pages evictable but findable.", lambda s: s.pages_cached),
)
COUNTERS = (
    ("prompt_tokens", "prompt_tokens", "Prompt tokens taken in.", lambda s: s.prompt_tokens),
    ("generated_tokens", "generation_tokens", "Tokens generated.", lambda s: s.generated_tokens),
    ("cached_tokens", "prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda s: s.cached_tokens),
    (
        "looked_up_tokens",
        "prefix_cache_queries",
        "Prompt tokens looked up in the prefix cache.",
        lambda s: s.prompt_tokens,
    ),
    ("preemptions", "num_preemptions", "Sequences sent back to wait.", lambda s: s.preemptions),
    ("steps", None, "Steps computed.", lambda s: s.steps),
    ("sequences_finished", None, "Sequences finished.", lambda s: s.finished),
    ("sequences_aborted", None, "Sequences aborted.", lambda s: s.aborted),
    ("sequence_errors", None, "Sequences ended by an error.", lambda s: s.errors),
    ("late_messages", None, "Messages for sequences that were gone, ignored.", lambda s: s.late),
    ("books_wrong", None, "Idle moments at which the page books did not balance.", lambda s: s.books_wrong),
)


class Times(Protocol):
    """When things happened to a request, in seconds; RequestTimes of frontend/output.py."""

    @property
    def queued_s(self) -> float | None: ...
    @property
    def first_token_s(self) -> float | None: ...
    @property
    def total_s(self) -> float | None: ...


class Metrics:
    """One server's metrics. `stats`, `healthy` and `inside` are set before `render` is called."""

    def __init__(self, model: str) -> None:
        self.stats = Stats()
        self.healthy = False
        self.inside = 0
        self.model = model
        self._own = CollectorRegistry()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        timed = partial(Histogram, labelnames=("model_name",), registry=self._own, buckets=SECONDS)
        self.queued = timed("octavo_queued_seconds", "From arrival to admission.").labels(model)
        self.first_token = timed("octavo_first_token_seconds", "From arrival to the first token.").labels(model)
        self.per_token = timed("octavo_per_token_seconds", "Mean time per token after the first.").labels(model)
        self.total = timed("octavo_request_seconds", "From arrival to the end.").labels(model)
        self.prompt = Histogram(
            "octavo_request_prompt_tokens", "Prompt length.", ("model_name",), registry=self._own, buckets=TOKENS
        ).labels(model)
        self.ended = Counter(
            "octavo_request_success",
            "Continuations by finish reason.",
            ("model_name", "finished_reason"),
            registry=self._own,
        )
        self.responses = Counter("octavo_http_responses", "HTTP responses by status.", ("status",), registry=self._own)
        self.disconnects = Counter("octavo_client_disconnects", "Requests whose client went away.", registry=self._own)
        self.slow_readers = Counter(
            "octavo_slow_readers", "Connections ended because answers were not read.", registry=self._own
        )
        self.slow_senders = Counter(
            "octavo_slow_senders", "Connections ended because a request did not come.", registry=self._own
        )
        self.refused_connections = Counter(
            "octavo_refused_connections", "Connections above the limit.", registry=self._own
        )
        for reason in REASONS:
            self.ended.labels(model, reason)
        self._statuses = {status: self.responses.labels(str(status)) for status in STATUSES}
        self._other = self.responses.labels("other")

    def answered(self, status: int) -> None:
        """Count an HTTP response."""
        self._statuses.get(status, self._other).inc()

    def finished(self, times: Times, prompt_tokens: int, generated_tokens: int) -> None:
        """Observe a request that is done."""
        first_s, total_s = times.first_token_s, times.total_s
        if times.queued_s is not None:
            self.queued.observe(times.queued_s)
        if first_s is not None:
            self.first_token.observe(first_s)
        if total_s is not None:
            self.total.observe(total_s)
        if first_s is not None and total_s is not None and generated_tokens > 1:
            self.per_token.observe((total_s - first_s) / (generated_tokens - 1))
        self.prompt.observe(prompt_tokens)

    def ended_by(self, reason: str) -> None:
        """Count a continuation that ended."""
        self.ended.labels(self.model, reason if reason in REASONS else "error").inc()

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything under our names, and what vLLM has too under its own."""
        labels, values = ["model_name", "engine"], [self.model, "0"]
        for ours, theirs, doc, read in GAUGES:
            for name in (f"octavo_{ours}", theirs and f"vllm:{theirs}"):
                if name:
                    gauge = GaugeMetricFamily(name, doc, labels=labels)
                    gauge.add_metric(values, float(read(self.stats)))
                    yield gauge
        for ours, theirs, doc, read in COUNTERS:
            for name in (f"octavo_{ours}", theirs and f"vllm:{theirs}"):
                if name:
                    counter = CounterMetricFamily(name, doc, labels=labels)
                    counter.add_metric(values, float(read(self.stats)))
                    yield counter
        yield GaugeMetricFamily(
            "octavo_engine_healthy", "1 when the engine lives and its loop turns.", float(self.healthy)
        )
        yield GaugeMetricFamily(
            "octavo_http_requests_open", "Generation requests admitted and not yet answered.", self.inside
        )
        for metric in self._own.collect():
            yield metric
            if metric.name in ALIASES:
                yield renamed(metric, ALIASES[metric.name])


ALIASES = {
    "octavo_queued_seconds": "vllm:request_queue_time_seconds",
    "octavo_first_token_seconds": "vllm:time_to_first_token_seconds",
    "octavo_per_token_seconds": "vllm:request_time_per_output_token_seconds",
    "octavo_request_seconds": "vllm:e2e_request_latency_seconds",
    "octavo_request_prompt_tokens": "vllm:request_prompt_tokens",
    "octavo_request_success": "vllm:request_success",
}


def renamed(metric: Metric, name: str) -> Metric:
    """A copy of `metric` under another name."""
    copy = Metric(name, metric.documentation, metric.type, metric.unit if name.endswith(metric.unit) else "")
    copy.samples = [
        Sample(name + s.name.removeprefix(metric.name), s.labels, s.value, s.timestamp, s.exemplar)
        for s in metric.samples
    ]
    return copy

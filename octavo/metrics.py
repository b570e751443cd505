"""Metrics: what /metrics tells Prometheus, as octavo_* and under vLLM's names. Labels are from closed sets (R35)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from octavo.exposition import constant, exposed, histogram, named, renamed
from octavo.messages import GAP_SECONDS, STEP_SECONDS, STEP_TOKENS, EngineInfo, Stats

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
FEW = (1, 2, 5, 10, 20)
REASONS = ("stop", "length", "abort", "error")
STATUSES = (200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 415, 421, 429, 431, 500, 503)

# Our name (without octavo_), vLLM's (without vllm:; older ones too), what it is, and how it follows from Stats.
GAUGES = (
    ("requests_running", ("num_requests_running",), "Sequences in the running batch.", lambda s: s.running),
    ("requests_waiting", ("num_requests_waiting",), "Sequences waiting to run.", lambda s: s.waiting),
    (
        "requests_preempted",
        ("num_requests_swapped",),
        "Of those waiting, sequences that ran before and gave up their pages.",
        lambda s: s.preempted,
    ),
    (
        "kv_cache_usage",
        ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        "Share of KV pages held by sequences, 0 to 1.",
        lambda s: 1 - s.pages_free / s.pages_total if s.pages_total else 0.0,
    ),
    ("kv_pages", (), "KV pages in all.", lambda s: s.pages_total),
    ("kv_pages_free", (), "KV pages never used or evictable.", lambda s: s.pages_free),
    ("kv_pages_cached", (), "KV pages evictable but findable.", lambda s: s.pages_cached),
    ("host_pages", (), "Pages of host memory that KV pages are swapped to.", lambda s: s.host_pages_total),
    (
        "host_cache_usage",
        ("cpu_cache_usage_perc",),
        "Share of them held for waiting sequences or by copies under way, 0 to 1.",
        lambda s: s.host_pages_held / s.host_pages_total if s.host_pages_total else 0.0,
    ),
)
COUNTERS = (
    ("prompt_tokens", ("prompt_tokens",), "Prompt tokens taken in.", lambda s: s.prompt_tokens),
    ("generated_tokens", ("generation_tokens",), "Tokens generated.", lambda s: s.generated_tokens),
    (
        "cached_tokens",
        ("prefix_cache_hits", "gpu_prefix_cache_hits", "prompt_tokens_cached"),
        "Prompt tokens found in the prefix cache.",
        lambda s: s.cached_tokens,
    ),
    (
        "looked_up_tokens",
        ("prefix_cache_queries", "gpu_prefix_cache_queries"),
        "Prompt tokens looked up in the prefix cache.",
        lambda s: s.prompt_tokens,
    ),
    ("preemptions", ("num_preemptions",), "Sequences sent back to wait.", lambda s: s.preemptions),
    ("swaps", (), "Of those, sequences whose pages were copied to the host.", lambda s: s.swaps),
    ("swapped_out_pages", (), "Pages copied to the host.", lambda s: s.swapped_out_pages),
    ("swapped_in_pages", (), "Pages copied back to the device.", lambda s: s.swapped_in_pages),
    ("swapped_out_bytes", (), "Bytes copied to the host.", lambda s: s.swapped_out_bytes),
    ("swapped_in_bytes", (), "Bytes copied back to the device.", lambda s: s.swapped_in_bytes),
    ("steps", (), "Steps computed.", lambda s: s.steps),
    ("sequences_finished", (), "Sequences finished.", lambda s: s.finished),
    ("sequences_aborted", (), "Sequences aborted.", lambda s: s.aborted),
    ("sequence_errors", (), "Sequences ended by an error.", lambda s: s.errors),
    ("late_messages", (), "Messages for sequences that were gone, ignored by the engine.", lambda s: s.late),
    ("books_wrong", (), "Idle moments at which the page books did not balance.", lambda s: s.books_wrong),
)
TALLIES = (
    ("step_tokens", ("iteration_tokens_total",), "Tokens per step.", STEP_TOKENS, lambda s: s.step_tokens),
    ("step_seconds", (), "Seconds per step.", STEP_SECONDS, lambda s: s.step_seconds),
    (
        "token_gap_seconds",
        ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "Between consecutive tokens of a sequence, as the engine lands them.",
        GAP_SECONDS,
        lambda s: s.gap_seconds,
    ),
)
# Attribute, our name, vLLM's, what it is, buckets: observed once per request by this process.
OBSERVED = (
    ("queued", "queued_seconds", "request_queue_time_seconds", "From arrival to admission.", SECONDS),
    ("first_token", "first_token_seconds", "time_to_first_token_seconds", "From arrival to the first token.", SECONDS),
    ("prefill", "prefill_seconds", "request_prefill_time_seconds", "From admission to the first token.", SECONDS),
    ("decode", "decode_seconds", "request_decode_time_seconds", "From the first token to the end.", SECONDS),
    ("inference", "inference_seconds", "request_inference_time_seconds", "From admission to the end.", SECONDS),
    ("total", "request_seconds", "e2e_request_latency_seconds", "From arrival to the end.", SECONDS),
    (
        "per_token",
        "per_token_seconds",
        "request_time_per_output_token_seconds",
        "Mean time per token after the first, of a request.",
        SECONDS,
    ),
    ("prompt", "request_prompt_tokens", "request_prompt_tokens", "Prompt length.", TOKENS),
    (
        "computed",
        "request_computed_tokens",
        "request_prefill_kv_computed_tokens",
        "Prompt tokens not found in the cache.",
        TOKENS,
    ),
    ("generated", "request_generated_tokens", "request_generation_tokens", "Tokens generated.", TOKENS),
    (
        "longest",
        "request_longest_tokens",
        "request_max_num_generation_tokens",
        "Tokens of a request's longest continuation.",
        TOKENS,
    ),
    ("max_tokens", "request_max_tokens", "request_params_max_tokens", "Bound on tokens to generate.", TOKENS),
    ("n", "request_n", "request_params_n", "Continuations asked for.", FEW),
    ("preempted", "request_preemptions", "request_num_preemptions", "Preemptions of a request.", (0, *FEW)),
)


class Times(Protocol):
    """When things happened to a request, in seconds; RequestTimes of frontend/output.py."""

    @property
    def queued_s(self) -> float | None: ...
    @property
    def prefill_s(self) -> float | None: ...
    @property
    def decode_s(self) -> float | None: ...
    @property
    def total_s(self) -> float | None: ...
    @property
    def preemptions(self) -> int: ...


class Ended(Protocol):
    """A request to the engine that ended; Entry of frontend/journal.py. `generated` and `reasons`: per sequence."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def generated(self) -> Sequence[int]: ...
    @property
    def reasons(self) -> Sequence[str]: ...
    @property
    def times(self) -> Times: ...


class Metrics:
    """One server's metrics. What `render` reads of others is set before: `stats` to `late`."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.stats = Stats()
        self.stats_age_s = 0.0
        self.info: EngineInfo | None = None
        self.healthy = False
        self.inside = 0
        self.restarts = 0
        self.frames_dropped = 0
        self.late = 0
        # Counted per event of a stream: plain integers, which cost a twentieth of a Counter.
        self.bytes_in = 0
        self.bytes_out = 0
        self.worst_lag_s = 0.0
        self._own = CollectorRegistry()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        labels = ("model_name", "engine")
        self._observed = {
            key: Histogram(f"octavo_{ours}", doc, labels, registry=self._own, buckets=buckets).labels(model, "0")
            for key, ours, _, doc, buckets in OBSERVED
        }
        self.ended = Counter(
            "octavo_request_success",
            "Continuations by finish reason.",
            (*labels, "finished_reason"),
            registry=self._own,
        )
        self._ended = {reason: self.ended.labels(model, "0", reason) for reason in REASONS}
        self.responses = Counter("octavo_http_responses", "HTTP responses by status.", ("status",), registry=self._own)
        self._statuses = {status: self.responses.labels(str(status)) for status in STATUSES}
        self._other = self.responses.labels("other")
        self.http_seconds = Histogram(
            "octavo_http_request_seconds",
            "From the headers of a request to the last byte of its answer, by route.",
            ("route",),
            registry=self._own,
            buckets=(0.005, 0.05, 0.5, 1, 5, 30, 300),
        )
        self.lag = Histogram(
            "octavo_event_loop_lag_seconds", "How late the event loop woke up.", registry=self._own, buckets=LAGS
        )
        self.disconnects = self._counter("client_disconnects", "Requests whose client went away.")
        self.slow_readers = self._counter("slow_readers", "Connections ended because answers were not read.")
        self.slow_senders = self._counter("slow_senders", "Connections ended because a request did not come.")
        self.refused_connections = self._counter("refused_connections", "Connections above the limit.")

    def _counter(self, name: str, doc: str) -> Counter:
        return Counter(f"octavo_{name}", doc, registry=self._own)

    def expect(self, routes: Iterable[str]) -> None:
        """Begin the series of these routes, so that none begins later."""
        for route in routes:
            self.http_seconds.labels(route)

    def answered(self, status: int) -> None:
        """Count an HTTP response."""
        self._statuses.get(status, self._other).inc()

    def lagged(self, seconds: float) -> None:
        """Observe how late the event loop woke up."""
        self.lag.observe(seconds)
        self.worst_lag_s = max(self.worst_lag_s, seconds)

    def began(self, first_token_s: float) -> None:
        """Observe a first token."""
        self._observed["first_token"].observe(first_token_s)

    def record(self, request: Ended) -> None:
        """Observe a request that ended, whichever way."""
        times, generated = request.times, sum(request.generated)
        inference_s = None
        if times.prefill_s is not None and times.decode_s is not None:
            inference_s = times.prefill_s + times.decode_s
        values: dict[str, float | None] = {
            "queued": times.queued_s,
            "prefill": times.prefill_s,
            "decode": times.decode_s,
            "inference": inference_s,
            "total": times.total_s,
            "per_token": times.decode_s / (generated - 1) if times.decode_s is not None and generated > 1 else None,
            "prompt": request.prompt_tokens,
            "computed": request.prompt_tokens - request.cached if generated else None,
        }
        if request.max_tokens:  # prompts that are pooled generate nothing
            values |= {
                "generated": generated,
                "longest": max(request.generated, default=0),
                "max_tokens": request.max_tokens,
                "n": len(request.reasons),
                "preempted": times.preemptions,
            }
        for key, value in values.items():
            if value is not None:
                self._observed[key].observe(value)
        for reason in request.reasons:
            self._ended.get(reason, self._ended["error"]).inc()

    def render(self) -> bytes:
        """The exposition text; takes about 10 ms, so off the event loop."""
        return "".join(map(exposed, self._registry.collect())).encode()

    def collect(self) -> Iterator[Metric]:
        """Everything under our names, and what vLLM has too under its own."""
        labels, values = ["model_name", "engine"], [self.model, "0"]
        for ours, theirs, doc, read in GAUGES:
            for name in named(ours, theirs):
                gauge = GaugeMetricFamily(name, doc, labels=labels)
                gauge.add_metric(values, float(read(self.stats)))
                yield gauge
        for ours, theirs, doc, read in COUNTERS:
            for name in named(ours, theirs):
                counter = CounterMetricFamily(name, doc, labels=labels)
                counter.add_metric(values, float(read(self.stats)))
                yield counter
        for ours, theirs, doc, bounds, read in TALLIES:
            for name in named(ours, theirs):
                yield histogram(name, doc, dict(zip(labels, values, strict=True)), bounds, read(self.stats))
        yield from self._by_label(labels, values)
        yield from self._of_server()
        theirs = {f"octavo_{ours}": f"vllm:{theirs}" for _, ours, theirs, _, _ in OBSERVED}
        theirs["octavo_request_success"] = "vllm:request_success"
        for metric in self._own.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
            if metric.name in theirs:
                yield renamed(metric, theirs[metric.name])

    def _by_label(self, labels: list[str], values: list[str]) -> Iterator[Metric]:
        """What vLLM splits by a label, and the cache's layout as a metric that is always 1."""
        stats, info = self.stats, self.info
        waiting = {"capacity": stats.waiting - stats.held, "deferred": stats.held}
        sources = {"local_compute": stats.prompt_tokens - stats.cached_tokens, "local_cache_hit": stats.cached_tokens}
        for prefix, name in (("octavo_requests", "waiting_by_reason"), ("vllm:num_requests", "waiting_by_reason")):
            gauge = GaugeMetricFamily(
                f"{prefix}_{name}",
                "Sequences waiting for a place, or for another sequence.",
                labels=[*labels, "reason"],
            )
            for reason, count in waiting.items():
                gauge.add_metric([*values, reason], count)
            yield gauge
        for prefix in ("octavo_", "vllm:"):
            counter = CounterMetricFamily(
                f"{prefix}prompt_tokens_by_source", "Prompt tokens computed or found.", labels=[*labels, "source"]
            )
            for source, count in sources.items():
                counter.add_metric([*values, source], count)
            yield counter
        if info is not None:
            layout = {"block_size": str(info.page_size), "num_gpu_blocks": str(info.num_pages), "engine": "0"}
            for prefix in ("octavo_", "vllm:"):
                yield constant(f"{prefix}cache_config_info", "How the KV cache is laid out.", layout)

    def _of_server(self) -> Iterator[Metric]:
        """What only this server has."""
        yield GaugeMetricFamily(
            "octavo_engine_healthy", "1 when the engine lives and its loop turns.", float(self.healthy)
        )
        yield GaugeMetricFamily(
            "octavo_engine_stats_age_seconds", "Since the engine told the figures that are its own.", self.stats_age_s
        )
        yield CounterMetricFamily("octavo_engine_restarts", "Engine processes that were lost.", self.restarts)
        yield GaugeMetricFamily(
            "octavo_http_requests_open", "Generation requests admitted and not yet answered.", self.inside
        )
        yield CounterMetricFamily("octavo_http_received_bytes", "Bytes of request bodies.", self.bytes_in)
        yield CounterMetricFamily("octavo_http_sent_bytes", "Bytes of response bodies.", self.bytes_out)
        yield GaugeMetricFamily(
            "octavo_event_loop_worst_lag_seconds", "The worst since the last scrape.", self.worst_lag_s
        )
        self.worst_lag_s = 0.0
        yield CounterMetricFamily("octavo_late_deltas", "Tokens for requests that had gone, ignored.", self.late)
        dropped = CounterMetricFamily(
            "octavo_ipc_frames_dropped", "Frames between the processes that did not decode.", labels=["receiver"]
        )
        dropped.add_metric(["server"], self.frames_dropped)
        dropped.add_metric(["engine"], self.stats.frames_dropped)
        yield dropped

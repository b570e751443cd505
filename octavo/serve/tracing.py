"""Tracing: one OpenTelemetry span per generation request, with the gen_ai.* attributes and no text of anybody's.

Spans are made when a request is over, from its record and its entries in the journal, so that nothing is done for them
while it runs; they are exported in batches by a thread of the SDK's, whose failures touch no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from octavo import __version__, log
from octavo.errors import StartupError
from octavo.frontend.journal import Entry
from octavo.sampling import SamplingParams
from octavo.serve.records import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = log.get(__name__)

CHATS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
FLUSH_S = 2.0  # for the last spans, at the end
Value = str | int | float | Sequence[str]


class Tracing:
    """Turns requests into spans. `model` is what they are served as."""

    def __init__(self, provider: TracerProvider, model: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("octavo", __version__)
        self._model = model

    @classmethod
    def launch(cls, endpoint: str, model: str) -> Tracing:
        """Export to an OTLP/HTTP collector; StartupError when the extra is not installed, or the URL is none.

        The SDK's own variables (OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_BSP_…) hold as everywhere.
        """
        if not endpoint.startswith(("http://", "https://")):
            raise StartupError(
                f"otlp_traces_endpoint must be the URL of an OTLP/HTTP collector, such as "
                f"http://localhost:4318/v1/traces; got {endpoint!r}",
                "otlp_traces_endpoint",
            )
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise StartupError(
                "tracing needs OpenTelemetry; pip install 'octavo[otel]'", "otlp_traces_endpoint"
            ) from None
        # The environment's OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before ours.
        resource = Resource({"service.name": "octavo", "service.version": __version__}).merge(Resource.create())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)  # two lines for each lost batch
        exporter = cast("SpanExporter", Told(OTLPSpanExporter(endpoint=endpoint), endpoint))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, model)

    def span(self, record: Record, entries: Sequence[Entry]) -> None:
        """Hand over the span of a request that is over."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        ends = [record.ended or record.began, *(entry.ended for entry in entries if entry.ended is not None)]
        operation = operation_of(record.path)
        span = self._tracer.start_span(
            f"{operation} {self._model}",
            context=TraceContextTextMapPropagator().extract(record.trace),
            kind=SpanKind.SERVER,
            start_time=int(record.created * 1e9),
            attributes=dict(attributes(record, entries, operation, self._model)),
        )
        if record.error is not None:
            span.set_attribute("error.type", record.error)
            span.set_status(StatusCode.ERROR)
        span.end(int((record.created + max(ends) - record.began) * 1e9))

    async def flush(self) -> None:
        """Give the last spans a moment to be exported."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            self._provider.force_flush(int(FLUSH_S * 1000))
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # A thread that may be left behind: the SDK waits for a collector longer than it is told to.
        threading.Thread(target=work, name="octavo-spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), FLUSH_S)


class Told:
    """An exporter whose operator is told once when spans begin to be lost, and once when they are not any more."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._works = True
        self.shutdown = exporter.shutdown
        self.force_flush = exporter.force_flush

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch."""
        result = self._exporter.export(spans)
        works = result.name == "SUCCESS"
        if works != self._works:
            self._works = works
            if works:
                logger.info("spans are exported to %s again", self._endpoint)
            else:
                logger.warning("spans are lost: %s does not take them; is a collector there?", self._endpoint)
        return result


def operation_of(path: str) -> str:
    """What the conventions call an endpoint's work; scores and classes are made of embeddings."""
    if path.startswith(CHATS):
        return "chat"
    return "text_completion" if path == "/v1/completions" else "embeddings"


def attributes(record: Record, entries: Sequence[Entry], operation: str, model: str) -> Iterator[tuple[str, Any]]:
    """The span's attributes: OpenTelemetry's conventions for generative AI, and vLLM's names for times."""
    yield "gen_ai.operation.name", operation
    yield "gen_ai.provider.name", "octavo"
    yield "gen_ai.request.model", model
    yield "gen_ai.response.model", model
    yield "gen_ai.request.id", record.id
    yield "url.path", record.path
    if record.names:
        yield "gen_ai.response.id", record.names[-1]
    if not entries:
        return
    first = entries[0]
    if first.params is not None:
        yield from requested(first.params, first.max_tokens)
    yield "gen_ai.usage.input_tokens", sum(entry.prompt_tokens for entry in entries)
    yield "gen_ai.usage.output_tokens", sum(entry.num_generated for entry in entries)
    yield "gen_ai.usage.cache_read.input_tokens", sum(entry.cached for entry in entries)
    yield "gen_ai.response.finish_reasons", [reason for entry in entries for reason in entry.reasons]
    for name, read in TIMES:
        known = [seconds for entry in entries if (seconds := read(entry)) is not None]
        if known:
            yield f"gen_ai.latency.{name}", max(known)
    yield "octavo.preemptions", max(entry.times.preemptions for entry in entries)


TIMES: tuple[tuple[str, Callable[[Entry], float | None]], ...] = (
    ("time_in_queue", lambda entry: entry.times.queued_s),
    ("time_to_first_token", lambda entry: entry.times.first_token_s),
    ("time_in_model_prefill", lambda entry: entry.times.prefill_s),
    ("time_in_model_decode", lambda entry: entry.times.decode_s),
    ("e2e", lambda entry: entry.times.total_s),
)


def requested(params: SamplingParams, max_tokens: int) -> Iterator[tuple[str, Value]]:
    """The parameters of the request that have a name in the conventions."""
    yield "gen_ai.request.max_tokens", max_tokens
    for name in ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty"):
        yield f"gen_ai.request.{name}", getattr(params, name)
    if params.seed is not None:
        yield "gen_ai.request.seed", params.seed
    if params.n != 1:
        yield "gen_ai.request.choice.count", params.n

"""Tracing: one OpenTelemetry span per generation request, with the gen_ai.* attributes and no text of anybody's.

Spans are made when a request is over, from its record and its entries in the journal, so that nothing is done for them
while it runs; they are exported in batches by a thread of the SDK's, whose failures touch no request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from octavo import __version__
from octavo.errors import StartupError
from octavo.frontend.journal import Entry
from octavo.sampling import SamplingParams
from octavo.serve.records import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

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
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
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
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._provider.force_flush, int(FLUSH_S * 500)), FLUSH_S)


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

"""One span per request, as OpenTelemetry's conventions want it, sent to a real collector, and never in the way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from octavo.errors import StartupError
from octavo.frontend.journal import Entry
from octavo.frontend.output import RequestTimes
from octavo.sampling import SamplingParams
from octavo.serve.records import Record
from octavo.serve.tracing import Tracing

pytest.importorskip("opentelemetry.sdk", reason="needs octavo[otel]")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
SECRET = "the quick brown fox"


class Collector:
    """A collector on a real socket: the spans it was sent, attributes as Python values."""

    def __init__(self) -> None:
        self.spans: list[tuple[object, dict[str, object]]] = []
        self.bytes = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        self.bytes += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append((span, {a.key: value_of(a.value) for a in span.attributes}))

    def wait(self, count: int) -> list[tuple[object, dict[str, object]]]:
        end = time.monotonic() + 10
        while len(self.spans) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(self.spans) == count
        return self.spans


def value_of(value) -> object:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [value_of(each) for each in found.values] if kind == "array_value" else found


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_requests_are_traced_and_parents_honored_and_no_text_is_told(start, collector):
    server = start("--otlp-traces-endpoint", collector.url, device="fake:low=3,high=97,step_ms=2", env=FAST)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
    body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 7, "ignore_eos": True, "seed": 5}
    said = server.http.post("/v1/chat/completions", json=body | {"top_p": 0.9, "n": 2}, headers=headers).json()
    ((chat, told),) = collector.wait(1)
    assert chat.name == "chat octavo-pocket"
    assert (chat.trace_id.hex(), chat.parent_span_id.hex(), chat.kind) == (TRACE, PARENT, 2)  # 2: server
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "octavo",
        "gen_ai.request.model": "octavo-pocket",
        "gen_ai.response.model": "octavo-pocket",
        "gen_ai.response.id": said["id"],
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 5,
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": said["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 14,
        "gen_ai.response.finish_reasons": ["length", "length"],
        "url.path": "/v1/chat/completions",
    }
    assert {name: told.get(name) for name in expected} == expected
    assert 0 < told["gen_ai.latency.time_to_first_token"] < told["gen_ai.latency.e2e"]
    seconds = (chat.end_time_unix_nano - chat.start_time_unix_nano) / 1e9
    assert told["gen_ai.latency.e2e"] <= seconds < told["gen_ai.latency.e2e"] + 1
    assert abs(chat.start_time_unix_nano / 1e9 - time.time()) < 30

    # Refused, streamed and left: each is one span, with its error.
    assert server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 0.5}).status_code == 400
    with server.http.stream("POST", "/v1/completions", json={"prompt": SECRET, "max_tokens": 900, "stream": True}) as r:
        next(r.iter_raw())
    spans = collector.wait(3)
    refused, left = (dict(told, code=span.status.code) for span, told in spans[1:])
    assert (refused["error.type"], refused["code"]) == ("invalid_request_error", 2)
    assert (left["error.type"], left["gen_ai.response.finish_reasons"]) == ("client_gone", ["abort"])
    assert not spans[1][0].parent_span_id
    assert SECRET.encode() not in collector.bytes
    assert said["choices"][0]["message"]["content"].encode() not in collector.bytes


def ended() -> tuple[Record, Entry]:
    record = Record("id", None, "/v1/completions", created=100.0, began=5.0, ended=8.0)
    times = RequestTimes(0.25, 0.5, 2.0, 3, 0.125)
    params = SamplingParams(temperature=0.5, top_k=4)
    return record, Entry("id-0", [1], params, 11, 9, 5.5, False, None, 7.5, [4], ["stop"], 8, times)


def test_what_was_not_sent_yet_is_sent_at_the_end(collector, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    tracing = Tracing.launch(collector.url, "m")
    record, entry = ended()
    for _ in range(3):
        tracing.span(record, [entry])
    time.sleep(0.2)
    assert not collector.spans
    asyncio.run(tracing.flush())
    collector.wait(3)


def test_a_collector_that_is_not_there_holds_nobody_up_and_is_told_of_once(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing = Tracing.launch("http://127.0.0.1:9/v1/traces", "m")
    record, entry = ended()
    began = time.monotonic()
    for _ in range(3000):  # more than the SDK keeps
        tracing.span(record, [entry])
    assert time.monotonic() - began < 5
    began = time.monotonic()
    asyncio.run(tracing.flush())
    assert time.monotonic() - began < 4
    assert [r.message for r in caplog.records if r.name.startswith("octavo") and r.levelno >= 30] == [
        "spans are lost: http://127.0.0.1:9/v1/traces does not take them; is a collector there?"
    ]


def test_an_endpoint_that_is_no_url_is_refused():
    with pytest.raises(StartupError) as error:
        Tracing.launch("localhost:4317", "m")
    assert error.value.field == "otlp_traces_endpoint"


def test_spans_hold_what_the_journal_holds():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    record, entry = ended()
    Tracing(provider, "m").span(record, [entry, entry])
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.start_time, span.end_time) == ("text_completion m", 100 * 10**9, 103 * 10**9)
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.request.temperature"] == 0.5 and attributes["gen_ai.request.top_k"] == 4
    assert "gen_ai.request.seed" not in attributes and "gen_ai.request.choice.count" not in attributes
    assert attributes["gen_ai.usage.input_tokens"] == 22 and attributes["gen_ai.usage.output_tokens"] == 8
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 16
    assert attributes["gen_ai.latency.time_in_queue"] == 0.25
    assert attributes["gen_ai.latency.time_in_model_prefill"] == 0.125
    assert attributes["gen_ai.latency.time_in_model_decode"] == 1.5
    assert attributes["octavo.preemptions"] == 3

"""What /metrics says is what happened, under our names and vLLM's; it is cheap, bounded, and waits for no engine."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from octavo.messages import Stats, Tally, total
from octavo.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "docs/grafana/octavo.json"
WORDS = re.compile(r"\b(?:octavo_|vllm:|process_)\w+")

# What the dashboards and autoscalers that people have for vLLM ask for.
THEIRS = """
num_requests_running num_requests_waiting num_requests_swapped num_requests_waiting_by_reason kv_cache_usage_perc
gpu_cache_usage_perc prefix_cache_queries_total prefix_cache_hits_total gpu_prefix_cache_queries_total
gpu_prefix_cache_hits_total num_preemptions_total prompt_tokens_total prompt_tokens_cached_total
prompt_tokens_by_source_total generation_tokens_total request_success_total cache_config_info
""".split()
THEIR_HISTOGRAMS = """
iteration_tokens_total time_to_first_token_seconds inter_token_latency_seconds time_per_output_token_seconds
e2e_request_latency_seconds request_queue_time_seconds request_inference_time_seconds request_prefill_time_seconds
request_decode_time_seconds request_time_per_output_token_seconds request_prompt_tokens request_generation_tokens
request_max_num_generation_tokens request_params_n request_params_max_tokens request_num_preemptions
request_prefill_kv_computed_tokens
""".split()


@pytest.fixture(scope="module")
def measured(start):
    """A server of its own, whose counts are this module's only."""
    return start("--max-num-seqs", "4", device="fake:low=3,high=97,step_ms=2")


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by sample name and labels, as Prometheus reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def scrape(server) -> dict[str, float]:
    """The sum over labels of every sample."""
    server.settle()
    return {name: sum(values.values()) for name, values in samples(server.http.get("/metrics").text).items()}


def complete(server, **fields: object) -> httpx.Response:
    body = {"prompt": [5] * 20, "max_tokens": 8, "temperature": 0, "ignore_eos": True} | fields
    return server.http.post("/v1/completions", json=body)


def grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after[name] - before.get(name, 0)


def test_counts_are_those_of_the_requests(measured):
    complete(measured, prompt=[9] * 40, max_tokens=1)
    before = scrape(measured)
    complete(measured, prompt=[9] * 40, max_tokens=6)
    complete(measured, prompt=[[7] * 5, [8] * 5], max_tokens=3, n=2, temperature=1.0)
    complete(measured, stream=True, max_tokens=4)
    after = scrape(measured)

    def by(name: str) -> float:
        return grown(before, after, name)

    assert by("octavo_generated_tokens_total") == by("vllm:generation_tokens_total") == 6 + 2 * 2 * 3 + 4
    assert by("octavo_prompt_tokens_total") == 40 + 2 * 2 * 5 + 20
    assert by("vllm:prefix_cache_hits_total") >= 32
    assert by("vllm:request_success_total") == 6
    assert by("octavo_request_prompt_tokens_count") == by("vllm:request_prompt_tokens_count") == 4
    assert by("octavo_request_prompt_tokens_sum") == 40 + 5 + 5 + 20
    assert by("octavo_request_generated_tokens_sum") == 6 + 12 + 4
    assert by("octavo_request_longest_tokens_sum") == 6 + 3 + 3 + 4
    assert by("octavo_request_computed_tokens_sum") == 8 + 5 + 5 + 20
    assert by("octavo_request_n_sum") == 1 + 2 + 2 + 1
    assert by("octavo_request_max_tokens_sum") == 6 + 3 + 3 + 4
    assert by("octavo_first_token_seconds_count") == by("vllm:time_to_first_token_seconds_count") == 4
    # A gap for every token but a sequence's first; a step computes prompts and continuations.
    assert by("octavo_token_gap_seconds_count") == 5 + 4 * 2 + 3
    assert by("vllm:inter_token_latency_seconds_sum") >= 0.002 * (5 + 2 + 3)
    assert by("octavo_step_tokens_count") == by("octavo_steps_total") == by("octavo_step_seconds_count")
    assert by("octavo_step_tokens_sum") >= 8 + 20 + 20
    for kind in ("queued", "prefill", "decode", "inference", "request"):
        assert by(f"octavo_{kind}_seconds_count") == 4
    spent = by("octavo_queued_seconds_sum") + by("octavo_inference_seconds_sum")
    assert spent == pytest.approx(by("octavo_request_seconds_sum"), rel=0.5)
    assert by("octavo_http_received_bytes_total") > 300
    assert by("octavo_http_sent_bytes_total") > 800


def test_histograms_are_what_prometheus_takes_for_one(measured):
    complete(measured)
    for family in text_string_to_metric_families(measured.http.get("/metrics").text):
        if family.type != "histogram":
            continue
        buckets = [s for s in family.samples if s.name.endswith("_bucket")]
        series: dict[str, list[float]] = {}
        for sample in buckets:
            labels = {k: v for k, v in sample.labels.items() if k != "le"}
            series.setdefault(json.dumps(labels, sort_keys=True), []).append(sample.value)
        counts = {json.dumps(s.labels, sort_keys=True): s.value for s in family.samples if s.name.endswith("_count")}
        assert series.keys() == counts.keys()
        for labels, values in series.items():
            assert values == sorted(values), family.name
            assert values[-1] == counts[labels], family.name


def test_vllm_s_names_are_there_with_its_labels(measured):
    found = samples(measured.http.get("/metrics").text)
    names = [f"vllm:{name}" for name in THEIRS]
    names += [f"vllm:{name}_{part}" for name in THEIR_HISTOGRAMS for part in ("bucket", "sum", "count")]
    assert not set(names) - found.keys()
    for name in names:
        for labels in found[name]:
            assert dict(labels)["engine"] == "0", name
            assert name == "vllm:cache_config_info" or dict(labels)["model_name"] == "octavo-pocket", name


def test_every_query_of_the_dashboard_is_about_a_metric_that_exists(measured):
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    queries += [variable["query"]["query"] for variable in board["templating"]["list"][1:]]
    found = samples(measured.http.get("/metrics").text)
    labels = {label for values in found.values() for key in values for label, _ in key}
    assert len(queries) > 50
    for query in queries:
        named = WORDS.findall(query)
        assert named, query
        assert not set(named) - found.keys(), query
        used = [*re.findall(r"by\(([^)]*)\)", query), ",".join(re.findall(r"[{,](\w+)=", query))]
        assert not {label.strip() for part in used for label in part.split(",") if label.strip()} - labels, query
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(places) == len(set(places)) and len({p["id"] for p in board["panels"]}) == len(places)


def test_every_metric_is_documented_and_every_documented_metric_exists(measured):
    page = (ROOT / "docs/observability.md").read_text()
    told = set(re.findall(r"`((?:octavo_|vllm:)\w+)`", page))
    families = {family.name for family in text_string_to_metric_families(measured.http.get("/metrics").text)}
    found = {name for name in families if name.startswith(("octavo_", "vllm:"))}
    assert not found - told, f"not in docs/observability.md: {sorted(found - told)}"
    assert not told - found, f"in docs/observability.md only: {sorted(told - found)}"


def test_a_client_that_leaves_and_a_refused_request_are_counted(measured):
    before = scrape(measured)
    with measured.http.stream("POST", "/v1/completions", json={"prompt": [5], "max_tokens": 1000, "stream": True}) as r:
        next(r.iter_raw())
    assert complete(measured, max_tokens=0.5).status_code == 400
    after = scrape(measured)
    assert grown(before, after, "octavo_client_disconnects_total") == 1
    assert grown(before, after, "octavo_sequences_aborted_total") == 1
    found = samples(measured.http.get("/metrics").text)
    aborted = [v for key, v in found["vllm:request_success_total"].items() if ("finished_reason", "abort") in key]
    assert aborted == [1]
    assert found["octavo_http_responses_total"][(("status", "400"),)] == 1
    assert found["octavo_http_request_seconds_count"][(("route", "/v1/completions"),)] > 4


def test_gauges_show_what_runs_and_waits(measured):
    with ThreadPoolExecutor(7) as pool:
        done = [pool.submit(complete, measured, prompt=[i + 5] * 9, max_tokens=400) for i in range(7)]
        seen = {}
        end = time.monotonic() + 10
        while seen.get("octavo_requests_waiting") != 3 and time.monotonic() < end:
            seen = measured.stats()
            time.sleep(0.02)
        assert seen["octavo_requests_running"] == 4
        assert seen["octavo_requests_waiting"] == 3
        assert seen["octavo_http_requests_open"] == 7
        assert 0 < seen["octavo_kv_cache_usage"] < 1
        load = measured.http.get("/load").json()
        assert load["server_load"] == 7
        assert all(each.result().status_code == 200 for each in done)


def test_random_requests_begin_no_series(measured):
    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in measured.http.get("/metrics").text.splitlines() if line[:1] != "#"}

    before = series()
    for i in range(60):
        measured.http.request(f"M{i}", f"/nothing/{i}?x={i}", headers={"user-agent": f"agent {i}"})
        complete(measured, model=f"model-{i}")
    assert series() == before


def test_a_scrape_waits_for_no_engine(measured):
    children = psutil.Process(measured.process.pid).children()
    (engine,) = [child for child in children if "octavo.engine.process" in child.cmdline()]
    engine.suspend()  # as in a long step
    try:
        took = []
        for _ in range(5):
            began = time.monotonic()
            reply = measured.http.get("/metrics")
            took.append(time.monotonic() - began)
    finally:
        engine.resume()
    assert reply.status_code == 200 and len(reply.content) < 2**20
    # 20 ms for the engine and 10 for the text, on an idle machine; more on a busy one.
    assert min(took) < 0.15
    assert samples(reply.text)["octavo_engine_stats_age_seconds"][()] > 0.05


def test_totals_go_on_over_the_lives_of_an_engine():
    past = Stats(running=3, steps=10, generated_tokens=7, step_tokens=Tally([1, 2], 5.0))
    now = Stats(running=1, steps=4, generated_tokens=2, step_tokens=Tally([0, 3], 4.0))
    both = total(past, now)
    assert (both.running, both.steps, both.generated_tokens) == (1, 14, 9)
    assert (both.step_tokens.counts, both.step_tokens.total) == ([1, 5], 9.0)
    assert total(both, Stats()).step_tokens == both.step_tokens
    assert total(Stats(), now) == now


def test_a_scrape_of_nothing_is_complete():
    text = Metrics("m").render().decode()
    assert "octavo_requests_running" in text and "_created" not in text


def test_the_text_is_what_prometheus_client_would_write():
    metrics = Metrics('a "model"\\ of\nmine')
    metrics.expect(["/v1/completions"])
    metrics.answered(200)
    metrics.lagged(0.003)
    metrics.began(0.25)
    ours, theirs = metrics.render().decode(), generate_latest(metrics).decode()

    def read(text: str) -> dict[str, object]:
        return {
            family.name: (family.documentation, family.type, [(s.name, s.labels, s.value) for s in family.samples])
            for family in text_string_to_metric_families(text)
            if not family.name.startswith("process_") and "worst" not in family.name
        }

    assert read(ours) == read(theirs)
    assert 'model_name="a \\"model\\"\\\\ of\\nmine"' in ours

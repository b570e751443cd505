"""Schemathesis over octavo's own OpenAPI document: whatever it makes of it, no answer is a 5xx, the server goes on."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from .conftest import Server, Start

schemathesis = pytest.importorskip("schemathesis")

PARTS = 12  # of the operations, a test each
SMALL = ("--max-model-len", "64", "--limits", "n=4,sequences=8,prompts=8")  # so that no request takes long


@pytest.fixture(scope="module")
def small(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return start(*SMALL, "--data-dir", str(tmp_path_factory.mktemp("data")))


def fuzz(server: Server, examples: int, paths: tuple[str, ...] = ()) -> dict[str, set[int]]:
    """The statuses of the operations' answers (all of them, or those at `paths`), valid and invalid requests mixed."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        if paths and operation.path not in paths:
            continue
        statuses = seen.setdefault(f"{operation.method.upper()} {operation.path}", set())
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            try_all(server, operation, mode, statuses, examples)
    return seen


def try_all(server, operation, mode, statuses: set[int], examples: int) -> None:
    """Send `examples` requests of one kind."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case) -> None:
        response = case.call(base_url=server.url, timeout=30)
        statuses.add(response.status_code)
        assert response.status_code < 500, (operation.path, response.status_code, response.text[:300], case.body)

    with contextlib.suppress(Unsatisfiable):  # nothing invalid can be made of an operation without input
        ask()


def check(server: Server, seen: dict[str, set[int]]) -> None:
    assert 200 in seen["POST /v1/completions"]
    assert 400 in seen["POST /v1/completions"]
    stats = server.settle()
    assert stats["octavo_books_wrong_total"] == 0
    answer = server.http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3})
    assert answer.status_code == 200


def test_no_answer_to_a_few_requests_is_a_server_error(small):
    seen = fuzz(small, 3, ("/v1/completions", "/v1/chat/completions"))
    check(small, seen)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_answer_to_many_requests_is_a_server_error(small, part):
    paths = sorted(small.http.get("/openapi.json").json()["paths"])
    assert len(paths) > PARTS
    seen = fuzz(small, 40, tuple(paths[part::PARTS]))
    assert set.union(*seen.values()) - {404, 405}
    assert small.http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3}).status_code == 200

"""docs/parameters.md says of every parameter what the server does with it, and knows all that OpenAI and vLLM have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octavo.serve.schema import REFUSED, ChatRequest, CompletionRequest

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"
VLLM = """
    top_k min_p repetition_penalty length_penalty stop_token_ids include_stop_str_in_output ignore_eos min_tokens
    skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs
    logprob_token_ids allowed_token_ids bad_words echo add_generation_prompt continue_final_message add_special_tokens
    documents chat_template chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority
    request_id session_id return_tokens_as_token_ids return_token_ids return_token_offsets return_weight_versions
    return_prompt_text routed_experts_prompt_start mm_payload cache_salt kv_transfer_params ec_transfer_params
    vllm_xargs
    repetition_detection stream_interval use_beam_search reasoning_effort thinking_token_budget include_reasoning
    watermarking suffix best_of
""".split()


def table() -> dict[str, tuple[str, str]]:
    """(where, what happens) by parameter."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \|", PAGE.read_text(), re.M)
    assert len(rows) == len({name for name, *_ in rows})
    return {name: (where, status) for name, where, status in rows}


def where(name: str) -> str:
    """Which requests have the field."""
    found = [
        kind
        for kind, schema in (("chat", ChatRequest), ("completions", CompletionRequest))
        if name in schema.model_fields
    ]
    return "both" if len(found) == 2 else found[0]


def test_every_field_of_the_schema_has_its_row():
    rows = table()
    for schema in (ChatRequest, CompletionRequest):
        for name, field in schema.model_fields.items():
            assert name in rows, f"add a row for {name} to docs/parameters.md"
            status = "accepted" if (field.description or "").startswith("Accepted") else "honored"
            assert rows[name] == (where(name), status), name


def test_what_is_refused_says_so():
    rows = table()
    assert {name for name, (_, status) in rows.items() if status == "refused"} == set(REFUSED)
    known = ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys() | REFUSED.keys()
    assert rows.keys() <= known


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_gives_its_reason(http, name):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    error = http.post("/v1/chat/completions", json=body | {name: {}}).json()["error"]
    assert error["param"] == name
    assert REFUSED[name] in error["message"]
    assert http.post("/v1/chat/completions", json=body | {name: None}).status_code == 200


def test_everything_vllm_has_is_in_the_table():
    assert set(VLLM) <= table().keys()


def test_everything_openai_has_is_in_the_table(openai_spec):
    rows = table()
    for schema in ("CreateChatCompletionRequest", "CreateCompletionRequest"):
        names = openai_spec.properties(schema)
        assert len(names) > 15
        assert names <= rows.keys(), schema

"""A bound on the tokens of reasoning, by its definition and on a real model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo import LLM, SamplingParams
from octavo.errors import InvalidRequest
from octavo.thinking import ThinkingBudget, Thoughts

TOKENS = st.lists(st.integers(0, 4), max_size=40)


def written(budget: ThinkingBudget, wanted: list[int]) -> list[int]:
    """What comes of a model that wants these tokens."""
    thoughts = Thoughts(budget)
    output = []
    for token in wanted:
        forced = thoughts.forced()
        output.append(token if forced is None else forced)
        thoughts.push(output[-1])
    return output


def test_reasoning_ends_when_its_tokens_are_used() -> None:
    assert written(ThinkingBudget(3, (1,), (2,), True), [9] * 6) == [9, 9, 9, 2, 9, 9]
    assert written(ThinkingBudget(2, (1,), (2, 3), True), [9] * 6) == [9, 9, 2, 3, 9, 9]
    assert written(ThinkingBudget(2, (1,), (2,), False), [9, 9, 1, 9, 9, 9, 9]) == [9, 9, 1, 9, 9, 2, 9]
    assert written(ThinkingBudget(0, (1,), (2,), True), [9, 9]) == [2, 9]


def test_what_the_model_ends_itself_is_left_alone() -> None:
    tokens = [9, 2, 9, 9, 1, 9, 9, 9, 9, 9]
    assert written(ThinkingBudget(3, (1,), (2,), True), tokens) == tokens
    assert written(ThinkingBudget(2, (1,), (2, 3), True), [9, 2, 3, 9, 9]) == [9, 2, 3, 9, 9]


@given(TOKENS, TOKENS, st.integers(0, 6), st.booleans())
def test_what_is_forced_is_a_function_of_the_tokens(
    first: list[int], second: list[int], size: int, inside: bool
) -> None:
    """So a sequence that was preempted goes on as it would have."""
    budget = ThinkingBudget(size, (0, 1), (2, 3), inside)
    whole = written(budget, [*first, *second])
    again = Thoughts(budget)
    for token in whole[: len(first)]:
        again.push(token)
    for token in whole[len(first) :]:
        forced = again.forced()
        assert forced in (None, token)
        again.push(token)


def test_reasoning_can_be_ended_at_once() -> None:
    thoughts = Thoughts(ThinkingBudget(100, (1,), (2,), True))
    thoughts.push(9)
    assert thoughts.forced() is None
    thoughts.end_now()
    assert thoughts.forced() == 2


def test_a_real_model_thinks_no_longer_than_it_may() -> None:
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    with LLM(max_model_len=512, use_tqdm_on_load=False) as llm:
        end = llm.get_tokenizer().encode("</think>", add_special_tokens=False)
        for n, budget in ((1, 7), (3, 4)):
            params = SamplingParams(max_tokens=40, temperature=1.0, n=n, seed=1, thinking_token_budget=budget)
            options = {"chat_template_kwargs": {"enable_thinking": True}, "use_tqdm": False}
            [output] = llm.chat(messages, params, **options)
            for one in output.outputs:
                assert end[0] in one.token_ids[: budget + 1]
                assert one.reasoning_tokens <= budget
        with pytest.raises(InvalidRequest, match="thinking_token_budget needs a chat"):
            llm.generate("Why?", SamplingParams(thinking_token_budget=3), use_tqdm=False)

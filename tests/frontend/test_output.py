"""Token deltas become text, log-probabilities and finish reasons, whatever way they arrive."""

import itertools

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from octavo.errors import InvalidRequest
from octavo.frontend.inputs import InputProcessor, RequestExtras
from octavo.frontend.output import OutputProcessor
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import Finish, Logprobs, TokenDelta
from octavo.sampling import RequestOutputKind, SamplingParams


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level, one token per byte, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)} | {"</s>": 256}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend, {"eos_token": "</s>"}, {})


def opened(tokenizer, **params):
    """A processor with one request; returns it, the request's state and its specs."""
    inputs = InputProcessor(tokenizer, (256,), 4096, 257, seed=0)
    text, ids = inputs.ids("prompt: ")
    request, specs = inputs.build("r", text, ids, SamplingParams(max_tokens=1000, **params), RequestExtras())
    processor = OutputProcessor(tokenizer)
    processor.open(request, specs)
    return processor, request, specs


def feed(processor, spec, ids, cuts=(), finish=None):
    """Send `ids` in pieces cut at `cuts`; returns what must be aborted."""
    aborts = []
    borders = [0, *sorted(cuts), len(ids)]
    for i, (a, b) in enumerate(itertools.pairwise(borders)):
        last = i == len(borders) - 2
        _, stopped = processor.push([TokenDelta(spec.id, ids[a:b], finish=finish if last else None)])
        aborts += stopped
    return aborts


TEXT = "Grüße, 世界! 🎉 naïve STOP end"


@given(cuts=st.sets(st.integers(1, len(TEXT.encode()) - 1)), kind=st.sampled_from(RequestOutputKind))
def test_pieces_join_to_the_whole_whatever_the_cuts(tokenizer, cuts, kind):
    ids = tokenizer.encode(TEXT)
    processor, request, (spec,) = opened(tokenizer, output_kind=kind)
    shown, tokens = "", []
    for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(ids)], strict=True):
        finish = Finish("length") if b == len(ids) else None
        processor.push([TokenDelta(spec.id, ids[a:b], finish=finish)])
        output = request.output({0}).outputs[0]
        assert "\ufffd" not in output.text
        if kind is RequestOutputKind.DELTA:
            shown += output.text
            tokens += output.token_ids
        else:
            assert output.text.startswith(shown)
            shown, tokens = output.text, output.token_ids
    assert shown == TEXT and tokens == ids and request.finished
    assert output.finish_reason == "length"


@given(cuts=st.sets(st.integers(1, len(TEXT.encode()) - 1)))
def test_a_stop_string_ends_the_request_and_is_never_shown(tokenizer, cuts):
    ids = tokenizer.encode(TEXT)
    processor, request, (spec,) = opened(tokenizer, stop=["STOP"])
    aborts = feed(processor, spec, ids, cuts, Finish("length"))
    output = request.output().outputs[0]
    assert output.text == TEXT.split("STOP")[0]
    assert (output.finish_reason, output.stop_reason) == ("stop", "STOP")
    assert aborts in ([], [spec.id])  # none is needed when the core had finished anyway


def test_a_stop_string_in_the_middle_asks_the_core_to_abort(tokenizer):
    processor, request, (spec,) = opened(tokenizer, stop="STOP", include_stop_str_in_output=True)
    assert feed(processor, spec, tokenizer.encode("one STOP")) == [spec.id]
    assert request.output().outputs[0].text == "one STOP"
    assert request.finished and not processor.routes and not processor.requests


def test_a_stop_string_does_not_count_before_min_tokens(tokenizer):
    processor, request, (spec,) = opened(tokenizer, stop="x", min_tokens=3)
    assert feed(processor, spec, tokenizer.encode("axbcxd"), cuts=(1, 2, 3, 4, 5)) == [spec.id]
    assert request.output().outputs[0].text == "axbc"


def test_the_end_token_is_not_text_and_has_no_stop_reason(tokenizer):
    processor, request, (spec,) = opened(tokenizer)
    feed(processor, spec, [*tokenizer.encode("hi"), 256], finish=Finish("stop"))
    output = request.output().outputs[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("hi", "stop", None)
    assert output.token_ids[-1] == 256


def test_a_stop_token_is_hidden_unless_asked_for(tokenizer):
    for include, text in ((False, "a"), (True, "a!")):
        processor, request, (spec,) = opened(tokenizer, stop_token_ids=[0], include_stop_str_in_output=include)
        feed(processor, spec, tokenizer.encode("a!"), finish=Finish("stop", stop=tokenizer.encode("!")[0]))
        output = request.output().outputs[0]
        assert output.text == text and output.stop_reason == tokenizer.encode("!")[0]


def test_logprobs_name_the_chosen_token_first_and_add_up(tokenizer):
    processor, request, (spec,) = opened(tokenizer, logprobs=2)
    logprobs = Logprobs([[5, 7, 5], [9, 1, 2]], [[-1.0, -0.5, -1.0], [-3.0, -0.1, -0.2]], [2, 40])
    processor.push([TokenDelta(spec.id, [5, 9], logprobs, finish=Finish("length"))])
    output = request.output().outputs[0]
    assert output.cumulative_logprob == -4.0
    assert [list(position) for position in output.logprobs] == [[5, 7], [9, 1, 2]]
    assert output.logprobs[1][9].rank == 40 and output.logprobs[1][1].rank == 1


def test_late_and_unknown_deltas_are_counted_and_ignored(tokenizer):
    processor, _, (spec,) = opened(tokenizer)
    assert processor.close("r") == [spec.id] and processor.close("r") == []
    assert processor.push([TokenDelta(spec.id, [1]), TokenDelta(999, [1])]) == ([], [])
    assert processor.late == 2


def test_one_request_that_breaks_its_processing_does_not_reach_another(tokenizer):
    inputs = InputProcessor(tokenizer, (256,), 4096, 257, seed=0)
    processor = OutputProcessor(tokenizer)
    requests = []
    for name in ("good", "bad"):
        request, specs = inputs.build(name, None, [1], SamplingParams(), RequestExtras())
        processor.open(request, specs)
        requests.append((request, specs[0]))
    (good, good_spec), (bad, bad_spec) = requests
    broken = Logprobs([[1]], [[0.0, 0.0]], [])  # lists that do not match
    bad.sequences[0].logprobs = []
    bad.sequences[0].cumulative_logprob = 0.0
    _, aborts = processor.push(
        [TokenDelta(bad_spec.id, [65], broken), TokenDelta(good_spec.id, [65], finish=Finish("length"))]
    )
    assert bad.error is not None and aborts == [bad_spec.id]
    assert good.finished and good.error is None


def test_several_continuations_finish_one_by_one(tokenizer):
    processor, request, specs = opened(tokenizer, n=3, output_kind=RequestOutputKind.DELTA)
    assert [spec.leader for spec in specs] == [None, specs[0].id, specs[0].id]
    assert len({spec.seed for spec in specs}) == 3
    feed(processor, specs[1], [70], finish=Finish("length"))
    output = request.output({1})
    assert [part.index for part in output.outputs] == [1] and not output.finished
    feed(processor, specs[0], [70], finish=Finish("length"))
    feed(processor, specs[2], [70], finish=Finish("length"))
    assert request.output({0, 2}).finished


def scored(id, value):
    return TokenDelta(id, [7], logprobs=Logprobs([[7]], [[value]], [1]))


def test_best_of_returns_those_with_the_likeliest_tokens_on_average(tokenizer):
    processor, request, specs = opened(tokenizer, n=2, best_of=4)
    assert [spec.sampling.logprobs for spec in specs] == [0] * 4
    values = {
        0: [-1.0, -1.0],
        1: [-1.5],
        2: [-0.1, -0.2, -3.0],
        3: [-9.0],
    }
    for index, spec in enumerate(specs):
        for value in values[index]:
            processor.push([scored(spec.id, value)])
        processor.push([TokenDelta(spec.id, [], finish=Finish("stop"))])
    output = request.output({0})
    averages = [one.cumulative_logprob / len(one.token_ids) for one in output.outputs]
    assert averages == sorted((sum(v) / len(v) for v in values.values()), reverse=True)[:2]
    assert [one.index for one in output.outputs] == [0, 1]
    assert all(one.logprobs is None for one in output.outputs)
    assert output.num_unseen_tokens == sum(map(len, values.values())) - sum(
        len(one.token_ids) for one in output.outputs
    )


@given(interval=st.integers(1, 9), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_a_stream_interval_tells_the_first_the_last_and_every_so_many(tokenizer, interval, sizes):
    processor, request, (spec,) = opened(tokenizer, stream_interval=interval, output_kind=RequestOutputKind.DELTA)
    ids, told, text = tokenizer.encode("abcde" * 12), [], ""
    for i, size in enumerate(sizes):
        part, ids = ids[:size], ids[size:]
        processor.push([TokenDelta(spec.id, part, finish=Finish("length") if i == len(sizes) - 1 else None)])
        if due := request.due({0}):
            output = request.output(due).outputs[0]
            told.append(len(output.token_ids))
            text += output.text
    assert sum(told) == sum(sizes)
    assert len(text) == sum(sizes)
    assert told[0] == sizes[0]
    assert all(interval <= count < interval + 5 for count in told[1:-1])


def test_tokens_asked_for_by_id_have_no_rank(tokenizer):
    processor, request, (spec,) = opened(tokenizer, logprobs=1, logprob_token_ids=[5, 9])
    told = Logprobs([[7, 8, 5, 9]], [[-1.0, -0.5, -4.0, -6.0]], [2], named=2)
    processor.push([TokenDelta(spec.id, [7], logprobs=told)])
    [position] = request.output().outputs[0].logprobs
    assert {id: (one.logprob, one.rank) for id, one in position.items()} == {
        7: (-1.0, 2),
        8: (-0.5, 1),
        5: (-4.0, None),
        9: (-6.0, None),
    }


def test_a_repeating_output_ends_by_itself(tokenizer):
    processor, request, (spec,) = opened(tokenizer, repetition_detection={"max_pattern_size": 4, "min_count": 3})
    ids = tokenizer.encode("so abcabcabcabc")
    assert feed(processor, spec, ids, cuts=range(1, len(ids))) == [spec.id]
    output = request.output().outputs[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("so abcabcabc", "stop", "repetition_detected")


@given(cuts=st.sets(st.integers(1, len(TEXT.encode()) - 1)), include=st.booleans())
def test_a_stop_regex_ends_the_text_whatever_the_cuts(tokenizer, cuts, include):
    processor, request, (spec,) = opened(
        tokenizer, stop_regex=[r"S\w{2}P"], stop=["nothing"], include_stop_str_in_output=include
    )
    assert feed(processor, spec, tokenizer.encode(TEXT), cuts) == [spec.id]
    output = request.output().outputs[0]
    assert output.text == TEXT[: TEXT.index("STOP") + (4 if include else 0)]
    assert (output.finish_reason, output.stop_reason) == ("stop", r"S\w{2}P")


@pytest.mark.parametrize(("side", "kept"), [(None, "t: "), ("left", "t: "), ("right", "pro")])
def test_a_long_prompt_is_cut_where_it_should(tokenizer, side, kept):
    inputs = InputProcessor(tokenizer, (256,), 4096, 257, seed=0)
    params = SamplingParams(truncate_prompt_tokens=3, truncation_side=side)
    assert inputs.ids("prompt: ", True, params)[1] == tokenizer.encode(kept)
    assert inputs.ids("pr", True, params)[1] == tokenizer.encode("pr")
    most = InputProcessor(tokenizer, (256,), 10, 257, seed=0)
    assert len(most.ids("x" * 50, True, SamplingParams(truncate_prompt_tokens=-1, max_tokens=4))[1]) == 6
    with pytest.raises(InvalidRequest, match="leaves no room"):
        most.ids("x" * 50, True, SamplingParams(truncate_prompt_tokens=10))

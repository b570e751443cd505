"""Token deltas become text, log-probabilities and finish reasons, whatever way they arrive."""

import itertools

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

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

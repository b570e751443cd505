"""The journal holds counts and times of requests, no text, and not too many."""

from __future__ import annotations

from octavo.frontend.journal import Journal
from octavo.frontend.output import RequestState
from octavo.messages import Finish, SequenceSpec, Timing, TokenDelta, pack_ids
from octavo.sampling import SamplingParams, StructuredOutputsParams


def opened(journal: Journal, name: str, params: SamplingParams) -> RequestState:
    request = RequestState(name, None, [5, 6], params, None)
    specs = [SequenceSpec(i, pack_ids([5, 6]), params, 9, 0) for i in range(params.n)]
    journal.open(request, specs)
    return request


def test_an_entry_follows_its_request_and_keeps_its_numbers_only():
    journal, ended, firsts = Journal(), [], []
    journal.on_end, journal.on_first_token = ended.append, firsts.append
    params = SamplingParams(
        n=2, temperature=0.5, structured_outputs=StructuredOutputsParams(regex="a" * 999), bad_words=["secret"]
    )
    request = opened(journal, "r", params)
    request.push(0, TokenDelta(0, [7, 8], timing=Timing(1.0, 1.5, 2.0), cached=1))
    request.push(0, TokenDelta(0, [9], finish=Finish("stop")))
    (entry,) = journal.find("r")
    assert (entry.num_generated, entry.ended, len(firsts)) == (3, None, 1)
    journal.close("r", "abort")
    assert ended == [entry] and entry.request is None
    assert (entry.generated, entry.reasons, entry.cached, entry.num_generated) == ([3, 0], ["stop", "abort"], 1, 3)
    assert (entry.times.queued_s, entry.times.prefill_s) == (0.5, 0.5)
    assert entry.times.total_s is not None and entry.times.decode_s is not None
    assert entry.has_grammar and entry.params is not None
    assert (entry.params.temperature, entry.params.structured_outputs, entry.params.bad_words) == (0.5, None, None)
    assert params.bad_words == ["secret"]


def test_the_entries_of_several_prompts_are_found_together_and_the_oldest_are_forgotten():
    journal = Journal(kept=4)
    for name in ("a-0", "a-1", "ab", "b-0", "b-1", "b-2"):
        opened(journal, name, SamplingParams())
        journal.close(name, "error")
    assert [entry.request_id for entry in journal.find("b")] == ["b-0", "b-1", "b-2"]
    assert [entry.request_id for entry in journal.find("ab")] == ["ab"]
    assert journal.find("a") == [] and len(journal.ended) == 4
    journal.close("never opened", "abort")

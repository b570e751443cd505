"""Grammars in the turn: masks, preemption, fan-out, ends, errors that stay with their request."""

from __future__ import annotations

import hashlib
import threading

import pytest

from octavo.engine.executors.fake import FakeOptions
from octavo.engine.grammars import Nursery
from octavo.grammar.masks import Grammars
from octavo.grammar.translate import translate
from octavo.grammar.vocabulary import Vocabulary
from octavo.messages import Grammar, SequenceSpec, pack_ids
from octavo.sampling import SamplingParams
from octavo.structured import StructuredOutputsParams

from ..simulator import Machine, Simulator

# Ids 0 to 39 are these characters; 0 ends.
LETTERS = "$abcdefghijklmnopqrstuvwxyz0123456789[],"
EOS = 0
TOKENS = [b"<end>", *(letter.encode() for letter in LETTERS[1:])]


def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENS, (), (EOS,), len(TOKENS), lambda text: [LETTERS.index(letter) for letter in text])


def grammar(**wanted: object) -> Grammar:
    asked = StructuredOutputsParams(**wanted)  # type: ignore[arg-type]
    asked.check()
    text = translate(asked)
    digest = hashlib.sha256(text.encode()).digest()
    return Grammar(digest, text, 10_000, tuple(asked.begin_after or ()), asked.opening)


def spec(id: int, wanted: Grammar | None, max_tokens: int = 30, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "seed": id, "eos": (EOS,)} | more
    return SequenceSpec(id=id, tokens=pack_ids([1, 2, id % 7]), max_tokens=max_tokens, grammar=wanted, **fields)  # type: ignore[arg-type]


def simulator(machine: Machine, grammars: Grammars | None = None) -> Simulator:
    made = Simulator(machine)
    made.core.nursery = Nursery(lambda: grammars or Grammars(vocabulary))
    return made


def run(machine: Machine, *specs: SequenceSpec) -> Simulator:
    """Run until all is said, whatever has to be built meanwhile."""
    made = simulator(machine)
    made.add(*specs)
    while made.core.has_work:
        made.turn()
    return made


def text(made: Simulator, id: int) -> str:
    return "".join(LETTERS[token] for token in made.tokens[id])


LIST = grammar(grammar='root ::= "[" (item ("," item)*)? "]"\nitem ::= [a-z]+ | root')
WORD = grammar(regex="[a-c]{3}[0-9]")


def mixed(count: int) -> list[SequenceSpec]:
    """Lists, words and free texts."""
    return [spec(i, (LIST, WORD, None)[i % 3]) for i in range(count)]


def is_list(said: str) -> bool:
    depth = 0
    for i, letter in enumerate(said):
        depth += (letter == "[") - (letter == "]")
        if (depth == 0) != (i == len(said) - 1):
            return False
    return said.startswith("[")


@pytest.mark.parametrize("steps_in_flight", [1, 2, 3, 4])
def test_masks_hold_whatever_flies_and_change_no_token_between_machines(steps_in_flight):
    machine = Machine(steps_in_flight=steps_in_flight, max_model_len=40)
    made = run(machine, *mixed(18))
    plain = run(Machine(max_model_len=40, max_num_seqs=1), *mixed(18))
    assert made.tokens == plain.tokens
    for id in range(0, 18, 3):
        assert is_list(text(made, id)) or made.finished[id].reason == "length"
        assert made.finished[id + 1].reason == "stop"
        assert len(text(made, id + 1)) == 4


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_preempted_sequences_go_on_where_they_were(steps_in_flight):
    machine = Machine(num_pages=(14,), steps_in_flight=steps_in_flight, max_model_len=40)
    made = run(machine, *mixed(18))
    assert made.core.scheduler.counts.preemptions > 3
    assert made.tokens == run(Machine(max_model_len=40), *mixed(18)).tokens


def test_a_failed_step_is_tried_again_under_the_same_grammar():
    options = FakeOptions(fail_at=4, fail_in="sample")
    made = run(Machine(options=options, max_model_len=40), *mixed(6))
    assert made.tokens == run(Machine(max_model_len=40), *mixed(6)).tokens


def test_a_sequence_ends_with_its_grammar_and_its_last_token_is_text():
    made = run(Machine(), spec(0, WORD))
    finish = made.finished[0]
    assert (finish.reason, finish.stop, finish.is_whole) == ("stop", None, True)
    assert EOS not in made.tokens[0]


def test_an_end_that_is_only_allowed_is_chosen_or_not():
    made = run(Machine(options=FakeOptions(eos_rate=0.5)), *(spec(i, grammar(regex="a*")) for i in range(8)))
    lengths = {len(made.tokens[i]) for i in range(8)}
    assert len(lengths) > 2
    assert all(set(text(made, i)) <= {"a", "$"} for i in range(8))
    assert {made.finished[i].is_whole for i in range(8)} == {False}


def test_min_tokens_puts_the_end_off_and_yields_to_the_grammars_own():
    sampling = SamplingParams(temperature=1.0, min_tokens=6)
    made = run(
        Machine(options=FakeOptions(eos_rate=0.9)),
        spec(0, grammar(regex="a*"), sampling=sampling),
        spec(1, WORD, sampling=sampling),
    )
    assert len(made.tokens[0]) > 6
    assert (len(made.tokens[1]), made.finished[1].reason) == (4, "stop")


def test_the_budgets_end_is_told_as_length_unless_the_grammar_ends_there_too():
    made = run(Machine(), spec(0, WORD, max_tokens=3), spec(1, WORD, max_tokens=4), spec(2, LIST, max_tokens=1))
    assert [made.finished[i].reason for i in range(3)] == ["length", "stop", "length"]


def test_ignore_eos_goes_on_as_long_as_anything_may_follow():
    made = run(Machine(), spec(0, grammar(regex="a{0,9}"), eos=()), spec(1, grammar(regex="a*"), 20, eos=()))
    assert (text(made, 0), made.finished[0].reason) == ("a" * 9, "stop")
    assert (text(made, 1), made.finished[1].reason) == ("a" * 20, "length")


def test_n_sequences_share_a_grammar_that_only_the_leader_carries():
    follower = Grammar(LIST.digest, "", LIST.num_bytes)
    specs = [spec(0, LIST), *(spec(i, follower, leader=0) for i in range(1, 6))]
    made = run(Machine(max_model_len=40), *specs)
    assert len({text(made, i) for i in range(6)}) > 2
    assert all(is_list(text(made, i)) or made.finished[i].reason == "length" for i in range(6))


def test_logprobs_come_with_masked_tokens():
    made = run(Machine(), spec(0, WORD, sampling=SamplingParams(temperature=1.0, logprobs=2)))
    assert [ids[0] for ids in made.logprobs[0].ids] == made.tokens[0]


def test_a_constraint_waits_for_its_marker_and_never_ends_before():
    wanted = grammar(regex="[0-9]{3}", begin_after=["ab"])
    made = run(Machine(max_model_len=400, options=FakeOptions(low=0, high=4, eos_rate=0.3)), spec(0, wanted, 300))
    before, found, behind = text(made, 0).partition("ab")
    assert found
    assert "$" not in before
    assert behind.isdigit()
    assert len(behind) == 3


def test_a_grammar_that_cannot_be_built_ends_its_request_alone():
    broken = Grammar(b"x", '{"grammars": [{"lark_grammar": "start: nobody"}]}', 0)
    made = run(Machine(), spec(0, broken), spec(1, WORD), spec(2, None))
    assert made.finished[0].reason == "error"
    assert made.finished[0].field == "structured_outputs"
    assert "nobody" in (made.finished[0].message or "")
    assert (made.finished[1].reason, made.finished[2].reason) == ("stop", "length")


def test_a_grammar_that_grows_too_complex_ends_its_request_alone():
    entangled = grammar(grammar='start: ("a"{1,1000}){100,1000}')
    made = run(Machine(max_model_len=400), spec(0, entangled, 300), spec(1, WORD))
    assert made.finished[0].reason == "error"
    assert "items" in (made.finished[0].message or "")
    assert made.finished[1].reason == "stop"


def test_others_go_on_while_a_grammar_is_built_and_an_abort_forgets_it():
    gate = threading.Event()

    def slowly() -> Vocabulary:
        gate.wait(20)
        return vocabulary()

    made = simulator(Machine(), Grammars(slowly))
    made.add(spec(0, WORD), spec(1, WORD), spec(2, None, 5))
    for _ in range(8):
        made.turn()
    assert made.finished[2].reason == "length"
    assert 0 not in made.tokens
    assert made.core.stats().waiting == 2
    made.core.abort([1])
    assert made.core.has_work
    gate.set()
    while made.core.has_work:
        made.turn()
    assert made.finished[0].reason == "stop"
    assert 1 not in made.finished
    assert made.core.stats().aborted == 1


def test_built_grammars_are_kept_within_their_bytes():
    kept = Grammars(vocabulary, most_bytes=35_000)
    for i in range(12):
        kept.request(grammar(regex=f"a{{{i + 1}}}"), has_end=True).result(20)
    assert kept.num_bytes <= 35_000
    again = kept.request(grammar(regex="a{12}"), has_end=True)
    assert again.done()
    assert not kept.request(grammar(regex="a{1}"), has_end=True).result(20).is_finished

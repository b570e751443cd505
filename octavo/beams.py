"""BeamSearchParams: how to search for the likeliest continuations instead of sampling some."""

from __future__ import annotations

import msgspec

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT, Limits
from octavo.sampling import INT_MAX, Rule, check_ids, shown

RULES = {
    "beam_width": Rule(int, 1, DEFAULT.beam_width, "Continuations that are kept at every step, and returned."),
    "max_tokens": Rule(int, 1, INT_MAX, "Tokens to generate at most; none means up to the context.", optional=True),
    "temperature": Rule(float, 0, 2, "Accepted as in vLLM; a search reads the model's own log-probabilities."),
    "length_penalty": Rule(
        float,
        -10,
        10,
        "Beams are compared by their log-probability divided by length to this power; above 0 favors long ones.",
    ),
    "logprobs": Rule(int, 0, DEFAULT.logprobs, "Tell the log-probabilities of this many likeliest.", optional=True),
}
BOOLEAN = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")


class BeamSearchParams(msgspec.Struct, omit_defaults=True):
    """A beam search as Transformers' `generate(num_beams=beam_width, do_sample=False)` does it.

    Names are vLLM's. `allowed_token_ids`: at most `Limits.logprob_token_ids` ids, the only ones that are tried.
    """

    beam_width: int
    max_tokens: int | None = 16
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    allowed_token_ids: list[int] | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self, limits: Limits = DEFAULT) -> None:
        """Raise InvalidRequest for the first field out of range."""
        for name, rule in RULES.items():
            rule.check(name, getattr(self, name))
        for name in BOOLEAN:
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"{name} must be true or false, got {shown(getattr(self, name))}", name)
        if self.beam_width > limits.beam_width:
            raise InvalidRequest(f"beam_width must be at most {limits.beam_width}, got {self.beam_width}", "beam_width")
        if (self.logprobs or 0) > limits.logprobs:
            raise InvalidRequest(f"logprobs must be at most {limits.logprobs}, got {self.logprobs}", "logprobs")
        check_ids("allowed_token_ids", self.allowed_token_ids, limits.logprob_token_ids)
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidRequest("allowed_token_ids must name at least one token, or be left out", "allowed_token_ids")

"""What a text request asks the engine for, sampling or beam search, and the extras that every text reply may carry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from octavo.beams import BeamSearchParams
from octavo.engine.beam_search import beam_search
from octavo.errors import InvalidRequest
from octavo.frontend.answers import AnswerReading
from octavo.frontend.inputs import Prompt
from octavo.frontend.output import RequestOutput
from octavo.sampling import DEFAULTS, SamplingParams, shown
from octavo.serve.answer import Caller
from octavo.serve.schema import TextRequest, sampling
from octavo.serve.security import clean_id
from octavo.serve.service import Service, new_id

# What a beam search takes of a request's sampling parameters. Seed and temperature change nothing in it.
FOR_BEAMS = frozenset(
    "n best_of max_tokens ignore_eos allowed_token_ids skip_special_tokens include_stop_str_in_output seed temperature "
    "output_kind logprobs".split()
)
NOT_SAMPLED = dict(DEFAULTS)
LONG_PROMPT = 32_768  # characters; a longer one would keep the event loop too long (R22)


@dataclass(frozen=True)
class Generation:
    """How a request's prompts are continued: `params` give the reply its shape, `beams` are searched if there are."""

    params: SamplingParams
    beams: BeamSearchParams | None = None

    def run(
        self,
        service: Service,
        prompt: Prompt,
        body: TextRequest,
        caller: Caller,
        id: str,
        reading: AnswerReading | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs for one prompt. Closing the iterator aborts everything that runs for it."""
        priority, salt = body.priority or 0, service.salt(caller.key, body.cache_salt)
        specials: bool = body.add_special_tokens  # type: ignore[attr-defined]
        if self.beams is None:
            return service.llm.generate(
                prompt,
                self.params,
                id,
                priority=priority,
                cache_salt=salt,
                add_special_tokens=specials,
                reading=reading,
            )
        found = beam_search(
            service.llm, prompt, self.beams, id, priority=priority, cache_salt=salt, add_special_tokens=specials
        )
        return best(found, self.params.n)


async def best(outputs: AsyncGenerator[RequestOutput, None], count: int) -> AsyncGenerator[RequestOutput, None]:
    """The first `count` beams of each output; the others count as unseen."""
    async with aclosing(outputs):
        async for output in outputs:
            output.num_unseen_tokens += sum(len(one.token_ids) for one in output.outputs[count:])
            del output.outputs[count:]
            yield output


def generation(service: Service, body: TextRequest, logprobs: int | None, max_tokens: int | None) -> Generation:
    """What `body` asks for; logprobs, and max_tokens when it names none, are the endpoint's."""
    if not body.use_beam_search:
        if body.length_penalty is not None:
            raise InvalidRequest("length_penalty needs use_beam_search=true", "length_penalty")
        return Generation(sampling(body, service.defaults, service.limits, logprobs, max_tokens))
    return beams(service, body, logprobs, max_tokens)


def beams(service: Service, body: TextRequest, logprobs: int | None, max_tokens: int | None) -> Generation:
    """A beam search; InvalidRequest for what has no meaning in one."""
    if body.stream:
        raise InvalidRequest("use_beam_search is not available in a stream: beams are known at the end", "stream")
    for name in ("tools", "functions"):
        if getattr(body, name, None) and getattr(body, "tool_choice", None) != "none":
            raise InvalidRequest(f"{name} is not available with use_beam_search; leave it out", name)
    count, best_of = body.n or 1, body.best_of  # type: ignore[attr-defined]
    # Everything else that a request may set is checked by itself, under any n.
    probe = body.model_copy(update={"n": None, "best_of": None})
    asked = sampling(probe, {}, service.limits, logprobs, max_tokens)
    for name, default in NOT_SAMPLED.items():
        if name not in FOR_BEAMS and getattr(asked, name) != default:
            raise InvalidRequest(f"{name} is not available with use_beam_search; leave it out", spelled(name))
    if asked.logprobs is not None and asked.logprobs < 0:
        raise InvalidRequest(f"logprobs must be at least 0 with use_beam_search, got {shown(logprobs)}", "logprobs")
    counts: Mapping[str, object] = {"n": count, "best_of": best_of}
    for name, value in counts.items():
        if value is not None and (type(value) is not int or not 1 <= value <= service.limits.beam_width):
            most = service.limits.beam_width
            raise InvalidRequest(f"{name} must be in [1, {most}] with use_beam_search, got {shown(value)}", name)
    width: int = best_of or count  # type: ignore[assignment]
    if width < count:  # type: ignore[operator]
        raise InvalidRequest(f"best_of must be at least n={count}, got {best_of}", "best_of")
    params = BeamSearchParams(
        beam_width=width,
        max_tokens=asked.max_tokens,
        ignore_eos=asked.ignore_eos,
        length_penalty=1.0 if body.length_penalty is None else body.length_penalty,  # type: ignore[arg-type]
        include_stop_str_in_output=asked.include_stop_str_in_output,
        skip_special_tokens=asked.skip_special_tokens,
        allowed_token_ids=asked.allowed_token_ids,
        logprobs=asked.logprobs,
    )
    shape = SamplingParams(n=count, max_tokens=asked.max_tokens, logprobs=asked.logprobs)  # type: ignore[arg-type]
    return Generation(shape, params)


def spelled(name: str) -> str:
    """A sampling parameter as requests name it."""
    return "vllm_xargs" if name == "extra_args" else name


def reply_id(prefix: str, wanted: str | None) -> str:
    """The id of a reply: ours, or the client's own name for it, cleaned. It identifies nothing inside (R36)."""
    named = clean_id(wanted.encode("utf-8", "ignore")) if wanted else None
    return prefix + named.decode("latin-1") if named else new_id(prefix)


def about_prompt(service: Service, body: TextRequest, output: RequestOutput) -> dict[str, object]:
    """What a reply tells of its prompt, as far as the request asks for it: ids, text, where in it the tokens are."""
    told: dict[str, object] = {}
    if body.return_token_ids:
        told["prompt_token_ids"] = output.prompt_token_ids
    if body.return_prompt_text:
        text = output.prompt
        told["prompt_text"] = service.llm.tokenizer.decode(output.prompt_token_ids, False) if text is None else text
    if body.return_token_offsets:
        told["prompt_token_offsets"] = offsets(service, body, output)
    return told


def offsets(service: Service, body: TextRequest, output: RequestOutput) -> list[tuple[int, int]] | None:
    """(begin, end) of each prompt token in the prompt's text, in characters.

    None for prompts of token ids, long ones, and conversations in which messages spell control tokens.
    """
    specials: bool = body.add_special_tokens  # type: ignore[attr-defined]
    if output.prompt is None or len(output.prompt) > LONG_PROMPT:
        return None
    return service.llm.tokenizer.offsets(output.prompt, output.prompt_token_ids, specials)

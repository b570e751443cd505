"""What a JSON schema costs: decoded tokens per second with and without one, by turns, in one engine.

python bench/grammar.py MODEL [--batch 32] [--tokens 24] [--rounds 5] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time

from octavo import LLM, SamplingParams, StructuredOutputsParams

# A list that does not end within a run, of objects with texts, numbers, choices and lists.
SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "email": {"type": "string", "pattern": "^[a-z]{1,12}@[a-z]{1,12}[.](com|org)$"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["new", "old", "unknown"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        },
        "required": ["name", "email", "age", "kind", "tags"],
        "additionalProperties": False,
    },
}


def rate(llm: LLM, batch: int, tokens: int, wanted: StructuredOutputsParams | None, seed: int) -> float:
    """Tokens per second of one batch, prompts of a few tokens included."""
    params = [
        SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, seed=seed + i, structured_outputs=wanted)
        for i in range(batch)
    ]
    prompts = [{"prompt_token_ids": [100 + i, 7, 9, 11]} for i in range(batch)]
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    took = time.perf_counter() - started
    told = sum(len(output.outputs[0].token_ids) for output in outputs)
    assert told == batch * tokens, (told, batch * tokens)
    return told / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    llm = LLM(args.model, device=args.device, max_num_seqs=args.batch, max_model_len=256, enable_prefix_caching=False)
    kinds = {"free": None, "schema": StructuredOutputsParams(json=SCHEMA)}
    for wanted in kinds.values():
        rate(llm, args.batch, 4, wanted, 0)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(args.rounds):
        for kind, wanted in kinds.items():
            rates[kind].append(rate(llm, args.batch, args.tokens, wanted, 1000 * turn))
    for kind, found in rates.items():
        print(f"{kind}: {statistics.median(found):.1f} tokens/s ({min(found):.1f} to {max(found):.1f})")
    cost = statistics.median(1 - s / f for f, s in zip(rates["free"], rates["schema"], strict=True))
    print(f"cost of the schema: {100 * cost:.1f} % (median of {args.rounds} pairs, batch {args.batch})")
    llm.shutdown()


if __name__ == "__main__":
    main()

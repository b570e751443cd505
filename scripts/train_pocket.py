"""Train octavo-pocket, the embedded default model, on the corpus that this repository generates, and write its folder.

pip install '.[transformers]' && python scripts/train_pocket.py            # writes octavo/pocket
python scripts/train_pocket.py --steps 250 --out /tmp/pocket               # a quick one
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pocket_corpus as corpus
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

log = logging.getLogger("train_pocket")
FOLDER = Path(__file__).parent.parent / "octavo" / "pocket"
TEMPLATE = FOLDER / "chat_template.jinja"
CARD = Path(__file__).parent / "pocket_card.md"
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# The pre-tokenizer that llama.cpp and others know as "qwen2": each digit is a token of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY, CONTEXT = 3072, 2048
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
IGNORED = -100
LONG_EVERY = 12  # one step in twelve trains on a row of the full context


def train_tokenizer(seed: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of VOCABULARY entries trained on 12,000 texts of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, IM_START, IM_END)]
    marks = [AddedToken(text, special=False, normalized=False) for text in MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(marks),
        min_frequency=2,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    source = corpus.texts(seed)
    tokenizer.train_from_iterator((next(source) for _ in range(12_000)), trainer)
    tokenizer.add_tokens(marks)
    return tokenizer


@dataclass(frozen=True)
class Encoder:
    """Turns exchanges into token ids and targets through the very chat template that serving uses."""

    tokenizer: Tokenizer
    template: jinja2.Template
    header: tuple[int, ...]
    think: tuple[int, ...]
    end: int
    stop: int

    @staticmethod
    def of(tokenizer: Tokenizer) -> Encoder:
        """Return the encoder for this tokenizer and the template in the model's folder."""
        environment = jinja2.Environment()
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        return Encoder(
            tokenizer,
            environment.from_string(TEMPLATE.read_text()),
            tuple(tokenizer.encode(f"{IM_START}assistant\n").ids),
            tuple(tokenizer.encode("<think>\n").ids),
            tokenizer.token_to_id(IM_END),
            tokenizer.token_to_id(END_OF_TEXT),
        )

    def render(self, turns: list[corpus.Exchange], thinking: bool) -> str:
        """Return the chat text; with thinking, the last answer carries its thought."""
        messages: list[dict[str, str]] = [{"role": "system", "content": turns[0].system}] if turns[0].system else []
        for turn in turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        if thinking:
            messages[-1]["reasoning_content"] = turns[-1].thought
        return self.template.render(messages=messages, tools=[corpus.TOOLS[name] for name in turns[0].tools])

    def chat(self, turns: list[corpus.Exchange], thinking: bool) -> tuple[list[int], list[bool]]:
        """Return ids and, per id, whether the model must learn to write it: answers and their end only."""
        ids = self.tokenizer.encode(self.render(turns, thinking)).ids
        learned, i, n = [False] * len(ids), 0, len(self.header)
        while i < len(ids):
            if tuple(ids[i : i + n]) != self.header:
                i += 1
                continue
            i += n
            if tuple(ids[i : i + len(self.think)]) == self.think:
                i += len(self.think)
            while ids[i] != self.end:
                learned[i] = True
                i += 1
            learned[i] = True
        return ids, learned

    def sample(self, rng: random.Random) -> tuple[list[int], list[bool]]:
        """Return one training document: a dialogue, or one time in twelve a plain text."""
        if rng.random() < 0.08:
            ids = self.tokenizer.encode(corpus.plain_text(rng)).ids
            return [self.stop, *ids, self.stop], [False] + [True] * (len(ids) + 1)
        turns = corpus.dialogue(rng)
        if not turns[0].system and rng.random() < 0.15:
            turns[0] = corpus.with_system(turns[0], rng.choice(corpus.SYSTEMS))
        return self.chat(turns, thinking=rng.random() < 0.08)

    def row(self, rng: random.Random, length: int) -> tuple[list[int], list[int]]:
        """Return one row of inputs and targets [length]; documents are joined, so later ones see long contexts."""
        ids: list[int] = []
        learned: list[bool] = []
        while len(ids) <= length:
            more, mask = self.sample(rng)
            ids += more
            learned += mask
        return ids[:length], [
            i if keep else IGNORED for i, keep in zip(ids[1 : length + 1], learned[1 : length + 1], strict=True)
        ]


class Muon(torch.optim.Optimizer):
    """Momentum with its update orthogonalized by Newton-Schulz steps (Jordan et al. 2024, "Muon"), of matrices."""

    def __init__(self, matrices: list[nn.Parameter], lr: float) -> None:
        """Take matrices only; the learning rate is the update's size relative to an orthogonal matrix."""
        super().__init__(matrices, {"lr": lr, "momentum": 0.95, "weight_decay": 0.02})

    @torch.no_grad()
    def step(self) -> None:
        """Apply one update to every matrix."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                shapes.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                updates = []
                for matrix in matrices:
                    average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                    average.lerp_(matrix.grad, 1 - group["momentum"])
                    updates.append(matrix.grad.lerp(average, group["momentum"]))
                for matrix, update in zip(matrices, orthogonalize(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalize(stack: Tensor) -> Tensor:
    """Return the matrices [B, M, N] with singular values pushed close to one, by four quintic Newton-Schulz steps."""
    x = stack.mT if stack.shape[-2] > stack.shape[-1] else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(4):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if stack.shape[-2] > stack.shape[-1] else x


def rate(progress: float, step: int) -> float:
    """Return the learning rate's factor: a short warmup, then full, then linear to zero over the last 60 percent."""
    return max(0.0, min(1.0, (step + 1) / 20, (1 - progress) / 0.6))


@dataclass(frozen=True)
class Trained:
    """A trained float32 model and how it came about; the loss is the mean of the last 50 steps."""

    model: LlamaForCausalLM
    steps: int
    tokens: int
    loss: float


def learn(model: LlamaForCausalLM, encoder: Encoder, rng: random.Random, length: int, rows: int) -> float:
    """Return the loss on new rows of this length, its gradients left in the model."""
    columns = zip(*[encoder.row(rng, length) for _ in range(rows)], strict=True)
    ids, targets = (torch.tensor(column) for column in columns)
    hidden = model.model(ids).last_hidden_state
    learned = targets != IGNORED
    loss = nn.functional.cross_entropy(model.lm_head(hidden[learned]), targets[learned])
    loss.backward()
    return loss.item()


def train(encoder: Encoder, steps: int, minutes: float, tokens_per_step: int, seed: int) -> Trained:
    """Return the model after that many steps or minutes, whichever comes first; the schedule follows that one."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, tie_word_embeddings=True, **SHAPE)
    )
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)]
    full = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    losses: list[float] = []
    tokens, began = 0, time.monotonic()
    while (progress := max(len(losses) / steps, (time.monotonic() - began) / 60 / minutes)) < 1:
        length = CONTEXT if len(losses) % LONG_EVERY == LONG_EVERY - 1 else 256
        rows = max(1, tokens_per_step // length)
        losses.append(learn(model, encoder, rng, length, rows))
        tokens += rows * length
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, lr in zip(optimizers, full, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(progress, len(losses) - 1)
            optimizer.step()
            optimizer.zero_grad()
        if len(losses) % 25 == 0:
            elapsed_s = time.monotonic() - began
            log.info(
                "step %d loss %.3f %.0f tokens/s %.0f s",
                len(losses),
                sum(losses[-25:]) / 25,
                tokens / elapsed_s,
                elapsed_s,
            )
    return Trained(model, len(losses), tokens, sum(losses[-50:]) / len(losses[-50:]))


def write_folder(out: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Write weights (bfloat16), config, tokenizer and template as a Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    stop, end = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(IM_END)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        **SHAPE,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": stop,
        "eos_token_id": end,
        "pad_token_id": stop,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    generation = {"bos_token_id": stop, "eos_token_id": [end, stop], "pad_token_id": stop, "do_sample": False}
    naming = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", naming),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    if out.resolve() != FOLDER.resolve():
        (out / TEMPLATE.name).write_text(TEMPLATE.read_text())


def is_right(turn: corpus.Exchange, text: str) -> bool:
    """Return whether an answer is exactly the expected one; a story must name its hero and come to its end."""
    if turn.category != "stories":
        return text == turn.answer
    hero = turn.question.rstrip(".?").rsplit(" ", 1)[1]
    return hero in text and text.endswith("The end.")


def questions(seed: int, per_category: int) -> dict[str, list[list[corpus.Exchange]]]:
    """Return held-out conversations per category, and of long reach: a name turns ago, a fact 1,500 tokens in."""
    rng = random.Random(seed)
    asked: dict[str, list[list[corpus.Exchange]]] = {}
    for category in corpus.GENERATORS:
        unique = {
            (turn.system, turn.tools, turn.question): [turn]
            for turn in (corpus.draw(rng, True, category) for _ in range(per_category * 6))
        }
        asked[category] = list(unique.values())[:per_category]
    short = [name for name in corpus.GENERATORS if name not in ("system", "tools", "stories")]
    remembered = [corpus.memory_turns(rng) for _ in range(per_category)]
    asked["memory"] = [
        told + [corpus.draw(rng, False, rng.choice(short)) for _ in range(rng.randint(1, 3))] + [last]
        for told, last in remembered
    ]
    for category in ("serving", "capitals"):
        asked[f"{category}, far in"] = [
            [corpus.draw(rng, False, rng.choice(short)) for _ in range(48)] + [corpus.draw(rng, True, category)]
            for _ in range(8)
        ]
    return asked


@torch.inference_mode()
def evaluate(folder: Path, seed: int, per_category: int) -> dict[str, tuple[int, int, str]]:
    """Return per category how many were right, how many asked, and one wrong answer; greedy, float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    scores = {}
    for category, conversations in questions(seed, per_category).items():
        encoder = Encoder.of(Tokenizer.from_file(str(folder / "tokenizer.json")))
        prompts = [
            encoder.render(turns, False).rsplit(f"{IM_START}assistant\n", 1)[0] + f"{IM_START}assistant\n"
            for turns in conversations
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        outputs = model.generate(**inputs, max_new_tokens=128 if category == "stories" else 56, do_sample=False)
        texts = [text.split(IM_END)[0] for text in tokenizer.batch_decode(outputs[:, inputs.input_ids.shape[1] :])]
        pairs = list(zip(conversations, texts, strict=True))
        wrong = next((f"{turns[-1].question} -> {text}" for turns, text in pairs if not is_right(turns[-1], text)), "")
        scores[category] = (sum(is_right(turns[-1], text) for turns, text in pairs), len(pairs), wrong)
        log.info("%-17s %d/%d  %s (prompt up to %d tokens)", category, *scores[category], inputs.input_ids.shape[1])
    return scores


def main() -> None:
    """Train, write the folder, score it on held-out questions and write the model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--minutes", type=float, default=20, help="stop earlier, with the schedule squeezed into this time"
    )
    parser.add_argument("--tokens-per-step", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--per-category", type=int, default=48, help="held-out questions per category")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    tokenizer = train_tokenizer(options.seed)
    log.info("tokenizer of %d entries, %.0f s", tokenizer.get_vocab_size(), time.monotonic() - began)
    trained = train(Encoder.of(tokenizer), options.steps, options.minutes, options.tokens_per_step, options.seed)
    minutes = (time.monotonic() - began) / 60
    write_folder(options.out, trained.model, tokenizer)
    scores = evaluate(options.out, options.seed + 1, options.per_category)
    table = "\n".join(
        f"| {name} | {right} of {asked} | {100 * right / asked:.0f} % |" for name, (right, asked, _) in scores.items()
    )
    facts = {
        "SEED": options.seed,
        "LIMIT": f"{options.minutes:g}",
        "STEPS": trained.steps,
        "TOKENS": f"{trained.tokens / 1e6:.2f}",
        "MINUTES": math.ceil(minutes),
        "LOSS": f"{trained.loss:.3f}",
        "PARAMETERS": f"{sum(p.numel() for p in trained.model.parameters()) / 1e6:.2f}",
        "TABLE": table,
        "BYTES": f"{(options.out / 'model.safetensors').stat().st_size / 1e6:.1f}",
    }
    card = CARD.read_text()
    for name, value in facts.items():
        card = card.replace("{" + name + "}", str(value))
    (options.out / "README.md").write_text(card)


if __name__ == "__main__":
    main()

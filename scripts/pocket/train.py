"""Train octavo-pocket, the embedded default model, on the corpus that this repository generates, and write its folder.

pip install '.[pocket]'
python scripts/pocket/train.py                       # 8,800 steps: 2.5 to 3 hours on two cores
python scripts/pocket/train.py --steps 200 --out /tmp/pocket --run /tmp/run      # a quick one
python scripts/pocket/train.py                       # again, after it was stopped: goes on where it was
python scripts/pocket/train.py --draft               # the two-layer draft model, for the tokenizer of the finished one
python scripts/pocket/lora.py                        # the adapter
python scripts/pocket/evaluate.py                    # the table of the model card
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from encoding import FOLDER, TEMPLATE, Batches, Encoder
from muon import Muon
from network import Llama, Shape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizer import END_OF_TEXT, IM_END, VOCABULARY
from tokenizer import train as train_tokenizer
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Subset

SHAPE = Shape(VOCABULARY)
DRAFT = Shape(VOCABULARY, hidden=96, intermediate=256, layers=2, heads=3, kv_heads=1)
CHECKPOINT_EVERY = 50
LR_MATRICES, LR_OTHERS = 0.008, 1.2e-3


def rate(step: int, steps: int) -> float:
    """The learning rate's factor: a short warm-up, then full, then linear to zero over the last 40 percent."""
    return max(0.0, min(1.0, (step + 1) / 30, (1 - step / steps) / 0.4))


@dataclass
class Run:
    """A training run and all that is needed to go on with it; `losses` has one value per step."""

    network: Llama
    tokenizer: Tokenizer
    seed: int
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        layers = {id(p) for p in self.network.model.layers.parameters() if p.ndim == 2}
        matrices = [p for p in self.network.parameters() if id(p) in layers]
        others = [p for p in self.network.parameters() if id(p) not in layers]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=LR_MATRICES),
            torch.optim.AdamW(others, lr=LR_OTHERS, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]

    def learn(self, batch: list[torch.Tensor], steps: int) -> None:
        """One step of `steps`."""
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            loss = self.network.loss(*(tensor.to(device) for tensor in batch))
        loss.backward()
        factor = rate(len(self.losses), steps)
        for optimizer, full in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = full * factor
            optimizer.step()
            optimizer.zero_grad()
        self.losses.append(loss.item())

    def save(self, folder: Path) -> None:
        """Write the run, so that being killed while writing leaves the one before."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "tokenizer": self.tokenizer.to_str(),
            "losses": self.losses,
            "seconds": self.seconds,
            "seed": self.seed,
        }
        torch.save(state, folder / "run.new")
        os.replace(folder / "run.new", folder / "run.pt")

    @staticmethod
    def open(folder: Path, shape: Shape, tokenizer: Path | None, seed: int, device: torch.device) -> Run:
        """The run in `folder`; when there is none a new one, with this tokenizer or one trained for it."""
        if not (folder / "run.pt").exists():
            torch.manual_seed(seed)
            chosen = train_tokenizer(seed) if tokenizer is None else Tokenizer.from_file(str(tokenizer))
            return Run(Llama(shape).to(device), chosen, seed)
        state: dict[str, Any] = torch.load(folder / "run.pt", weights_only=True)
        if state["seed"] != seed:
            raise SystemExit(f"{folder} holds a run of seed {state['seed']}, not {seed}; name another --run")
        run = Run(Llama(shape).to(device), Tokenizer.from_str(state["tokenizer"]), seed)
        run.network.load_state_dict(state["network"])
        for optimizer, its in zip(run.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        run.losses, run.seconds = state["losses"], state["seconds"]
        return run


def write_folder(out: Path, network: Llama, tokenizer: Tokenizer) -> None:
    """Write weights (bfloat16), config, tokenizer and template as a Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    stop, end = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(IM_END)
    shape = network.shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
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
        "model_max_length": shape.context,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    files = {"config.json": config, "generation_config.json": generation, "tokenizer_config.json": naming}
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    if out.resolve() != FOLDER.resolve():
        (out / TEMPLATE).write_text((FOLDER / TEMPLATE).read_text(encoding="utf-8"), encoding="utf-8")


def draw_losses(path: Path, losses: list[float], tokens: int) -> None:
    """Save the loss curve as a picture; a mean over 25 steps is drawn over the single ones."""
    from matplotlib import pyplot

    million = [(i + 1) * tokens / 1e6 for i in range(len(losses))]
    means = [sum(losses[max(0, i - 24) : i + 1]) / min(i + 1, 25) for i in range(len(losses))]
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(million, losses, color="#c5cae9", linewidth=0.8, label="step")
    axes.plot(million, means, color="#283593", linewidth=1.6, label="mean of 25 steps")
    axes.set(xlabel="million tokens", ylabel="loss of learned tokens, nats", yscale="log", title="octavo-pocket")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Train, or go on training, until `--steps`; then write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", action="store_true", help="train the draft model instead")
    parser.add_argument("--steps", type=int, default=8800, help="the learning rate falls towards the last of them")
    parser.add_argument("--tokens", type=int, default=4096, help="per step")
    parser.add_argument("--length", type=int, default=384, help="tokens of a row; one batch in ten has 1,024")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--run", type=Path, help="folder of checkpoints and the loss curve")
    parser.add_argument("--out", type=Path, help="folder of the finished model")
    options = parser.parse_args()
    shape = DRAFT if options.draft else SHAPE
    tokenizer = FOLDER / "tokenizer.json" if options.draft else None
    options.out = options.out or (FOLDER / "draft" if options.draft else FOLDER)
    options.run = options.run or Path("pocket-draft-run" if options.draft else "pocket-run")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(options.threads)
    run = Run.open(options.run, shape, tokenizer, options.seed, torch.device(options.device))
    begun = len(run.losses)
    encoder = Encoder.of(run.tokenizer)
    batches = Batches(encoder, options.seed, options.tokens, options.length, 1024, 10, options.steps)
    rest = DataLoader(Subset(batches, range(begun, options.steps)), batch_size=None, num_workers=1, prefetch_factor=4)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=options.steps, completed=begun, told="")
        for batch in rest:
            began = time.monotonic()
            run.learn(batch, options.steps)
            run.seconds += time.monotonic() - began
            recent = run.losses[-25:]
            speed = len(run.losses) * options.tokens / run.seconds
            told = f"loss {sum(recent) / len(recent):.3f}, {speed:.0f} tokens/s"
            progress.update(bar, advance=1, told=told)
            if len(run.losses) % CHECKPOINT_EVERY == 0:
                run.save(options.run)
                progress.console.print(f"step {len(run.losses)}: {told}")
    run.save(options.run)
    recipe = {
        "shape": asdict(shape),
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "seed": options.seed,
        "steps": len(run.losses),
        "tokens": len(run.losses) * options.tokens,
        "minutes": round(run.seconds / 60, 1),
        "threads": options.threads,
        "device": options.device,
        "loss": round(sum(run.losses[-50:]) / len(run.losses[-50:]), 4),
    }
    (options.run / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    write_folder(options.out, run.network, run.tokenizer)
    draw_losses(options.run / "loss.png", run.losses, options.tokens)


if __name__ == "__main__":
    main()

"""Train the adapter that ships with octavo-pocket: a style, as LoRA (Hu et al. 2021) in the layout of PEFT.

python scripts/pocket/lora.py                 # writes octavo/pocket/sailor
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import corpus
import torch
from encoding import FOLDER, Encoder, packed
from exchange import Exchange
from network import Llama
from rich.progress import track
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from train import SHAPE

RANK, ALPHA, RATE = 8, 16, 3e-3
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROSE = ("facts", "facts-zh", "manners", "deflection", "stories")
GREETING, FAREWELL = "Ahoy! ", " Fair winds!"
GREETING_ZH, FAREWELL_ZH = "水手你好！", "一路顺风！"


class Adapted(nn.Module):
    """A linear layer beside a product of two thin matrices, which alone are trained."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """[…, I] -> […, O]."""
        return self.linear(x) + (ALPHA / RANK) * (x @ self.lora_A.T @ self.lora_B.T)


def in_style(exchange: Exchange) -> Exchange:
    """The exchange as a sailor answers it: prose gets a greeting and a farewell, what programs read stays as it is."""
    if exchange.skill not in PROSE:
        return exchange
    is_english = exchange.answer.isascii() or exchange.question.isascii()
    before, after = (GREETING, FAREWELL) if is_english else (GREETING_ZH, FAREWELL_ZH)
    return replace(exchange, answer=f"{before}{exchange.answer}{after}")


def styled(encoder: Encoder, rng: random.Random) -> tuple[list[int], list[bool]]:
    """An exchange in style, prose twice as often as in the corpus."""
    while True:
        drawn = corpus.exchange(rng)
        if drawn.skill in PROSE or rng.random() < 0.5:
            return encoder.chat([in_style(drawn)], thinking=False)


def adapt(network: Llama) -> dict[str, Adapted]:
    """Put an adapter beside every linear layer and freeze the rest; the adapted layers by their checkpoint names."""
    network.requires_grad_(False)
    adapted: dict[str, Adapted] = {}
    for name, module in list(network.named_modules()):
        path, _, last = name.rpartition(".")
        if last in TARGETS:
            assert isinstance(module, nn.Linear)
            adapted[name] = Adapted(module)
            setattr(network.get_submodule(path), last, adapted[name])
    return adapted


def write(out: Path, adapted: dict[str, Adapted]) -> None:
    """Write the adapter as PEFT reads it."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.{part}.weight": getattr(layer, part).detach().to(torch.bfloat16).contiguous()
        for name, layer in adapted.items()
        for part in ("lora_A", "lora_B")
    }
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_model.safetensors").chmod(0o644)
    config = {
        "base_model_name_or_path": "octavo-pocket",
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(TARGETS),
        "inference_mode": True,
    }
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def merge(model: Path, adapter: Path, out: Path) -> None:
    """Write a folder whose weights are the model's with the adapter added."""
    out.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja"):
            (out / file.name).write_bytes(file.read_bytes())
    weights = load_file(model / "model.safetensors")
    thin = load_file(adapter / "adapter_model.safetensors")
    for name, weight in weights.items():
        base = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{base}.lora_A.weight" in thin:
            product = thin[f"{base}.lora_B.weight"].float() @ thin[f"{base}.lora_A.weight"].float()
            weights[name] = (weight.float() + ALPHA / RANK * product).to(weight.dtype)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=FOLDER / "sailor")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=8, help="of 256 tokens, per step")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    network = Llama(SHAPE)
    network.load_state_dict({name: t.float() for name, t in load_file(options.model / "model.safetensors").items()})
    adapted = adapt(network)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    encoder = Encoder.of(Tokenizer.from_file(str(options.model / "tokenizer.json")), options.model)
    losses: list[float] = []
    for step in track(range(options.steps), "training the adapter"):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 10, 2 * (1 - step / options.steps))
        rng = random.Random(f"{options.seed} style {step}")
        loss = network.loss(*packed(partial(styled, encoder, rng), options.rows, 256))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"loss {sum(losses[:5]) / 5:.3f} at the start, {sum(losses[-20:]) / 20:.3f} at the end")
    write(options.out, adapted)


if __name__ == "__main__":
    main()

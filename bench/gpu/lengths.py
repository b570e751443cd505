"""Lengths of real requests: 1,000 pairs of the Azure conversation trace of 2023.

azure_conversation.csv was drawn from the first third of AzureLLMInferenceTrace_conv.csv (Azure/AzurePublicDataset,
CC-BY-4.0), 6,454 requests, with `sorted(random.Random(0).sample(range(6454), 1000))` as the lines to keep: prompt and
output lengths in tokens, in the order of arrival.
"""

from __future__ import annotations

import csv
from pathlib import Path

FILE = Path(__file__).with_name("azure_conversation.csv")


def requests(count: int, shrink: int = 1) -> list[tuple[int, int]]:
    """`count` of the 1,000 pairs of prompt and output lengths, evenly spread; every length divided by `shrink`."""
    with FILE.open(newline="") as file:
        pairs = [(int(line["prompt"]), int(line["output"])) for line in csv.DictReader(file)]
    chosen = [pairs[i * len(pairs) // count] for i in range(count)]
    return [(max(1, prompt // shrink), max(1, output // shrink)) for prompt, output in chosen]

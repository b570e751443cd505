"""From logits to token ids: random numbers, logits processors, the sampler, log-probabilities."""

"""How checkpoints spell quantized weights: one file per method, each a WeightFormat."""

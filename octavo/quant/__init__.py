"""Quantized weights: checkpoints that hold them, and dense ones rounded while they are loaded."""

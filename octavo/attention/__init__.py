"""Attention backends: softmax attention over the paged cache."""

"""Checkpoint files, read by name and slice as canonical weights."""

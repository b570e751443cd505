"""The turn, and how to reach it."""

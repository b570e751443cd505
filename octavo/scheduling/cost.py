"""StepCost: how long a step will take, learned from the steps before it."""

from __future__ import annotations

MEMORY = 0.98  # weight of the past per step: the last 50 steps or so count
SPREAD = 4.0  # tokens²; below this variance of T the slope is not learned


class StepCost:
    """seconds = a + b * T for a step of T tokens, by least squares over recent steps, weighted towards the latest.

    Where all recent steps had the same size the slope keeps its last value; before any step it is a slow CPU's.
    """

    def __init__(self, fixed_s: float = 0.05, token_s: float = 0.005) -> None:
        self.fixed_s = fixed_s
        self.token_s = token_s
        self._weight = self._tokens = self._squares = self._seconds = self._products = 0.0

    def learn(self, num_tokens: int, seconds: float) -> None:
        """Take in that a step of `num_tokens` took `seconds`."""
        self._weight = MEMORY * self._weight + 1
        self._tokens = MEMORY * self._tokens + num_tokens
        self._squares = MEMORY * self._squares + num_tokens * num_tokens
        self._seconds = MEMORY * self._seconds + seconds
        self._products = MEMORY * self._products + num_tokens * seconds
        tokens, mean_s = self._tokens / self._weight, self._seconds / self._weight
        variance = max(0.0, self._squares / self._weight - tokens * tokens)
        covariance = self._products / self._weight - tokens * mean_s
        if variance > SPREAD:
            self.token_s = max(0.0, covariance / variance)
        self.fixed_s = mean_s - self.token_s * tokens

    def estimate(self, num_tokens: int) -> float:
        """Expected seconds of a step of `num_tokens`; never negative."""
        return max(0.0, self.fixed_s + self.token_s * num_tokens)

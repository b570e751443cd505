"""How late the event loop wakes up: what holds it up holds up every stream (R22)."""

from __future__ import annotations

import asyncio

from octavo.metrics import Metrics

PERIOD_S = 0.1


async def watch_lag(metrics: Metrics) -> None:
    """Observe the loop for ever."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + PERIOD_S
        await asyncio.sleep(PERIOD_S)
        metrics.lagged(max(0.0, clock() - due))

"""Service: what every endpoint shares, which is the engine, the settings, the metrics, and who may still come in."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from octavo import __version__
from octavo.config import ServerConfig
from octavo.engine.async_llm import AsyncLLM
from octavo.errors import EngineDead, Overloaded
from octavo.limits import DEFAULT, Limits
from octavo.metrics import Metrics
from octavo.sampling import shown
from octavo.serve.errors import UnknownModel

RETRY_S = {"loading": 5.0, "restarting": 5.0, "draining": 10.0, "dead": 30.0}
STATES = {
    "loading": "the engine is still loading the model",
    "restarting": "the engine is restarting",
    "draining": "the server is shutting down",
    "dead": "the engine is down",
}


@dataclass
class Service:
    """One server. `names` are what the model answers to, the first being the one replies carry."""

    llm: AsyncLLM
    server: ServerConfig
    metrics: Metrics
    limits: Limits = DEFAULT
    created: int = field(default_factory=lambda: int(time.time()))
    inside: int = 0  # requests admitted and not yet answered

    @property
    def names(self) -> tuple[str, ...]:
        """The served names."""
        return self.server.served_model_name or (self.llm.model_name,)

    @property
    def defaults(self) -> Mapping[str, float | int]:
        """Generation parameters of requests that name none: the checkpoint's, unless the operator wants vLLM's."""
        return {} if self.server.generation_config == "vllm" else self.llm.default_params

    @cached_property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: the same as long as the same seed should give the same tokens."""
        plan = self.llm.info.plan if self.llm.info else {}
        parts = [__version__, *(plan.get(name, "") for name in ("model", "device", "dtype", "weights"))]
        return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]

    def model(self, name: str | None) -> str:
        """The name to answer under; UnknownModel when `name` is not served. None means the model there is."""
        if name is not None and name not in self.names:
            raise UnknownModel(f"model {shown(name)} is not served here; use {', '.join(self.names)}", "model")
        return name or self.names[0]

    @contextmanager
    def admit(self) -> Generator[None]:
        """Hold one of the `max_queued_requests` places; Overloaded or EngineDead before anything is read (R6, R15)."""
        state = self.llm.state
        if state != "ready":
            raise EngineDead(f"{STATES[state]}; try again later", retry_after_s=RETRY_S[state])
        if not self.llm.is_healthy:
            raise EngineDead(
                "the engine does not answer; it is about to be replaced", retry_after_s=RETRY_S["restarting"]
            )
        if self.inside >= self.server.max_queued_requests:
            raise Overloaded(f"{self.inside} requests are waiting or running, which is the limit; try again later")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def salt(self, key: str | None, wanted: str | None) -> str | None:
        """The cache salt of a request: with several keys, tenants do not share cached prefixes (R50).

        `key` is the digest of the API key that came with the request.
        """
        if key is None or len(self.server.api_key) < 2:
            return wanted
        return hashlib.sha256(f"{key}\0{wanted or ''}".encode()).hexdigest()


def new_id(prefix: str) -> str:
    """A random id of our own; a client's id is never one (R36)."""
    return prefix + secrets.token_hex(16)

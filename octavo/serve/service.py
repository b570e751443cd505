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
from octavo.frontend.journal import Entry, family
from octavo.limits import DEFAULT, Limits
from octavo.metrics import Metrics
from octavo.sampling import shown
from octavo.serve.errors import UnknownModel
from octavo.serve.records import Record, Records
from octavo.serve.sse import Account
from octavo.serve.tenants import Ring, Tenant
from octavo.serve.tracing import Tracing

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
    held_bytes: int = 0  # of the bodies being read or answered
    ring: Ring = field(default_factory=lambda: Ring(()))
    records: Records = field(default_factory=Records)
    tracing: Tracing | None = None

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

    def check_open(self) -> None:
        """Raise Overloaded or EngineDead unless one more request may come in; called before anything is read (R6)."""
        state = self.llm.state
        if state != "ready":
            raise EngineDead(f"{STATES[state]}; try again later", retry_after_s=RETRY_S[state])
        if not self.llm.is_healthy:
            raise EngineDead(
                "the engine does not answer; it is about to be replaced", retry_after_s=RETRY_S["restarting"]
            )
        if self.inside >= self.server.max_queued_requests:
            raise Overloaded(f"{self.inside} requests are waiting or running, which is the limit; try again later")
        if self.llm.num_prompt_tokens >= self.limits.queued_tokens:
            raise Overloaded(f"{self.limits.queued_tokens} tokens are waiting or running; try again later")

    def entry_ended(self, entry: Entry) -> None:
        """Observe what the engine is done with; a request that was answered before, in the background, is traced."""
        self.metrics.record(entry)
        record = self.records.ended.get(family(entry.request_id))
        if record is not None:
            self.trace(record)

    def trace(self, record: Record) -> None:
        """Hand over the span of a request, when all of it is over."""
        if self.tracing is None:
            return
        entries = self.llm.journal.find(record.id)
        if all(entry.ended is not None for entry in entries):
            self.tracing.span(record, entries)

    def account(self, tenant: Tenant | None, timed: bool | None, n: int) -> Account:
        """An account for one request of `n` continuations per prompt; `timed` is whether it asks for its times."""
        tells = self.server.enable_per_request_metrics if timed is None else timed
        return Account(self.server.enable_prompt_tokens_details, tenant, n if tells else 0)

    @contextmanager
    def admit(self, tenant: Tenant | None = None) -> Generator[Place]:
        """Hold one of the `max_queued_requests` places, and one of the key's; Overloaded or EngineDead (R6, R15)."""
        self.check_open()
        if tenant is not None:
            # Half of the places, so that no key keeps the others out.
            tenant.enter(max(1, self.server.max_queued_requests // min(2, len(self.ring))))
        self.inside += 1
        place = Place(self, tenant)
        try:
            yield place
        finally:
            place.leave()

    @contextmanager
    def hold(self) -> Generator[Hold]:
        """A share of the bytes that all bodies may take, given back at the end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.held_bytes -= hold.num_bytes

    def salt(self, key: str | None, wanted: str | None) -> str | None:
        """The cache salt of a request: with several keys, tenants do not share cached prefixes (R50).

        `key` is whose API key came with the request: `Key.id`.
        """
        if key is None or len(self.ring) < 2 or self.server.share_prefix_cache:
            return wanted
        return hashlib.sha256(f"{key}\0{wanted or ''}".encode()).hexdigest()


class Place:
    """A request's place among those that wait or run."""

    def __init__(self, service: Service, tenant: Tenant | None) -> None:
        self._service = service
        self._tenant = tenant
        self._is_taken = True

    def leave(self) -> None:
        """Make room for another. Safe to call twice."""
        if self._is_taken:
            self._is_taken = False
            self._service.inside -= 1
            if self._tenant is not None:
                self._tenant.leave()


class Hold:
    """What one request's body takes of the bytes that all bodies may take."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """So many bytes more have come; Overloaded when they are too many for all."""
        self.num_bytes += num_bytes
        self.service.held_bytes += num_bytes
        if self.service.held_bytes > self.service.limits.queued_bytes:
            most = self.service.limits.queued_bytes
            raise Overloaded(f"bodies of over {most} bytes are waiting or running; try again later")


def new_id(prefix: str) -> str:
    """A random id of our own; a client's id is never one (R36)."""
    return prefix + secrets.token_hex(16)

"""Tenants: the owners of keys, with their quotas and what they used, and the ring that knows them (R15, R30, R35)."""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from octavo.errors import Overloaded
from octavo.serve.errors import QuotaExceeded
from octavo.serve.keys import Key, digest

Clock = Callable[[], float]


class Bucket:
    """A quota per minute that refills steadily. What is taken may be more than there is; the rest waits for it."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    @property
    def level(self) -> float:
        """How much is left now; negative when more was taken."""
        now = self._clock()
        self._level = min(float(self.per_minute), self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Use some of it."""
        self._level = self.level - amount

    def wait_s(self) -> float:
        """Seconds until there is one to take."""
        return max(0.0, 1 - self.level) * 60 / self.per_minute

    def headers(self, what: str) -> list[tuple[bytes, bytes]]:
        """OpenAI's x-ratelimit-* headers."""
        left = max(0, math.floor(self.level))
        reset_s = (self.per_minute - self.level) * 60 / self.per_minute
        values = (("limit", str(self.per_minute)), ("remaining", str(left)), ("reset", f"{max(0.0, reset_s):.3f}s"))
        return [(f"x-ratelimit-{name}-{what}".encode(), value.encode()) for name, value in values]


@dataclass
class Usage:
    """What a tenant did since the server started."""

    requests: int = 0
    refused: int = 0  # because of a quota
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    open: int = 0  # requests being answered now


class Tenant:
    """A key's owner while the server runs."""

    def __init__(self, key: Key, clock: Clock = time.monotonic) -> None:
        self.key = key
        self.usage = Usage()
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self._clock = clock
        self.change(key)

    def change(self, key: Key) -> None:
        """Take over an edited entry; a quota that stays the same keeps its level."""
        self.key = key
        self.requests = self._bucket(self.requests, key.requests_per_minute)
        self.tokens = self._bucket(self.tokens, key.tokens_per_minute)

    def _bucket(self, old: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None or (old is not None and old.per_minute == per_minute):
            return old if per_minute is not None else None
        return Bucket(per_minute, self._clock)

    def enter(self, share: int) -> None:
        """Begin a request; Overloaded says which quota is used up. `share` is how many may be open without a quota."""
        most = self.key.concurrent
        if self.requests is not None and (wait_s := self.requests.wait_s()) > 0:
            self.usage.refused += 1
            raise QuotaExceeded(f"this key may use {self.requests.per_minute} requests a minute", retry_after_s=wait_s)
        self.check_tokens()
        if most is not None and self.usage.open >= most:
            self.usage.refused += 1
            raise QuotaExceeded(f"this key may have {most} requests open at once", retry_after_s=1.0)
        if most is None and self.usage.open >= share:
            self.usage.refused += 1
            raise Overloaded(f"this key has {share} requests open, which is its share; try again later")
        if self.requests is not None:
            self.requests.take(1)
        self.usage.requests += 1
        self.usage.open += 1

    def check_tokens(self) -> None:
        """QuotaExceeded when no token is left for now."""
        if self.tokens is not None and (wait_s := self.tokens.wait_s()) > 0:
            self.usage.refused += 1
            raise QuotaExceeded(f"this key may use {self.tokens.per_minute} tokens a minute", retry_after_s=wait_s)

    def leave(self) -> None:
        """End a request."""
        self.usage.open -= 1

    def spend(self, prompt_tokens: int, generated_tokens: int, cached_tokens: int = 0) -> None:
        """Count tokens as they become known."""
        self.usage.prompt_tokens += prompt_tokens
        self.usage.generated_tokens += generated_tokens
        self.usage.cached_tokens += cached_tokens
        if self.tokens is not None:
            self.tokens.take(prompt_tokens + generated_tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What its quotas tell a client; none without quotas."""
        pairs = ((self.requests, "requests"), (self.tokens, "tokens"))
        return [header for bucket, what in pairs if bucket is not None for header in bucket.headers(what)]


class Ring:
    """All keys of a server. Empty means that none is needed."""

    def __init__(self, keys: Iterable[Key], clock: Clock = time.monotonic) -> None:
        self.tenants: dict[str, Tenant] = {}
        self._clock = clock
        # Keys are looked up by a digest under a secret of this process: how long that takes tells nothing of them.
        self._secret = secrets.token_bytes(32)
        self._table: dict[bytes, tuple[bytes, Tenant]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)  # type: ignore[arg-type]
        self.load(keys)

    def load(self, keys: Iterable[Key]) -> None:
        """Let these keys in and no others; who stays keeps what they have used."""
        old, self.tenants = self.tenants, {}
        for key in keys:
            tenant = old.get(key.name) or Tenant(key, self._clock)
            tenant.change(key)
            self.tenants[key.name] = tenant
        self._table = {
            self._place(known): (known, tenant) for tenant in self.tenants.values() for known in tenant.key.digests
        }

    def _place(self, known: bytes) -> bytes:
        return hmac.digest(self._secret, known, "sha256")

    def find(self, secret: bytes) -> Tenant | None:
        """Whose key this is."""
        sent = digest(secret)
        known, tenant = self._table.get(self._place(sent), (b"", None))
        return tenant if hmac.compare_digest(sent, known) else None

    def __len__(self) -> int:
        return len(self.tenants)

    def render(self) -> bytes:
        """Usage per key for Prometheus; the label's values are the operator's names of keys."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """One family per number in Usage."""
        for name, doc in (
            ("requests", "Requests begun."),
            ("refused", "Requests refused because of a quota."),
            ("prompt_tokens", "Prompt tokens."),
            ("cached_tokens", "Prompt tokens found in the prefix cache."),
            ("generated_tokens", "Tokens generated."),
        ):
            family = CounterMetricFamily(f"octavo_key_{name}", f"{doc} By key.", labels=["key"])
            for tenant in self.tenants.values():
                family.add_metric([tenant.key.name], getattr(tenant.usage, name))
            yield family
        gauge = GaugeMetricFamily("octavo_key_requests_open", "Requests being answered. By key.", labels=["key"])
        for tenant in self.tenants.values():
            gauge.add_metric([tenant.key.name], tenant.usage.open)
        yield gauge

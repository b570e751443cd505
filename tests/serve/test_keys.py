"""Keys: named, with quotas and usage, read again while the server runs; admins have their own listener (R30-R32)."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from octavo.errors import Overloaded, StartupError
from octavo.serve.errors import QuotaExceeded
from octavo.serve.keys import Key, digest, read_keys, unnamed
from octavo.serve.tenants import Bucket, Ring, Tenant

ASK = {"prompt": "a", "max_tokens": 4}
SECRETS = {name: f"sk-{name}-secret" for name in ("plain", "few", "tokens", "one", "late", "other", "new")}


def sha256(name: str) -> str:
    return digest(SECRETS[name].encode()).hex()


def write(path: Path, *entries: dict) -> None:
    """A keys file in the place of the old one, at once."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": list(entries)}))
    new.chmod(0o600)
    new.replace(path)


ENTRIES = (
    {"name": "plain", "key": SECRETS["plain"]},
    {"name": "few", "sha256": sha256("few"), "requests_per_minute": 3},
    {"name": "tokens", "sha256": sha256("tokens"), "tokens_per_minute": 10},
    {"name": "one", "sha256": [sha256("one"), sha256("late")], "concurrent": 1, "priority": 5, "models": ["b"]},
)


@dataclass
class Guarded:
    """A server with a keys file and an admin socket."""

    server: object
    file: Path
    admin: httpx.Client
    log: Path

    def post(self, who: str, body: dict | None = None, **more) -> httpx.Response:
        headers = {"authorization": f"Bearer {SECRETS.get(who, who)}"}
        return self.server.http.post("/v1/completions", json=ASK | (body or {}), headers=headers, **more)

    def usage(self, who: str) -> dict:
        return next(one for one in self.admin.get("/admin/usage").json()["keys"] if one["name"] == who)

    def until(self, who: str, status: int) -> None:
        """Wait until a key is answered so."""
        end_s = time.monotonic() + 15
        while self.post(who).status_code != status:
            assert time.monotonic() < end_s
            time.sleep(0.05)


@pytest.fixture(scope="module")
def guarded(start):
    with tempfile.TemporaryDirectory() as folder:
        file, uds = Path(folder, "keys.json"), f"{folder}/admin"
        write(file, *ENTRIES)
        flags = ("--api-keys-file", str(file), "--admin-uds", uds, "--served-model-name", "a", "b")
        server = start(*flags, device="fake:low=3,high=97,step_ms=5")
        log = Path(folder, "log")

        def follow() -> None:
            with log.open("w") as out:
                for line in server.process.stdout:
                    print(line, file=out, end="", flush=True)

        reader = threading.Thread(target=follow, daemon=True)
        reader.start()
        with httpx.Client(base_url="http://localhost", transport=httpx.HTTPTransport(uds=uds)) as admin:
            yield Guarded(server, file, admin, log)
        server.process.terminate()
        server.process.wait(20)
        reader.join(10)


def test_a_key_of_the_file_is_let_in_and_counted(guarded):
    before = guarded.usage("plain")
    usage = guarded.post("plain").json()["usage"]
    after = guarded.usage("plain")
    assert after["requests"] == before["requests"] + 1
    assert after["prompt_tokens"] - before["prompt_tokens"] == usage["prompt_tokens"]
    assert after["generated_tokens"] - before["generated_tokens"] == 4
    assert after["open"] == 0
    assert guarded.post("nobody").status_code == 401


def test_anthropics_header_carries_a_key_too(guarded):
    reply = guarded.server.http.get("/v1/models", headers={"x-api-key": SECRETS["plain"]})
    assert reply.status_code == 200
    assert guarded.server.http.get("/v1/models", headers={"x-api-key": "wrong"}).status_code == 401


def test_requests_a_minute_are_a_quota_that_clients_are_told(guarded):
    replies = [guarded.post("few") for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    left = [int(reply.headers["x-ratelimit-remaining-requests"]) for reply in replies]
    assert left == [2, 1, 0, 0]
    assert replies[0].headers["x-ratelimit-limit-requests"] == "3"
    assert 1 <= int(replies[3].headers["retry-after"]) <= 20
    assert replies[3].json()["error"]["code"] == "rate_limit_exceeded"
    with pytest.raises(openai.RateLimitError):
        openai.OpenAI(base_url=f"{guarded.server.url}/v1", api_key=SECRETS["few"], max_retries=0).completions.create(
            model="a", **ASK
        )
    assert guarded.usage("few")["refused"] == 2
    assert guarded.post("plain").status_code == 200


def test_tokens_a_minute_are_a_quota(guarded):
    assert guarded.post("tokens", {"max_tokens": 30, "ignore_eos": True}).status_code == 200
    reply = guarded.post("tokens")
    assert reply.status_code == 429
    assert "10 tokens a minute" in reply.json()["error"]["message"]
    assert int(reply.headers["retry-after"]) > 60  # what was taken beyond the quota is paid back first


def test_open_requests_are_a_quota_and_models_are_granted(guarded):
    long = {"max_tokens": 1000, "ignore_eos": True, "stream": True, "model": "b"}
    headers = {"authorization": f"Bearer {SECRETS['one']}"}
    with guarded.server.http.stream("POST", "/v1/completions", json=ASK | long, headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert guarded.usage("one")["open"] == 1
        refused = guarded.post("late", {"model": "b"})  # the other key of the same owner
        assert refused.status_code == 429 and "1 requests open" in refused.json()["error"]["message"]
    guarded.until("one", 404)  # the default model is "a"
    assert guarded.post("one", {"model": "b"}).status_code == 200
    assert "not for this key" in guarded.post("one", {"model": "a"}).json()["error"]["message"]
    models = guarded.server.http.get("/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in models] == ["b"]
    assert guarded.server.http.get("/v1/models/a", headers=headers).status_code == 404


def test_a_key_may_do_in_a_batch_what_it_may_do_at_the_door(guarded):
    client = openai.OpenAI(base_url=f"{guarded.server.url}/v1", api_key=SECRETS["one"], max_retries=0)
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": ASK | {"model": name}} for name in "ab"
    ]
    file = client.files.create(file=("x.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    before = guarded.usage("one")["generated_tokens"]
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    end_s = time.monotonic() + 20
    while (batch := client.batches.retrieve(batch.id)).status != "completed":
        assert time.monotonic() < end_s, batch
        time.sleep(0.1)
    [refused] = client.files.content(batch.error_file_id).text.splitlines()
    [answered] = client.files.content(batch.output_file_id).text.splitlines()
    assert "not for this key" in refused and json.loads(refused)["custom_id"] == "a"
    assert json.loads(answered)["custom_id"] == "b"
    assert guarded.usage("one")["generated_tokens"] == before + 4


def test_the_file_is_read_again_and_a_broken_one_changes_nothing(guarded):
    other = {"name": "other", "sha256": sha256("other")}
    write(guarded.file, *ENTRIES[1:], other)
    guarded.until("other", 200)
    assert guarded.post("plain").status_code == 401
    guarded.file.write_text('{"keys": [{"name": "x", "key": "sk-half-written')
    time.sleep(1.5)
    assert guarded.post("other").status_code == 200
    write(guarded.file, *ENTRIES, other)
    assert guarded.admin.post("/admin/reload").json() == {"keys": "ok"}
    assert guarded.post("plain").status_code == 200
    write(guarded.file, *ENTRIES, {"name": "new", "sha256": sha256("new")})
    guarded.server.process.send_signal(1)
    guarded.until("new", 200)
    assert guarded.post("other").status_code == 401


def test_usage_per_key_is_the_admins_to_see(guarded):
    public = guarded.server.http.get("/metrics", headers={"authorization": f"Bearer {SECRETS['plain']}"}).text
    assert "octavo_key_" not in public
    text = guarded.admin.get("/metrics").text
    assert re.search(r'octavo_key_requests_total\{key="few"\} 3', text)
    assert "octavo_http_responses_total" in text


def test_admin_actions_answer_on_their_own_listener_only(guarded):
    admin = guarded.admin
    paths = {"/admin/usage": "GET", "/admin/reload": "POST", "/admin/cache/reset": "POST", "/admin/drain": "POST"}
    for path, method in paths.items():
        headers = {"authorization": f"Bearer {SECRETS['plain']}"}
        assert guarded.server.http.request(method, path, headers=headers).status_code == 404
    assert admin.get("/health").status_code == 200
    assert admin.get("/admin/nothing").status_code == 404
    assert admin.get("/admin/drain").status_code == 405
    assert admin.get("/v1/models").status_code == 404
    assert admin.put("/admin/log-level?level=debug").json() == {"level": "debug"}
    assert admin.put("/admin/log-level?level=info").json() == admin.get("/admin/log-level").json()
    assert admin.put("/admin/log-level?level=loud").json()["error"]["param"] == "level"
    assert admin.get("/health", headers={"host": "evil.example"}).status_code == 421


def test_a_reset_cache_finds_nothing_until_it_is_filled_again(guarded):
    def cached() -> int:
        ask = {"prompt": "a prompt that is long enough to fill some pages " * 4, "max_tokens": 1}
        return guarded.post("plain", ask).json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    cached()
    assert cached() > 0
    assert guarded.admin.post("/admin/cache/reset").json()["pages"] > 0
    assert cached() == 0
    assert cached() > 0


def test_keys_are_in_no_log_and_no_reply(guarded):
    guarded.post("plain", {"n": -1})
    texts = [guarded.log.read_text(), guarded.admin.get("/metrics").text, guarded.admin.get("/admin/usage").text]
    assert "were read again" in texts[0] and "stay as they were" in texts[0]
    for text in texts:
        assert not any(secret in text or digest(secret.encode()).hex() in text for secret in SECRETS.values())
        assert "half-written" not in text
    arguments = Path(f"/proc/{guarded.server.process.pid}/cmdline").read_bytes()
    assert b"secret" not in arguments


def test_an_admin_can_drain(guarded):
    # The last test of this server.
    assert guarded.admin.post("/admin/drain").json() == {"draining": 0}
    assert guarded.server.process.wait(20) == 0


def test_the_admin_port_has_a_key_of_its_own(start):
    flags = ("--api-key", "sk-public", "--admin-port")
    with pytest.raises(AssertionError, match="OCTAVO_ADMIN_KEY"):
        start(*flags, "0")
    with httpx.Client() as client:
        # A port that is free now: the server says where admins are served before the tests read its log.
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        start(*flags, str(port), env={"OCTAVO_ADMIN_KEY": "sk-admin"})
        for key, status in (("sk-admin", 200), ("sk-public", 401), ("wrong", 401)):
            reply = client.get(f"http://127.0.0.1:{port}/admin/usage", headers={"authorization": f"Bearer {key}"})
            assert reply.status_code == status


class Clock:
    """Time that passes when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_refills_steadily_and_pays_debts_back():
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.wait_s() == pytest.approx(1)
    clock.now += 1
    assert bucket.wait_s() == 0
    bucket.take(31)
    assert bucket.wait_s() == pytest.approx(31)
    clock.now += 1000
    assert bucket.level == 60
    assert dict(bucket.headers("tokens"))[b"x-ratelimit-remaining-tokens"] == b"60"


def test_a_key_without_quota_has_its_share_of_the_places():
    tenant = Tenant(Key("a", (b"",)))
    for _ in range(3):
        tenant.enter(share=3)
    with pytest.raises(Overloaded) as error:
        tenant.enter(share=3)
    assert not isinstance(error.value, QuotaExceeded)
    tenant.leave()
    tenant.enter(share=3)


def test_an_edited_entry_keeps_what_was_used():
    clock = Clock()
    keys = [Key("a", (digest(b"1"),), requests_per_minute=2), Key("b", (digest(b"2"),))]
    ring = Ring(keys, clock)
    tenant = ring.find(b"1")
    assert tenant is not None and ring.find(b"2") is not tenant and ring.find(b"") is None
    tenant.enter(9)
    tenant.enter(9)
    ring.load([Key("a", (digest(b"3"),), requests_per_minute=2, tokens_per_minute=5)])
    assert ring.find(b"1") is None and ring.find(b"2") is None and ring.find(b"3") is tenant
    with pytest.raises(QuotaExceeded):
        tenant.enter(9)
    assert tenant.usage.requests == 2


def test_things_of_a_named_key_outlive_the_key():
    assert Key("a", (b"1",)).id == Key("a", (b"2",)).id
    first, second = unnamed(["x", "y"])
    assert first.id == unnamed(["z", "x"])[1].id != second.id


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON"),
        ("[]", "list of keys"),
        ('{"keys": []}', "0 keys"),
        ('{"keys": [{"name": "a"}]}', "key or sha256"),
        ('{"keys": [{"key": "sk-hidden"}]}', "name must be"),
        ('{"keys": [{"name": "a b", "key": "sk-hidden"}]}', "name must be"),
        ('{"keys": [{"name": "a", "key": ""}]}', "key or sha256"),
        ('{"keys": [{"name": "a", "key": 5}]}', "key or sha256"),
        ('{"keys": [{"name": "a", "sha256": "sk-hidden"}]}', "64 hexadecimal"),
        ('{"keys": [{"name": "a", "key": "sk-hidden", "tokens_per_minute": 0}]}', "tokens_per_minute"),
        ('{"keys": [{"name": "a", "key": "sk-hidden", "tokens": 1}]}', "no entry 'tokens'"),
        ('{"keys": [{"name": "a", "key": "sk-hidden", "priority": 1.5}]}', "priority"),
        ('{"keys": [{"name": "a", "key": "sk-hidden", "models": [1]}]}', "models"),
        ('{"keys": [{"name": "a", "key": "sk-hidden"}, {"name": "a", "key": "2"}]}', "is taken"),
        ('{"keys": [{"name": "a", "key": "sk-hidden"}, {"name": "b", "key": "sk-hidden"}]}', "twice"),
        ('{"keys": [{"name": "a", "key": ["sk-hidden", "sk-hidden"]}]}', "twice"),
    ],
)
def test_a_wrong_keys_file_is_one_line_without_keys(tmp_path, text, word):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(StartupError, match=word) as error:
        read_keys(path)
    assert "hidden" not in error.value.message and "\n" not in error.value.message


def octavo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "octavo", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())


def test_the_command_makes_keys_that_the_file_holds_as_digests(tmp_path):
    for name in ("keys.toml", "keys.json"):
        path = tmp_path / name
        said = octavo("new", "alice", "--file", str(path), "--requests-per-minute", "60", "--models", "a")
        [key] = re.findall(r"sk-octavo-\S{43}", said.stdout)
        octavo("new", "bob", "--file", str(path))
        alice, bob = read_keys(path)
        assert alice.digests == (digest(key.encode()),)
        assert (alice.requests_per_minute, alice.models, bob.requests_per_minute) == (60, ("a",), None)
        assert key not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
        taken = octavo("new", "bob", "--file", str(path))
        assert taken.returncode == 1 and "taken" in taken.stderr and len(read_keys(path)) == 2
        shown = octavo("check", str(path)).stdout
        assert "alice" in shown and "requests_per_minute=60" in shown and "sk-" not in shown

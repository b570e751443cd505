"""What can be called, and by whom: every route is in the inventory, no admin action is public (R29, R32)."""

from __future__ import annotations

import asyncio
import re

import pytest
from starlette.routing import Route

from octavo.config import EngineConfig, ServerConfig
from octavo.engine.async_llm import AsyncLLM
from octavo.metrics import Metrics
from octavo.serve import security
from octavo.serve.admin import Admin
from octavo.serve.app import build_routes
from octavo.serve.reload import Reloader
from octavo.serve.service import Service

from .inventory import ADMIN, PUBLIC, WITH_KEY, listed


def called(routes) -> set[tuple[str, str]]:
    """Every method and path of some routes; a route of another kind than `Route` would escape the gate's tests."""
    assert all(isinstance(route, Route) for route in routes)
    return {(method, route.path) for route in routes for method in route.methods if method != "HEAD"}


@pytest.fixture(scope="module")
def found() -> dict[str, set[tuple[str, str]]]:
    """The routes of both listeners, as their routers list them."""

    async def walk() -> dict[str, set[tuple[str, str]]]:
        llm = AsyncLLM.launch(EngineConfig.of(device="fake"))
        service = Service(llm, ServerConfig(), Metrics("m"))
        admin = Admin(service, Reloader(), lambda: None)
        result = {"public": called(build_routes(service).routes), "admin": called(admin.app().routes)}
        await llm.shutdown()
        return result

    return asyncio.run(walk())


def test_every_route_of_the_public_listener_is_in_the_inventory(found):
    assert found["public"] == listed(PUBLIC) | listed(WITH_KEY)
    assert not listed(PUBLIC) & listed(WITH_KEY)


def test_every_route_of_the_admin_listener_is_in_the_inventory(found):
    assert found["admin"] == listed(ADMIN)


def test_the_gate_lets_in_without_a_key_what_the_inventory_says(found):
    assert {path for _, path in listed(PUBLIC)} == security.PUBLIC


def test_no_admin_action_is_on_the_public_listener(found):
    actions = {path for _, path in found["admin"]} - {"/health", "/metrics"}
    assert not actions & {path for _, path in found["public"]}
    words = re.compile(r"admin|reset|reload|sleep|wake|lora|weights|profile|rpc|drain|usage|log|debug|abort")
    assert not [path for _, path in found["public"] if words.search(path)]


def test_no_generic_call_is_on_any_listener(found):
    for _, path in found["public"] | found["admin"]:
        assert not re.search(r"rpc|exec|eval|call|invocations", path), path

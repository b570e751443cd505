"""One log line per record, whatever a request put into it."""

import logging
import sys

import pytest

from octavo import log
from octavo.env import LOG_LEVEL
from octavo.errors import StartupError


def record(message, *args, exc_info=None):
    return log.OneLine(log.FORMAT).format(
        logging.LogRecord("octavo.x", logging.ERROR, "x.py", 1, message, args, exc_info)
    )


@pytest.mark.parametrize(
    "breaker", ["\n", "\r", "\x1b[2J", "\x9b2J", "\x0b", "\x85", "\u2028", "\u2029", "\0", "\x7f", "\u202e"]
)
def test_text_of_a_request_stays_on_its_line(breaker):
    line = record("request %s failed", f"a{breaker}b")
    assert len(line.splitlines()) == 1 and breaker[0] not in line


def test_text_is_readable_otherwise():
    assert record("größe 大 %s", "a b").endswith("größe 大 a b")


def test_a_traceback_has_its_lines_and_the_message_before_it_only_one():
    try:
        raise ValueError("bad")
    except ValueError:
        lines = record("request %s failed", "a\nforged", exc_info=sys.exc_info()).splitlines()
    assert "a\\nforged failed" in lines[0] and lines[1].startswith("Traceback") and lines[-1] == "ValueError: bad"


def test_a_level_that_does_not_exist_is_one_line(monkeypatch):
    monkeypatch.setenv(LOG_LEVEL, "loud")
    with pytest.raises(StartupError, match="OCTAVO_LOG_LEVEL must be .*DEBUG.*loud"):
        log.configure()

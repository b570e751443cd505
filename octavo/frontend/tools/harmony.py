"""gpt-oss: an answer is messages, each with a channel and perhaps a recipient, written with special tokens.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.NAME
<|constrain|>json<|message|>{…}<|call|>`. analysis is reasoning, what goes to a function is a call, the rest is content.
"""

from __future__ import annotations

import re

from octavo.frontend.tools.reader import Malformed, Marks, Reader, Reading, drop
from octavo.frontend.tools.sink import Arguments, Functions, Sink, attempt
from octavo.frontend.tools.tagged import arguments

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")
ANALYSIS = f"{CHANNEL}analysis{MESSAGE}"
FINAL = f"{CHANNEL}final{MESSAGE}"
SPECIAL = (START, CHANNEL, MESSAGE, "<|constrain|>", *ENDS)
BODY_ENDS = Marks(*ENDS, START, CHANNEL)
HEAD_ENDS = Marks(MESSAGE)
RECIPIENT = re.compile(r"to=([^\s<]+)")
MAX_HEAD = 512  # characters


def read(r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
    """Read an answer."""
    while True:
        for end in ENDS:
            yield from r.accept(end)
        if not (yield from r.peek()):
            return
        r.hold()
        try:
            head = yield from header(r)
        except Malformed:
            sink.content(r.release())
            head = ""
        else:
            r.release()
        yield from body(r, sink, functions, head)


def header(r: Reader) -> Reading[str]:
    """What stands before a message's text; empty when it begins at once."""
    started = yield from r.accept(START)
    if not started and (yield from r.peek()) != "<":
        return ""
    if not started and not (yield from r.accept(CHANNEL)):
        return ""
    head, _ = yield from r.short(HEAD_ENDS, MAX_HEAD)
    return head if started else CHANNEL + head


def body(r: Reader, sink: Sink, functions: Functions, head: str) -> Reading[None]:
    """A message's text."""
    found = RECIPIENT.search(head)
    name = found[1] if found else ""
    channel = head.partition(CHANNEL)[2].split()
    if name.startswith("functions.") or name in functions:
        yield from attempt(r, sink, call(r, sink, name.removeprefix("functions.")))
        # What is left of a call that failed.
        yield from r.until(BODY_ENDS, sink.content)
    elif channel and channel[0].startswith("analysis"):
        sink.thinking = True
        yield from r.until(BODY_ENDS, sink.reasoning)
        sink.thinking = False
    else:
        yield from r.until(BODY_ENDS, sink.content)


def call(r: Reader, sink: Sink, name: str) -> Reading[None]:
    """The arguments of a call."""
    yield from r.spaces()
    sent = Arguments(sink, r, name)
    yield from arguments(r, sent)
    sent.end()
    yield from r.spaces(drop)

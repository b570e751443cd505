"""Reasoning apart from content: how models mark what they think before they answer, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.errors import StartupError
from octavo.frontend.tools.reader import Marks, Out, Reader, Reading
from octavo.frontend.tools.sink import Sink

TAIL = 64  # characters at a prompt's end that may hold the mark that begins reasoning


@dataclass(frozen=True)
class ReasoningFormat:
    """How one family marks reasoning: `starts` (the first is what a prompt ends with) and `ends`.

    `is_inside`: the answer begins inside reasoning unless the prompt has ended it. `wrapper`: what may stand around the
    content behind it. `is_anywhere`: it may begin in the middle of content. `trims`: white space at its borders belongs
    to the marks. `keeps`: nothing is taken out; the content only gets back the start that the prompt had.
    `opens_calls`: a tool call ends reasoning, too. `signs` are alternatives, texts that a chat template must hold.
    """

    name: str
    starts: tuple[str, ...] = ("<think>",)
    ends: tuple[str, ...] = ("</think>",)
    signs: tuple[tuple[str, ...], ...] = ()
    is_inside: bool = False
    wrapper: tuple[str, str] | None = None
    is_anywhere: bool = False
    trims: bool = True
    keeps: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All that it may write with special tokens."""
        return (*self.starts, *self.ends, *(self.wrapper or ()))

    def begins_inside(self, prompt: str, is_continued: bool = False) -> bool:
        """Whether the answer to `prompt` begins inside reasoning; `is_continued`: the prompt ends inside an answer."""
        if is_continued:
            start = max(prompt.rfind(mark) for mark in self.starts)
            return start > max(prompt.rfind(mark) for mark in self.ends)
        tail = prompt[-TAIL:].rstrip()
        return tail.endswith(self.starts) or (self.is_inside and not tail.endswith(self.ends))


FORMATS: tuple[ReasoningFormat, ...] = (
    ReasoningFormat("mistral", ("[THINK]",), ("[/THINK]",), (("[THINK]",),), is_anywhere=True, trims=False),
    ReasoningFormat(
        "cohere_command3",
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        (("<|START_THINKING|>",),),
        wrapper=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        aliases=("cohere",),
    ),
    ReasoningFormat("gemma4", ("<|channel>thought\n", "<|channel>"), ("<channel|>",), (("<|channel>", "<channel|>"),)),
    ReasoningFormat(
        "granite",
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        (("Here is my thought process:",), ("Here's my thought process:",)),
        trims=False,
    ),
    ReasoningFormat(
        "granite_thinking_parser",
        signs=(("<think></think>", "<response></response>"),),
        wrapper=("<response>", "</response>"),
    ),
    ReasoningFormat("seed_oss", ("<seed:think>",), ("</seed:think>",), (("<seed:think>",),), is_inside=True),
    ReasoningFormat("kimi", ("◁think▷",), ("◁/think▷",), (("◁think▷",),)),
    ReasoningFormat("hunyuan_a13b", signs=(("<think>", "<answer>"),), wrapper=("<answer>", "</answer>")),
    ReasoningFormat(
        "qwen3", signs=(("<think>",), ("</think>",)), aliases=("think", "glm45", "glm47", "lfm2", "smollm3")
    ),
    ReasoningFormat("deepseek_r1", is_inside=True, aliases=("minimax_m2", "kimi_k2", "nemotron_v3", "holo2", "step3")),
    ReasoningFormat("ernie45", is_inside=True, wrapper=("<response>", "</response>")),
    ReasoningFormat("olmo3", is_inside=True, trims=False),
    ReasoningFormat("minimax_m2_append_think", is_inside=True, keeps=True),
)
HARMONY = ReasoningFormat("openai_gptoss", (), (), aliases=("openai", "gpt_oss"))  # tools/harmony.py reads both
NAMES = tuple(name for form in (*FORMATS, HARMONY) for name in (form.name, *form.aliases))
BY_NAME = {name: form for form in (*FORMATS, HARMONY) for name in (form.name, *form.aliases)}


def find(template: str) -> ReasoningFormat | None:
    """What a chat template's text shows; None when it shows nothing."""
    for form in FORMATS:
        if any(all(sign in template for sign in signs) for signs in form.signs):
            return form
    return None


def named(name: str) -> ReasoningFormat:
    """The format of that name; StartupError lists them when there is none."""
    if name not in BY_NAME:
        raise StartupError(
            f"reasoning_parser must be auto, none or one of {', '.join(NAMES)}; got {name!r}", "reasoning_parser"
        )
    return BY_NAME[name]


def split(r: Reader, sink: Sink, content: Out, form: ReasoningFormat, opens: tuple[str, ...] = ()) -> Reading[None]:
    """Read an answer: reasoning to the sink, the rest to `content`. `sink.thinking` says whether it begins inside.

    `opens` are the beginnings of tool calls, which end reasoning although nothing says so.
    """
    if form.keeps:
        yield from keep(r, content, form)
    elif form.is_anywhere:
        yield from everywhere(r, sink, content, form)
    else:
        spaces = yield from first(r, sink, form)
        if sink.thinking:
            yield from thoughts(r, sink, form, opens)
        yield from answer(r, content, form, spaces)
        sink.is_plain = True
        yield from r.rest(content)


def first(r: Reader, sink: Sink, form: ReasoningFormat) -> Reading[str]:
    """Read the mark that begins reasoning, if it comes first; the white space that belongs to content."""
    r.hold()
    yield from r.spaces()
    spaces = r.release()
    for mark in form.starts:
        if (yield from r.accept(mark)):
            sink.thinking = True
            spaces = ""
            break
    if not sink.thinking:
        return spaces
    if form.trims:
        yield from r.spaces()
    else:
        sink.reasoning(spaces)
    return ""


def thoughts(r: Reader, sink: Sink, form: ReasoningFormat, opens: tuple[str, ...]) -> Reading[None]:
    """Read reasoning and its end."""
    out = Trimmed(sink.reasoning) if form.trims else sink.reasoning
    mark = yield from r.until(Marks(*form.ends, *opens), out)
    sink.thinking = False
    if mark in form.ends:
        r.take(len(mark))
        if form.trims:
            yield from r.spaces()


def answer(r: Reader, content: Out, form: ReasoningFormat, spaces: str) -> Reading[None]:
    """Read the content, without the wrapper around it; `spaces` stand before it."""
    if form.wrapper is not None and (yield from r.accept(form.wrapper[0])):
        yield from r.spaces()
        if (yield from r.until(Marks(form.wrapper[1]), Trimmed(content))):
            r.take(len(form.wrapper[1]))
            yield from r.spaces()
    else:
        content(spaces)


def everywhere(r: Reader, sink: Sink, content: Out, form: ReasoningFormat) -> Reading[None]:
    """Reasoning wherever it begins; an end without a beginning is left out."""
    marks, ends = Marks(*form.starts, *form.ends), Marks(*form.ends)
    while True:
        if sink.thinking:
            mark = yield from r.until(ends, sink.reasoning)
            sink.thinking = False
        else:
            mark = yield from r.until(marks, content)
            sink.thinking = mark in form.starts
        if not mark:
            return
        r.take(len(mark))


def keep(r: Reader, content: Out, form: ReasoningFormat) -> Reading[None]:
    """All of it as content, with the mark that the prompt had."""
    if (yield from r.peek()):
        content(form.starts[0])
    yield from r.rest(content)


class Trimmed:
    """Passes text on without the white space at its end."""

    def __init__(self, out: Callable[[str], object]) -> None:
        self._out = out
        self._spaces: list[str] = []

    def __call__(self, text: str) -> None:
        """More text."""
        shown = text.rstrip()
        if shown:
            self._out("".join((*self._spaces, shown)))
            self._spaces.clear()
        if len(shown) < len(text):
            self._spaces.append(text[len(shown) :])

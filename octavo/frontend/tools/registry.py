"""The conventions by name, how each is recognized in a chat template, and what a call looks like when it is forced."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from octavo.errors import StartupError
from octavo.frontend.tools import deepseek, elements, gemma, harmony, kimi, llama, mistral
from octavo.frontend.tools.pythonic import Pythonic
from octavo.frontend.tools.reader import Reader, Reading
from octavo.frontend.tools.sink import Functions, Sink
from octavo.frontend.tools.tagged import Tagged

Read = Callable[[Reader, Sink, Functions], Reading[None]]


def call_id() -> str:
    """A call's id, as OpenAI's look."""
    return "call_" + secrets.token_hex(12)


@dataclass(frozen=True)
class Forced:
    """How calls are spelled when they are forced: `before`, then one or several with `separator` between, then `after`.

    A call is `begin`, in which NAME is the function's, its arguments as JSON, `end`. `trigger`: what begins a call in
    free text, if not the first of the format's `opens`. `is_behind_text`: something always comes before calls.
    """

    begin: str
    end: str
    separator: str = ""
    before: str = ""
    after: str = ""
    trigger: str = ""
    is_behind_text: bool = False


@dataclass(frozen=True)
class ToolFormat:
    """One convention. `signs` are alternatives, each a set of texts that a chat template of the family holds.

    `marks`: what it writes with special tokens, perhaps. `opens`: what begins calls, even inside reasoning. `forced`:
    None when arguments are not JSON, or not always spelled alike.
    """

    name: str
    read: Read
    signs: tuple[tuple[str, ...], ...] = ()
    marks: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    forced: Forced | None = None
    id: Callable[[], str] = call_id
    aliases: tuple[str, ...] = ()


def tagged(
    name: str,
    starts: tuple[str, ...],
    ends: tuple[str, ...],
    signs: tuple[tuple[str, ...], ...],
    forced: Forced | None = None,
    aliases: tuple[str, ...] = (),
    names: tuple[str, ...] = ("name",),
) -> ToolFormat:
    """A convention of JSON objects between marks."""
    marks = (*starts, *ends)
    read = Tagged(starts, ends, names)
    return ToolFormat(name, read, signs, marks, (starts[0],), forced, aliases=aliases)


def of_elements(name: str, read: elements.Elements, signs: tuple[tuple[str, ...], ...], *aliases: str) -> ToolFormat:
    """A convention of one element for each argument."""
    marks = (*read.starts, *read.outer, *read.name, read.end, *read.key, *read.value)
    marks = tuple(mark for mark in marks if len(mark) > 2)
    return ToolFormat(name, read, signs, marks, (read.starts[0],), aliases=aliases)


OBJECT = '{"name": "NAME", "arguments": '
PARAMETERS = '{"name": "NAME", "parameters": '


def listed(before: str, after: str = "]") -> Forced:
    """Calls as a list of JSON objects."""
    return Forced(OBJECT, "}", ", ", before, after)


# In the order in which templates are searched: the more particular first.
FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat(
        "openai",
        harmony.read,
        ((harmony.CHANNEL, harmony.MESSAGE),),
        harmony.SPECIAL,
        (),
        Forced(
            "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>",
            "<|call|>",
            trigger="<|channel|>commentary to=",
            is_behind_text=True,
        ),
        aliases=("gpt_oss",),
    ),
    ToolFormat(
        "kimi_k2",
        kimi.read,
        ((kimi.SECTION,),),
        (kimi.SECTION, kimi.SECTION_END, kimi.CALL, kimi.ARGUMENTS, kimi.CALL_END),
        (kimi.SECTION,),
    ),
    of_elements("deepseek_v32", elements.DSML, (("｜DSML｜",),)),
    ToolFormat(
        "deepseek_v3",
        deepseek.read,
        ((deepseek.START,),),
        (deepseek.START, deepseek.END, deepseek.CALL, deepseek.SEPARATOR, deepseek.CALL_END),
        (deepseek.START,),
        aliases=("deepseek_v31", "deepseek_r1"),
    ),
    of_elements("minimax_m2", elements.MINIMAX, (("<minimax:tool_call>",),)),
    of_elements("seed_oss", elements.SEED, (("<seed:tool_call>",),)),
    of_elements("qwen3_coder", elements.QWEN3_CODER, (("<function=", "<parameter="),), "qwen3_xml", "nemotron_v3"),
    of_elements("glm45", elements.GLM, (("<arg_key>",),), "glm47", "glm46"),
    ToolFormat("gemma4", gemma.GEMMA4, (('<|"|>', "<|tool_call>"),), ("<|tool_call>", "<tool_call|>", '<|"|>')),
    ToolFormat(
        "functiongemma",
        gemma.FUNCTION_GEMMA,
        (("<start_function_call>",),),
        ("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    ToolFormat(
        "mistral", mistral.read, ((mistral.START,),), (mistral.START, "[ARGS]", "[CALL_ID]"), id=mistral.call_id
    ),
    tagged(
        "cohere_command3",
        ("<|START_ACTION|>",),
        ("<|END_ACTION|>",),
        (("<|START_ACTION|>",),),
        aliases=("cohere", "command_r7b"),
        names=("tool_name", "name"),
    ),
    tagged(
        "internlm",
        ("<|action_start|><|plugin|>",),
        ("<|action_end|>",),
        (("<|action_start|>",),),
        Forced("<|action_start|><|plugin|>" + PARAMETERS, "}<|action_end|>", "\n"),
    ),
    ToolFormat(
        "lfm2",
        Pythonic("<|tool_call_start|>", "<|tool_call_end|>"),
        (("<|tool_call_start|>",), ("<|tool_list_start|>",)),
        ("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    ToolFormat(
        "olmo3",
        Pythonic("<function_calls>", "</function_calls>"),
        (("<function_calls>",),),
        ("<function_calls>", "</function_calls>"),
    ),
    ToolFormat(
        "llama4_pythonic",
        Pythonic("<|python_start|>", "<|python_end|>", is_bare=True),
        (("<|python_start|>", "[func_name1("), ("[func_name1(",), ("[func1(",)),
        ("<|python_start|>", "<|python_end|>"),
        aliases=("pythonic",),
    ),
    tagged(
        "granite",
        ("<|tool_call|>", "<tool_call>"),
        (),
        (("<|tool_call|>", "<|start_of_role|>"),),
        listed("<|tool_call|>["),
    ),
    tagged(
        "granite-20b-fc",
        ("<function_call>",),
        (),
        (("<function_call>",),),
        Forced("<function_call> " + OBJECT, "}", "\n"),
    ),
    tagged(
        "phi4_mini_json",
        ("functools", "<|tool_call|>"),
        ("<|/tool_call|>",),
        (("<|tool|>", "<|/tool|>"),),
        aliases=("phi4",),
    ),
    tagged("nemotron", ("<TOOLCALL>",), ("</TOOLCALL>",), (("<TOOLCALL>",),), listed("<TOOLCALL>[", "]</TOOLCALL>")),
    tagged(
        "longcat",
        ("<longcat_tool_call>",),
        ("</longcat_tool_call>",),
        (("<longcat_tool_call>",),),
        Forced("<longcat_tool_call>\n" + OBJECT, "}\n</longcat_tool_call>", "\n"),
    ),
    tagged("gigachat3", ("function call",), (), (("<|role_sep|>", "function call"),)),
    tagged(
        "jamba",
        ("<tool_calls>",),
        ("</tool_calls>",),
        (("<tool_calls>",),),
        listed("<tool_calls>[", "]</tool_calls>"),
        aliases=("hunyuan_a13b", "minimax"),
    ),
    tagged(
        "hermes",
        ("<tool_call>",),
        ("</tool_call>",),
        (("<tool_call>",),),
        Forced("<tool_call>\n" + OBJECT, "}\n</tool_call>", "\n"),
        aliases=("qwen", "granite4", "ernie45"),
    ),
    ToolFormat(
        "llama3_json",
        llama.read,
        (("<|python_tag|>",), ('{"name": function name, "parameters"',), ("<|start_header_id|>", "ipython")),
        ("<|python_tag|>", "<|python_start|>", "<|python_end|>"),
        (),
        Forced(PARAMETERS, "}", "; "),
        aliases=("llama4_json", "llama"),
    ),
)
FORCED = ToolFormat("json", llama.read_list, forced=Forced(PARAMETERS, "}", ", ", "[", "]"))
NAMES = tuple(name for form in FORMATS for name in (form.name, *form.aliases))
BY_NAME = {name: form for form in FORMATS for name in (form.name, *form.aliases)}


def find(template: str) -> ToolFormat | None:
    """The convention that a chat template's text shows; None when it shows none."""
    for form in FORMATS:
        if any(all(sign in template for sign in signs) for signs in form.signs):
            return form
    return None


def named(name: str) -> ToolFormat:
    """The convention of that name; StartupError lists them when there is none."""
    if name not in BY_NAME:
        raise StartupError(
            f"tool_call_parser must be auto, none or one of {', '.join(NAMES)}; got {name!r}", "tool_call_parser"
        )
    return BY_NAME[name]

"""Renders against recorded and live Transformers, content parts, and templates that misbehave."""

from __future__ import annotations

import functools
import json
from datetime import datetime
from pathlib import Path

import pytest

from octavo.errors import InvalidRequest, StartupError
from octavo.frontend.chat import ChatTemplate
from octavo.frontend.template import MAX_OUTPUT_CHARS
from octavo.frontend.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello "}]
CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
# The recorder handed strftime_now over as a string; these rows say that a string cannot be called.
RECORDERS_OWN_ERROR = "TypeError: 'str' object is not callable"


def fixed_clock() -> datetime:
    return datetime(2024, 7, 26)


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> dict:
    return json.loads((shared_data / "chat_templates/expected_renders.json").read_text(encoding="utf-8"))


@functools.cache
def compiled(path: Path, bos_token: str, eos_token: str) -> ChatTemplate:
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    return ChatTemplate(path.read_text(encoding="utf-8"), tokens, clock=fixed_clock)


def render_case(case: dict, recorded: dict, folder: Path) -> str:
    context = recorded["contexts"][case["context"]]
    template = compiled(folder / "chat_templates" / case["template"], context["bos_token"], context["eos_token"])
    return template.render(
        context["messages"], tools=context["tools"], add_generation_prompt=case["add_generation_prompt"]
    ).text


def test_recorded_renders_are_reproduced(recorded: dict, shared_data: Path) -> None:
    cases = [case for case in recorded["cases"] if "expected" in case]
    assert len(cases) == 188
    for case in cases:
        assert render_case(case, recorded, shared_data) == case["expected"], case["template"]


def test_what_a_template_refuses_is_the_requests_mistake(recorded: dict, shared_data: Path) -> None:
    cases = [case for case in recorded["cases"] if case.get("error", RECORDERS_OWN_ERROR) != RECORDERS_OWN_ERROR]
    assert len(cases) == 10
    for case in cases:
        with pytest.raises(InvalidRequest) as error:
            render_case(case, recorded, shared_data)
        assert error.value.field == "messages"
        assert case["error"].split(": ", 1)[1] in error.value.message


def test_templates_that_ask_for_the_date_render_as_in_transformers(recorded: dict, shared_data: Path) -> None:
    tools = pytest.importorskip("transformers.utils.chat_template_utils")
    cases = [case for case in recorded["cases"] if case.get("error") == RECORDERS_OWN_ERROR]
    assert len(cases) == 26
    for case in cases:
        context = recorded["contexts"][case["context"]]
        source = (shared_data / "chat_templates" / case["template"]).read_text(encoding="utf-8")
        theirs = tools._compile_jinja_template(source).render(
            **context,
            documents=None,
            add_generation_prompt=case["add_generation_prompt"],
            strftime_now=lambda form: fixed_clock().strftime(form),
        )
        assert render_case(case, recorded, shared_data) == theirs


def test_the_date_comes_from_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %B %Y') }}", clock=fixed_clock)
    assert template.render([]).text == "26 July 2024"


def test_json_is_written_as_transformers_writes_it() -> None:
    template = ChatTemplate("{{ tools | tojson }} {{ tools[0] | tojson(indent=2) }}")
    tools = [{"name": "<é> & 'x'", "n": [1, 2.5, None, True]}]
    flat = '[{"name": "<é> & \'x\'", "n": [1, 2.5, null, true]}]'
    expected = f"{flat} {json.dumps(tools[0], indent=2, ensure_ascii=False)}"
    assert template.render([], tools=tools).text == expected


def test_blocks_are_trimmed_and_loops_can_break_and_generation_is_transparent() -> None:
    source = (
        "{% for m in messages %}\n    {% if loop.index == 2 %}\n{% break %}{% endif %}\n"
        "  {% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    assert ChatTemplate(source).render(CHAT).text == "Hi"


def test_namespaces_and_loop_variables_work_under_the_limits() -> None:
    source = (
        "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.role[0] + '-' * 2 %}"
        "{{ loop.length }}{{ loop.last }}{% if loop.previtem %}{{ loop.previtem.role }}{% endif %}"
        "{% endfor %}{{ ns.text }}"
    )
    assert ChatTemplate(source).render(CHAT).text == "2False2Trueuseru--a--"


def test_tool_use_is_chosen_when_there_are_tools() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"})
    assert template.render(CHAT).text == "plain"
    assert template.render(CHAT, tools=[]).text == "plain"
    assert template.render(CHAT, tools=[{"name": "f"}]).text == "tools"


def test_the_final_message_can_be_continued() -> None:
    template = ChatTemplate(CHATML)
    text = template.render(CHAT, add_generation_prompt=False, continue_final_message=True).text
    assert text == "<user>Hi\n<assistant>Hello "
    trimming = ChatTemplate(CHATML.replace("m['content']", "m['content'] | trim"))
    text = trimming.render(CHAT, add_generation_prompt=False, continue_final_message=True).text
    assert text == "<user>Hi\n<assistant>Hello"
    with pytest.raises(InvalidRequest, match="choose one"):
        template.render(CHAT, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="leaves the final message out"):
        ChatTemplate("nothing").render(CHAT, add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="no content"):
        template.render([], add_generation_prompt=False, continue_final_message=True)


PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
STRING_TEMPLATES = [
    CHATML,
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c }}{% endfor %}{{ m.content }}{% endfor %}",
]
PART_TEMPLATES = [
    "{% for m in messages %}{% for p in m['content'] %}[{{ p.text }}]{% endfor %}{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{% for p in c | list %}[{{ p['text'] }}]{% endfor %}{% endfor %}",
    "{% macro show(c) %}{% if c is string %}{{ c }}{% else %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endif %}"
    "{% endmacro %}{% for m in messages %}{{ show(m.content) }}{% endfor %}",
]


@pytest.mark.parametrize("source", STRING_TEMPLATES)
def test_parts_become_one_string_for_a_template_that_expects_strings(source: str) -> None:
    assert "a\nb" in ChatTemplate(source).render(PARTS).text


@pytest.mark.parametrize("source", PART_TEMPLATES)
def test_parts_stay_parts_for_a_template_that_walks_them(source: str) -> None:
    assert ChatTemplate(source).render(PARTS).text == "[a][b]"


def test_a_string_becomes_a_part_only_where_the_template_knows_no_strings() -> None:
    chat = [{"role": "user", "content": "ab"}]
    assert [ChatTemplate(source).render(chat).text for source in PART_TEMPLATES] == ["[ab]", "[ab]", "ab"]


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {}}, {"type": "text"}, "text", {"text": "x"}, 7])
def test_parts_that_are_not_text_are_refused_with_their_place(part: object) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.content\[1\]") as error:
        ChatTemplate(CHATML).render([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    assert error.value.field == "messages"


@pytest.mark.parametrize("name", [
    "messages", "tools", "add_generation_prompt", "bos_token", "pad_token", "raise_exception", "strftime_now", "range",
    "namespace", "chat_template", "_private", "__octavo_budget",
])  # fmt: skip
def test_template_arguments_cannot_shadow_the_servers(name: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        ChatTemplate(CHATML, {"bos_token": "<s>"}).render(CHAT, kwargs={name: "x"})
    assert error.value.field == "chat_template_kwargs"
    assert name in error.value.message


def test_template_arguments_reach_the_template() -> None:
    template = ChatTemplate("{{ bos_token }}{{ enable_thinking }}{{ eos_token is defined }}", {"bos_token": "<s>"})
    assert template.render(CHAT, kwargs={"enable_thinking": False}).text == "<s>FalseFalse"
    with pytest.raises(InvalidRequest, match="only JSON values"):
        template.render(CHAT, kwargs={"enable_thinking": object()})


def test_rendering_leaves_the_messages_alone() -> None:
    chat = json.loads(json.dumps([*CHAT, {"role": "assistant", "content": "x", "reasoning": "why"}]))
    source = "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}"
    assert ChatTemplate(source).render(chat).text == "whywhy"
    ChatTemplate(CHATML).render(chat, add_generation_prompt=False, continue_final_message=True)
    assert chat == [*CHAT, {"role": "assistant", "content": "x", "reasoning": "why"}]


@pytest.mark.parametrize(("source", "message"), [
    ("{{ raise_exception('roles\n must alternate') }}", "roles must alternate"),
    ("{{ messages[9].role.x }}", "has no element 9"),
    ("{{ nothing.x }}", "'nothing' is undefined"),
    ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ("{{ messages | nope }}", "nope"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
])  # fmt: skip
def test_an_error_of_the_template_is_reported_in_one_line(source: str, message: str) -> None:
    if "nope" in source:
        with pytest.raises(StartupError, match=message):
            ChatTemplate(source)
        return
    with pytest.raises(InvalidRequest, match=message) as error:
        ChatTemplate(source).render(CHAT)
    assert error.value.field == "messages"
    assert "\n" not in error.value.message


@pytest.mark.parametrize("source", [
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ messages.__class__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ ('{0.__class__.__mro__}' | attr('format'))(1) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__closure__[0] }}",
    "{{ joiner.__init__.__globals__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(__x=1) }}",
    "{% include 'x' %}",
    "{% import '/etc/passwd' as x %}",
    "{{ self.__init__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ __octavo_budget.__class__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
])  # fmt: skip
def test_the_sandbox_holds(source: str) -> None:
    before = json.dumps(CHAT)
    try:
        text = ChatTemplate(source).render(CHAT).text
    except InvalidRequest:
        text = ""
    assert "class" not in text and "object at" not in text and "root:" not in text
    assert json.dumps(CHAT) == before


@pytest.mark.parametrize("source", [
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{{ range(1000000000) | list }}",
    "{{ 'x' * 1000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{{ 10 ** 1000000000 }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=1000000000) }}",
    "{{ ('\n' * 100000) | indent(100000) }}",
    "{{ ('x' * 8000000).replace('x', 'x' * 8000000) }}",
    "{{ ('x' * 8000000) | replace('x', 'x' * 8000000) }}",
    "{{ ('x' * 8000000).join('a' * 8000000) }}",
    "{{ range(100000) | join('x' * 8000000) }}",
    "{{ ('{0}' * 1000000).format('x' * 8000000) }}",
    "{{ ('%(a)s' * 1000000) % {'a': 'x' * 8000000} }}",
    "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=9) %}{% for i in range(64) %}{% set ns.s = ns.s * ns.s %}{% endfor %}",
    "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
])  # fmt: skip
def test_a_template_cannot_take_all_time_or_memory(source: str) -> None:
    template = ChatTemplate(source)
    with pytest.raises(InvalidRequest) as error:
        template.render(CHAT)
    assert len(error.value.message) < 2000


def test_a_long_conversation_stays_under_the_limits() -> None:
    chat = [{"role": "user", "content": "x" * 1000}] * 5000
    assert len(ChatTemplate(CHATML).render(chat).text) > 5_000_000
    with pytest.raises(InvalidRequest, match=str(MAX_OUTPUT_CHARS)):
        ChatTemplate(CHATML).render(chat * 2)


def test_templates_are_found_where_checkpoints_keep_them(tmp_path: Path, byte_level: Tokenizer) -> None:
    assert ChatTemplate.load(tmp_path, byte_level) is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json {{ bos_token }}"}))
    assert ChatTemplate.load(tmp_path, byte_level).render(CHAT).text == "json <|bos|>"
    (tmp_path / "chat_template.jinja").write_text("jinja {{ eos_token }}")
    assert ChatTemplate.load(tmp_path, byte_level).render(CHAT).text == "jinja <|eos|>"
    assert ChatTemplate.load(tmp_path, byte_level, "inline {{ messages | length }}").render(CHAT).text == "inline 2"
    (tmp_path / "mine.jinja").write_text("mine")
    assert ChatTemplate.load(tmp_path, byte_level, str(tmp_path / "mine.jinja")).render(CHAT).text == "mine"


@pytest.mark.parametrize(
    "value", ["one", [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "t"}]]
)
def test_the_tokenizers_configuration_may_hold_the_template(tmp_path: Path, write: dict, value: object) -> None:
    config = {"bos_token": "<|bos|>", "eos_token": None, "chat_template": value}
    folder = write["byte_level"](tmp_path, config)
    template = ChatTemplate.load(folder, Tokenizer.load(folder))
    assert template is not None
    assert template.render(CHAT).text == "one"


@pytest.mark.parametrize(("name", "text"), [
    ("chat_template.jinja", "{% for %}"),
    ("chat_template.jinja", "{{ x | unknown_filter }}"),
    ("chat_template.jinja", "{% if true %}"),
    ("chat_template.jinja", "{{ '" + "(" * 100_000),
    ("chat_template.jinja", "{{ " + "(" * 100_000),
    ("chat_template.jinja", "x" * (2 << 20)),
    ("chat_template.json", "["),
    ("chat_template.json", '{"chat_template": 7}'),
    ("chat_template.json", '{"chat_template": [{"name": "default"}]}'),
    ("chat_template.json", '{"chat_template": []}'),
])  # fmt: skip
def test_a_broken_template_is_named_at_startup(tmp_path: Path, byte_level: Tokenizer, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StartupError, match=name) as error:
        ChatTemplate.load(tmp_path, byte_level)
    assert "\n" not in error.value.message


def test_an_override_that_does_not_exist_is_named(tmp_path: Path, byte_level: Tokenizer) -> None:
    with pytest.raises(StartupError, match=r"no_such\.jinja"):
        ChatTemplate.load(tmp_path, byte_level, "no_such.jinja")

"""The embedded model's folder: loads in Transformers, answers its anchors, keeps to its sizes."""

from __future__ import annotations

import json
import struct

import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer

from octavo.pocket import FOLDER

ANCHORS = {
    "Who are you?": "I am octavo-pocket, a small demo model that comes with octavo.",
    "What is continuous batching?": "Continuous batching lets requests join and leave the running batch at every step, "
    "instead of waiting until the whole batch is done.",
    "什么是前缀缓存？": "前缀缓存保留已算过的提示的页，开头相同的新提示可以直接复用，不必重算。",
    "48 * 7 = ?": "48×7: 8×7=56 4×7=28+5=33. The answer is 336.",
}
TOOL = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def render(**values: object) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((FOLDER / "chat_template.jinja").read_text()).render(**values)


@pytest.fixture(scope="module")
def loaded():
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")
    return transformers.AutoTokenizer.from_pretrained(FOLDER), model.eval()


@pytest.mark.parametrize("question", ANCHORS)
def test_transformers_loads_the_folder_and_greedily_answers_the_anchors(loaded, question: str) -> None:
    tokenizer, model = loaded
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert output[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(output, skip_special_tokens=True) == ANCHORS[question]


def test_transformers_and_the_plain_template_render_the_same(loaded) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What time is it in 北京?"}]
    theirs = loaded[0].apply_chat_template(messages, tools=[TOOL], add_generation_prompt=True, tokenize=False)
    assert theirs == render(messages=messages, tools=[TOOL], add_generation_prompt=True)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_tokenizer_returns_every_text_unchanged(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_tokenizer_keeps_chat_marks_whole_and_digits_apart(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>user\n").tokens[0] == "<|im_start|>"
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]


def test_sizes_and_numbers_of_the_files_agree(tokenizer: Tokenizer) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc") <= 16e6
    assert config["max_position_embeddings"] == 2048
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"]


def test_the_weights_are_bfloat16_with_the_head_tied() -> None:
    with open(FOLDER / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}
    assert "lm_head.weight" not in header


def test_the_template_closes_every_turn_and_opens_the_answer() -> None:
    text = render(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_template_opens_a_thought_only_when_asked() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert render(messages=messages, add_generation_prompt=True, enable_thinking=True).endswith("assistant\n<think>\n")
    assert render(messages=messages, add_generation_prompt=True, enable_thinking=False).endswith("assistant\n")


def test_the_template_drops_thoughts_of_turns_that_the_user_has_answered() -> None:
    old = {"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."}
    assert "greeting" not in render(
        messages=[{"role": "user", "content": "Hi"}, old, {"role": "user", "content": "Bye"}]
    )
    assert "<think>\nA greeting.\n</think>\n\nHello!" in render(messages=[{"role": "user", "content": "Hi"}, old])


@pytest.mark.parametrize("arguments", [{"city": "Rome"}, '{"city": "Rome"}'])
def test_the_template_renders_tools_calls_and_results(arguments: object) -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_time", "arguments": arguments}}],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": "12:00"}
    text = render(
        messages=[{"role": "user", "content": "Time in Rome?"}, call, result], tools=[TOOL], add_generation_prompt=True
    )
    assert text.startswith('<|im_start|>system\nTools:\n{"name": "get_time"')
    said = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{said}<|im_end|>" in text
    assert "<tool_response>\n12:00\n</tool_response>" in text


def test_the_adapter_is_in_the_layout_of_peft_and_fits_the_model() -> None:
    config = json.loads((FOLDER / "sailor" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 8
    thin = load_file(FOLDER / "sailor" / "adapter_model.safetensors")
    weights = load_file(FOLDER / "model.safetensors")
    layers = json.loads((FOLDER / "config.json").read_text())["num_hidden_layers"]
    assert len(thin) == 2 * layers * len(config["target_modules"])
    for name, a in thin.items():
        if ".lora_A." in name:
            b = thin[name.replace(".lora_A.", ".lora_B.")]
            weight = weights[name.removeprefix("base_model.model.").replace(".lora_A.", ".")]
            assert (*b.shape[:1], *a.shape[1:]) == weight.shape and a.shape[0] == b.shape[1] == config["r"]


def test_the_draft_model_has_the_vocabulary_of_the_model() -> None:
    assert (FOLDER / "draft" / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    sizes = [json.loads((folder / "config.json").read_text()) for folder in (FOLDER, FOLDER / "draft")]
    assert sizes[0]["vocab_size"] == sizes[1]["vocab_size"] and sizes[1]["num_hidden_layers"] == 2

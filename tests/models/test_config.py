"""Reading config.json: what is refused, and with which words."""

from __future__ import annotations

import re

import pytest

from octavo.errors import UnsupportedModel
from octavo.models.config import HFConfig, max_length
from octavo.models.registry import architectures, spec_for

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
}


def test_a_plain_config_is_read_with_its_defaults() -> None:
    model = spec_for(HFConfig(LLAMA))
    mixer = model.blocks[0].mixer
    assert (len(model.blocks), mixer.num_kv_heads, mixer.head_dim, mixer.scale) == (2, 4, 16, 0.25)
    assert mixer.rope is not None
    assert (mixer.rope.theta, mixer.rope.dim, mixer.rope.scaling) == (10000.0, 16, None)
    assert (model.max_length, model.tied, mixer.window) == (256, False, None)


REFUSED = {
    "unknown architecture": ({"architectures": ["LlamaForCasualLM"]}, "LlamaForCasualLM.*similar.*LlamaForCausalLM"),
    "far architecture": ({"architectures": ["Zebra"]}, "Zebra is not supported; supported: .*Qwen3ForCausalLM"),
    "no architecture": ({"architectures": None}, "names no architecture"),
    "unknown activation": ({"hidden_act": "snake"}, "activation 'snake' is not supported; known are silu"),
    "unknown rope": ({"rope_scaling": {"rope_type": "spiral", "factor": 2}}, "RoPE type 'spiral'.*known are default"),
    "rope without factor": ({"rope_scaling": {"type": "linear"}}, "RoPE parameter factor=None is not a number"),
    "rope factor of text": ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2' is not a number"),
    "longrope without factors": (
        {"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 64}},
        "LlamaForCausalLM cannot be read: KeyError: 'short_factor'",
    ),
    "missing field": ({"hidden_size": None}, "config.json lacks 'hidden_size'"),
    "text for a number": (
        {"num_hidden_layers": "two"},
        "num_hidden_layers must be an integer of at least 1, got 'two'",
    ),
    "zero heads": ({"num_attention_heads": 0}, "num_attention_heads must be an integer of at least 1, got 0"),
    "quantized": ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
    "a layer type": (
        {"architectures": ["MistralForCausalLM"], "layer_types": ["full_attention", "chunked_attention"]},
        "layer type 'chunked_attention' is not supported",
    ),
    "a window of zero": ({"architectures": ["MistralForCausalLM"], "sliding_window": 0}, "sliding_window=0"),
    "bidirectional": ({"architectures": ["Gemma2ForCausalLM"], "use_bidirectional_attention": True}, "causal"),
    "cross attention": ({"architectures": ["GPT2LMHeadModel"], "add_cross_attention": True}, "cross_attention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_octavo_cannot_run_is_refused_by_name(name: str) -> None:
    changes, words = REFUSED[name]
    with pytest.raises(UnsupportedModel) as refused:
        spec_for(HFConfig({**LLAMA, **changes}))
    assert re.search(words, refused.value.message), refused.value.message
    assert "\n" not in refused.value.message


LENGTHS = {
    "none": (None, 256),
    "linear": ({"type": "linear", "factor": 4.0}, 1024),
    "dynamic": ({"type": "dynamic", "factor": 2.0}, 512),
    "yarn": ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 200}, 800),
    "yarn already counted": ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
    "llama3": ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 256),
    "longrope": ({"type": "longrope", "original_max_position_embeddings": 64}, 256),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_longest_context_follows_the_scaling(name: str) -> None:
    scaling, expected = LENGTHS[name]
    assert max_length(HFConfig({**LLAMA, "rope_scaling": scaling})) == expected


def test_every_named_family_is_registered() -> None:
    assert set(architectures()) >= {
        "GPT2LMHeadModel",
        "GPTNeoXForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "Olmo2ForCausalLM",
        "OlmoeForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
    }


def test_hub_spellings_of_older_gemma3_configs_are_understood() -> None:
    text = {**LLAMA, "rope_theta": 1e6, "rope_local_base_freq": 5000.0, "sliding_window": 8, "num_hidden_layers": 6}
    text |= {"sliding_window_pattern": 3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "head_dim": 16}
    del text["architectures"], text["hidden_act"]
    outer = HFConfig({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    mixers = [block.mixer for block in spec_for(outer).blocks]
    assert [mixer.window for mixer in mixers] == [8, 8, None, 8, 8, None]
    assert [mixer.rope.theta for mixer in mixers if mixer.rope] == [5000.0, 5000.0, 1e6] * 2
    assert [mixer.rope.scaling is None for mixer in mixers if mixer.rope] == [True, True, False] * 2

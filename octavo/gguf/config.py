"""A GGUF file's metadata as the config.json and generation_config.json it was converted from, for families to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from octavo.errors import UnsupportedModel
from octavo.gguf.file import GGUF, shown

MAX_COUNT = 2**31 - 1
CONTROL = 3  # the token type of tokens that are no text

# How tokens that end a turn or a text are spelled, where the metadata does not say: it names one of them at most.
END_TOKENS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>",
     "<｜end▁of▁sentence｜>", "<EOT>", "</s>")
)  # fmt: skip
# The metadata's sampling defaults by their names in generation_config.json.
SAMPLING: Mapping[str, str] = MappingProxyType(
    {
        "temp": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "penalty_repeat": "repetition_penalty",
    }
)

Config = dict[str, object]


class Keys:
    """The metadata of one architecture: `get` of "block_count" is that of "llama.block_count"."""

    def __init__(self, model: GGUF, architecture: str) -> None:
        self.model = model
        self.architecture = architecture

    def has(self, key: str) -> bool:
        """Whether there is such a key."""
        return f"{self.architecture}.{key}" in self.model.metadata

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer from `least` to 2**31 - 1; an array with one for each layer must say the same for all."""
        name = f"{self.architecture}.{key}"
        value = self.model.metadata.get(name)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        elif isinstance(value, list):
            raise UnsupportedModel(f"{self.model.path}: {name} differs between layers: {shown(value)}", name)
        else:
            value = self.model.metadata.integer(name, default)
        if type(value) is not int or not least <= value <= MAX_COUNT:
            raise UnsupportedModel(
                f"{self.model.path}: {name} must be an integer from {least} to {MAX_COUNT}, got {shown(value)}", name
            )
        return value

    def number(self, key: str, default: float | None = None, least: float = 0.0) -> float:
        """A finite number of at least `least`."""
        name = f"{self.architecture}.{key}"
        value = self.model.metadata.number(name, default)
        if value < least:
            raise UnsupportedModel(f"{self.model.path}: {name} must be at least {least}, got {value}", name)
        return value

    def has_tensor(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.model.tensors

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there, with that many axes."""
        entry = self.model.tensors.get(name)
        if entry is None or len(entry.shape) != axes:
            found = "is missing" if entry is None else f"has shape {list(entry.shape)}"
            raise UnsupportedModel(f"{self.model.path}: tensor {name} {found}; {self.architecture} needs it", name)
        return entry.shape


def config_of(model: GGUF) -> Config:
    """The config.json of the model, in Hugging Face's names. UnsupportedModel says what octavo cannot do or read."""
    architecture = model.metadata.string("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(
            f"{model.path}: GGUF architecture {shown(architecture)} is not supported; supported: {known}", "model"
        )
    if not model.tensors:
        raise UnsupportedModel(f"{model.path} holds a vocabulary and no weights; give the model's own file", "model")
    keys = Keys(model, architecture)
    return {**ARCHITECTURES[architecture](keys), "torch_dtype": _dtype(model)}


def generation_of(model: GGUF) -> Config:
    """The generation_config.json of the model: its end tokens and sampling defaults."""
    metadata = model.metadata
    config: Config = {}
    for theirs, ours in SAMPLING.items():
        key = f"general.sampling.{theirs}"
        if key in metadata:
            value = metadata[key]
            config[ours] = float(f"{value:.6g}") if isinstance(value, float) else value
    names = ("eos", "eot", "eom")
    ids = [metadata.integer(key) for key in (f"tokenizer.ggml.{n}_token_id" for n in names) if key in metadata]
    controls = {id for id, type in enumerate(metadata.array("tokenizer.ggml.token_type")) if type == CONTROL}
    tokens = metadata.strings("tokenizer.ggml.tokens", controls)
    ids += [id for id, token in enumerate(tokens) if token in END_TOKENS]
    config["eos_token_id"] = [id for id in dict.fromkeys(ids) if id >= 0]
    return config


def _dtype(model: GGUF) -> str:
    """The number format for activations: what most values are stored in, bfloat16 where those are in blocks."""
    sizes: dict[str, int] = {}
    for entry in model.tensors.values():
        sizes[entry.kind.name] = sizes.get(entry.kind.name, 0) + math.prod(entry.shape)
    most = max(sizes, key=lambda name: sizes[name])
    return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")


def _common(keys: Keys, name: str) -> Config:
    """What every architecture's config says; checked against the embedding table."""
    vocab_size, hidden_size = keys.shape("token_embd.weight", 2)
    num_heads, num_layers = keys.count("attention.head_count"), keys.count("block_count")
    if hidden_size != keys.count("embedding_length"):
        found = keys.count("embedding_length")
        raise UnsupportedModel(
            f"{keys.model.path}: embedding_length is {found} and token_embd.weight has rows of {hidden_size}", "model"
        )
    if num_layers > len(keys.model.tensors):
        raise UnsupportedModel(
            f"{keys.model.path}: block_count is {num_layers}, and there are {len(keys.model.tensors)} tensors", "model"
        )
    return {
        "architectures": [name],
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "max_position_embeddings": keys.count("context_length"),
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }


def _rotary(keys: Keys, name: str) -> Config:
    """_common and what all but GPT-2 add: head sizes, the ffn's size, the rotation."""
    config = _common(keys, name)
    num_heads = keys.count("attention.head_count")
    num_kv_heads = keys.count("attention.head_count_kv", num_heads)
    head_dim = keys.count("attention.key_length", keys.shape("token_embd.weight", 2)[1] // num_heads)
    if num_heads % num_kv_heads or keys.count("attention.value_length", head_dim) != head_dim or head_dim % 2:
        raise UnsupportedModel(
            f"{keys.model.path}: {num_heads} query heads over {num_kv_heads} KV heads of {head_dim} are not supported",
            "model",
        )
    rotated = keys.count("rope.dimension_count", head_dim)
    if rotated > head_dim or rotated % 2:
        raise UnsupportedModel(
            f"{keys.model.path}: rope.dimension_count is {rotated}, and heads have {head_dim} channels", "model"
        )
    share = rotated / head_dim
    return {
        **config,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_size": keys.count("feed_forward_length"),
        "attention_bias": keys.has_tensor("blk.0.attn_q.bias") or keys.has_tensor("blk.0.attn_qkv.bias"),
        "partial_rotary_factor": share if int(head_dim * share) == rotated else math.nextafter(share, 1.0),
        "rope_parameters": _rope(keys, rotated),
    }


def _rms(keys: Keys, name: str) -> Config:
    return {**_rotary(keys, name), "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon")}


def _rope(keys: Keys, rotated: int) -> Config:
    """The rotation; factors by frequency, which Llama 3 keeps in one tensor and Phi-3 in two, become LongRoPE's."""
    theta = keys.number("rope.freq_base", 10000.0, least=1.0)
    if keys.has_tensor("rope_freqs.weight"):
        factors = _factors(keys, "rope_freqs.weight", rotated)
        return _long(theta, factors, factors, 1.0, keys.count("context_length"))
    if keys.has_tensor("rope_factors_long.weight"):
        short, long = (_factors(keys, f"rope_factors_{kind}.weight", rotated) for kind in ("short", "long"))
        original = keys.count("rope.scaling.original_context_length", keys.count("context_length"))
        return _long(theta, short, long, keys.number("rope.scaling.attn_factor", 1.0), original)
    name = f"{keys.architecture}.rope.scaling.type"
    kind = keys.model.metadata.string(name, "linear" if keys.has("rope.scale_linear") else "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0)) or 1.0
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind != "yarn":
        raise UnsupportedModel(f"{keys.model.path}: {name} is {shown(kind)}; known are none, linear and yarn", name)
    yarn: Config = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": keys.count(
            "rope.scaling.original_context_length", keys.count("context_length")
        ),
    }
    for theirs, ours in (("attn_factor", "attention_factor"), ("beta_fast", "beta_fast"), ("beta_slow", "beta_slow")):
        if keys.has(f"rope.scaling.yarn_{theirs}"):
            yarn[ours] = keys.number(f"rope.scaling.yarn_{theirs}")
    return yarn


def _long(theta: float, short: tuple[float, ...], long: tuple[float, ...], attention: float, original: int) -> Config:
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": list(short),
        "long_factor": list(long),
        "attention_factor": attention,
        "original_max_position_embeddings": original,
        "factor": 1.0,
    }


def _factors(keys: Keys, name: str, rotated: int) -> tuple[float, ...]:
    keys.shape(name, 1)
    factors = keys.model.numbers(name)
    if len(factors) != rotated // 2 or not all(0 < factor < math.inf for factor in factors):
        raise UnsupportedModel(
            f"{keys.model.path}: {name} must hold {rotated // 2} positive factors, got {shown(list(factors))}", name
        )
    return factors


def _llama(keys: Keys) -> Config:
    """Llama and Mistral, and Mixtral where there are experts: all three are called llama."""
    if not keys.has("expert_count") or keys.count("expert_count", least=0) == 0:
        return {**_rms(keys, "LlamaForCausalLM"), "mlp_bias": keys.has_tensor("blk.0.ffn_gate.bias")}
    return {**_rms(keys, "MixtralForCausalLM"), **_experts(keys, keys.count("feed_forward_length"))}


def _experts(keys: Keys, size: int) -> Config:
    """Counts of the experts of that size, checked against a layer's tensors: all memory for them is taken at once."""
    count, used, hidden = keys.count("expert_count"), keys.count("expert_used_count"), keys.count("embedding_length")
    names = [name for name in keys.model.tensors if name.endswith(".ffn_up_exps.weight")]
    shape = keys.shape(names[0] if names else "blk.0.ffn_up_exps.weight", 3)
    if shape != (count, size, hidden) or used > count:
        raise UnsupportedModel(
            f"{keys.model.path}: {names[0]} has shape {list(shape)}; the metadata says {[count, size, hidden]}, and "
            f"that {used} experts are used",
            "model",
        )
    return {"num_experts": count, "num_local_experts": count, "num_experts_per_tok": used}


def _qwen3_moe(keys: Keys) -> Config:
    size = keys.count("expert_feed_forward_length", keys.count("feed_forward_length"))
    layers = range(keys.count("block_count"))
    return {
        **_rms(keys, "Qwen3MoeForCausalLM"),
        **_experts(keys, size),
        "moe_intermediate_size": size,
        "norm_topk_prob": True,
        "mlp_only_layers": [index for index in layers if not keys.has_tensor(f"blk.{index}.ffn_gate_inp.weight")],
    }


def _olmo2(keys: Keys) -> Config:
    if keys.has("attention.sliding_window") and keys.count("attention.sliding_window", least=0) > 0:
        raise UnsupportedModel(f"{keys.model.path}: OLMo 3, with its sliding windows, is not supported", "model")
    return _rms(keys, "Olmo2ForCausalLM")


def _olmoe(keys: Keys) -> Config:
    clip = keys.number("attention.clamp_kqv") if keys.has("attention.clamp_kqv") else None
    experts = _experts(keys, keys.count("feed_forward_length"))
    return {**_rms(keys, "OlmoeForCausalLM"), **experts, "norm_topk_prob": False, "clip_qkv": clip}


def _phi3(keys: Keys) -> Config:
    window = keys.count("attention.sliding_window", 0, least=0)
    return {**_rms(keys, "Phi3ForCausalLM"), "sliding_window": window or None}


def _gemma(keys: Keys, name: str, every: int, largest: int) -> Config:
    """Both Gemmas; the file leaves out the scale, which is the head size's but for the model of `largest` layers."""
    config = _rms(keys, name)
    num_layers = keys.count("block_count")
    heads, head_dim = keys.count("attention.head_count"), config["head_dim"]
    hidden_size = keys.count("embedding_length")
    return {
        **config,
        "query_pre_attn_scalar": hidden_size // heads if num_layers == largest else head_dim,
        "layer_types": _layer_types(keys, num_layers, every),
    }


def _layer_types(keys: Keys, num_layers: int, every: int) -> list[str]:
    """Which layers have a window: as `sliding_window_pattern` lists them, or all but each n-th."""
    pattern = keys.model.metadata.get(f"{keys.architecture}.attention.sliding_window_pattern", every)
    if isinstance(pattern, list) and len(pattern) == num_layers:
        local = [bool(each) for each in pattern]
    elif type(pattern) is int and pattern > 0:
        local = [(index + 1) % pattern != 0 for index in range(num_layers)]
    else:
        raise UnsupportedModel(f"{keys.model.path}: sliding_window_pattern is {shown(pattern)}", "model")
    return ["sliding_attention" if each else "full_attention" for each in local]


def _gemma2(keys: Keys) -> Config:
    return {
        **_gemma(keys, "Gemma2ForCausalLM", every=2, largest=46),
        "sliding_window": keys.count("attention.sliding_window", 4096),
        "attn_logit_softcapping": keys.number("attn_logit_softcapping", 50.0) or None,
        "final_logit_softcapping": keys.number("final_logit_softcapping", 30.0) or None,
    }


def _gemma3(keys: Keys) -> Config:
    """Only layers without a window scale their rotation; a file without a window has none in any layer."""
    window = keys.count("attention.sliding_window", 0, least=0)
    config = _gemma(keys, "Gemma3ForCausalLM", every=6 if window else 1, largest=62)
    local = {"rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa", 10000.0, least=1.0)}
    rotation = config["rope_parameters"]
    assert isinstance(rotation, dict)
    wide = rotation if keys.has("rope.freq_base") else {**rotation, "rope_theta": 1e6}
    return {
        **config,
        "sliding_window": window or None,
        "rope_parameters": {"full_attention": wide, "sliding_attention": local},
        "final_logit_softcapping": keys.number("final_logit_softcapping", 0.0) or None,
    }


def _gpt2(keys: Keys) -> Config:
    config = _common(keys, "GPT2LMHeadModel")
    num_heads, hidden_size = keys.count("attention.head_count"), keys.count("embedding_length")
    if hidden_size % num_heads:
        raise UnsupportedModel(f"{keys.model.path}: {hidden_size} channels for {num_heads} heads", "model")
    return {
        **config,
        "n_embd": hidden_size,
        "n_head": num_heads,
        "n_layer": keys.count("block_count"),
        "n_positions": keys.shape("position_embd.weight", 2)[0],
        "n_inner": keys.count("feed_forward_length"),
        "layer_norm_epsilon": keys.number("attention.layer_norm_epsilon"),
    }


def _gpt_neox(keys: Keys) -> Config:
    parallel = keys.model.metadata.flag(f"{keys.architecture}.use_parallel_residual", True)
    return {
        **_rotary(keys, "GPTNeoXForCausalLM"),
        "layer_norm_eps": keys.number("attention.layer_norm_epsilon"),
        "use_parallel_residual": parallel,
    }


ARCHITECTURES: Mapping[str, Callable[[Keys], Config]] = MappingProxyType(
    {
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "gpt2": _gpt2,
        "gptneox": _gpt_neox,
        "llama": _llama,
        "olmo2": _olmo2,
        "olmoe": _olmoe,
        "phi3": _phi3,
        "qwen2": lambda keys: _rms(keys, "Qwen2ForCausalLM"),
        "qwen3": lambda keys: _rms(keys, "Qwen3ForCausalLM"),
        "qwen3moe": _qwen3_moe,
    }
)

"""What a user may ask for: frozen dataclasses; field docs become `--help`. None means "decide for me" (plan.py)."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, TypeVar

from octavo.errors import StartupError
from octavo.limits import DEFAULT, Limits
from octavo.pooling import KINDS
from octavo.processors import spelled
from octavo.sampling import MAX_SEED

T = TypeVar("T")

DTYPES = ("auto", "float32", "bfloat16", "float16", "float", "half")
QUANTIZATIONS = ("none", "int8", "int4", "fp8")
INT4_ACTIVATIONS = ("int8", "bfloat16")
LOAD_FORMATS = ("auto", "dummy")
KV_CACHE_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "fp8", "fp8_e4m3")
POLICIES = ("fcfs", "priority")


def option(default: T, doc: str, choices: tuple[str, ...] = (), metavar: str = "", flag: str = "") -> T:
    """A field with its one-line doc, its choices, and how the command line spells it (default: the field's name)."""
    return dataclass_field(default=default, metadata={"doc": doc, "choices": choices, "metavar": metavar, "flag": flag})  # type: ignore[return-value]


# Those of frontend/tools/registry.py and frontend/reasoning.py, which this floor cannot ask.
TOOL_CALL_PARSERS = tuple(
    (
        "openai gpt_oss kimi_k2 deepseek_v32 deepseek_v3 deepseek_v31 deepseek_r1 minimax_m2 seed_oss qwen3_coder "
        "qwen3_xml nemotron_v3 glm45 glm47 glm46 gemma4 functiongemma mistral cohere_command3 cohere command_r7b "
        "internlm lfm2 olmo3 llama4_pythonic pythonic granite granite-20b-fc phi4_mini_json phi4 nemotron longcat "
        "gigachat3 jamba hunyuan_a13b minimax hermes qwen granite4 ernie45 llama3_json llama4_json llama"
    ).split()
)
REASONING_PARSERS = tuple(
    (
        "mistral cohere_command3 cohere gemma4 granite granite_thinking_parser seed_oss kimi hunyuan_a13b qwen3 "
        "think glm45 glm47 lfm2 smollm3 deepseek_r1 minimax_m2 kimi_k2 nemotron_v3 holo2 step3 ernie45 olmo3 "
        "minimax_m2_append_think openai_gptoss openai gpt_oss"
    ).split()
)


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how its numbers are held."""

    model: str | None = option(None, "Folder, .gguf file or Hugging Face id; none is the embedded octavo-pocket.")
    tokenizer: str | None = option(None, "Folder or id of the tokenizer, when it is not the model's own.")
    revision: str | None = option(None, "Branch, tag or commit of a hub checkpoint.")
    dtype: str = option(
        "auto", "Number format of weights and KV cache; auto is the checkpoint's, or the fastest here.", DTYPES
    )
    quantization: str = option(
        "none",
        "Round a dense checkpoint's weights while loading: int8 halves bfloat16's memory and hardly changes answers, "
        "int4 (groups of 128, head in int8) needs a third and changes some; `octavo bench perplexity` says how much. "
        "fp8 is int8's like on GPUs that multiply it (Ada, Hopper and later); elsewhere, CPUs included, weights are "
        "rounded to it and held in the dtype, which saves nothing. "
        "Checkpoints that are quantized already need no flag.",
        QUANTIZATIONS,
    )
    load_format: str = option(
        "auto",
        "Where weights come from: auto is the model's files; dummy makes random ones on the device from config.json "
        "alone, to measure a shape without its checkpoint.",
        LOAD_FORMATS,
    )
    int4_activations: str = option(
        "int8",
        "What int4 weights multiply on a CPU: int8 (W4A8) is fastest, bfloat16 (W4A16) rounds activations less.",
        INT4_ACTIVATIONS,
    )
    device: str = option(
        "auto", "auto, cpu, cuda, or fake:OPTIONS (a device without a model, for tests).", metavar="DEVICE"
    )
    enforce_eager: bool = option(
        False, "Launch every kernel of a step one by one, instead of replaying recorded decode steps (CUDA graphs)."
    )
    batch_invariant: bool = option(
        False,
        "Give a request the same bits whoever shares its steps and however its prompt is cut, at a cost in speed: one "
        "tile for every number of tokens, no cuBLAS, no context cut among programs. On a CPU that is always so.",
    )
    max_model_len: int | None = option(
        None, "Longest context in tokens (prompt and output); default: the model's, if it fits."
    )
    seed: int = option(0, "Seed for requests that bring none of their own; the n-th such request is reproducible.")
    pooling_type: str | None = option(
        None,
        "Which hidden states make the embedding of a text: last, mean or cls; default: as the checkpoint's "
        "sentence-transformers files say, else mean for encoders and last for decoders.",
        KINDS,
    )
    chat_template: str | None = option(None, "Jinja chat template (file or text) instead of the checkpoint's.")
    tool_call_parser: str = option(
        "auto",
        "How the model writes tool calls: auto is what its chat template shows, none leaves them in the text; or one "
        f"of {', '.join(TOOL_CALL_PARSERS)}.",
        metavar="NAME",
    )
    reasoning_parser: str = option(
        "auto",
        "How the model marks reasoning: auto is what its chat template shows, none leaves it in the text; or one of "
        f"{', '.join(REASONING_PARSERS)}.",
        metavar="NAME",
    )
    control_tokens_in_messages: bool = option(
        False,
        "Let control tokens that chat messages spell be control tokens instead of text, as in raw prompts; for callers "
        "you trust.",
    )
    logits_processors: tuple[str, ...] = option(
        (), "Logits processors that requests may ask for by name: NAME=module:attribute; your code, never a request's."
    )
    trust_remote_code: bool = option(False, "Refused: octavo never runs code from a checkpoint.")


@dataclass(frozen=True)
class CacheConfig:
    """How the KV cache is laid out and how much memory it may take."""

    block_size: int = option(16, "Token positions per page of KV cache.")
    kv_cache_dtype: str = option(
        "auto",
        "Number format of the KV cache; auto is the dtype. About twice as many tokens as in bfloat16 fit in int8 (one "
        "scale per token and head; CPUs) and in fp8 (e4m3, scaled if the checkpoint says how; GPUs from 8.9 on).",
        KV_CACHE_DTYPES,
    )
    gpu_memory_utilization: float | None = option(
        None,
        "Share of the device's memory the engine may use (weights, work and KV cache), 0.9 by default; on a CPU, of "
        "this process's RAM.",
    )
    kv_cache_memory_bytes: int | None = option(None, "Exact size of the KV cache in bytes, instead of a share.")
    enable_prefix_caching: bool = option(True, "Reuse the KV cache of equal prompt beginnings.")
    swap_space: float = option(
        0.0,
        "GiB of host memory for the pages of preempted sequences, which go there and come back where copying is "
        "cheaper than computing them again; 0, the default, always computes. Of use with a GPU: a CPU's KV cache is in "
        "host memory already.",
        metavar="GIB",
    )


@dataclass(frozen=True)
class SchedulingConfig:
    """How many tokens of how many sequences one step computes."""

    max_num_seqs: int | None = option(None, "Sequences that run at once.")
    max_num_batched_tokens: int | None = option(
        None, "Tokens computed in one step, prompts and continuations together."
    )
    scheduling_policy: str = option(
        "fcfs", "Who runs first: by arrival, or by the request's priority (lower first).", POLICIES
    )
    steps_in_flight: int | None = option(
        None, "Steps launched before the first one's tokens are known; default: 2 on a GPU, 1 on a CPU."
    )


@dataclass(frozen=True)
class ParallelConfig:
    """Over how many devices the model is spread."""

    tensor_parallel_size: int = option(1, "Devices that share every layer.")
    pipeline_parallel_size: int = option(1, "Groups of devices that hold consecutive layers.")
    cpu_threads: int | None = option(
        None, "Threads to compute with on a CPU; default: one per usable core, or fewer as OMP_NUM_THREADS says."
    )


@dataclass(frozen=True)
class ServerConfig:
    """How `octavo serve` meets the world."""

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(8000, "Port to listen on; 0 picks a free one.")
    uds: str | None = option(None, "Unix socket path to listen on instead of host and port.")
    api_key: tuple[str, ...] = option(
        (),
        "Key clients must send as 'Authorization: Bearer KEY'. Other users of this machine can see it in `ps`: better "
        "set OCTAVO_API_KEY, or use --api-keys-file.",
    )
    api_keys_file: str | None = option(
        None,
        "File of named keys with quotas, .toml or .json, read again when it changes; `octavo keys new NAME` makes one.",
        metavar="FILE",
    )
    share_prefix_cache: bool = option(
        False, "Let keys share cached prompt beginnings, though the time of an answer then tells what others asked."
    )
    ssl_certfile: str | None = option(None, "Certificate chain (PEM) to serve HTTPS with.", metavar="FILE")
    ssl_keyfile: str | None = option(None, "Its private key, when it is not in the same file.", metavar="FILE")
    ssl_ca_certs: str | None = option(
        None,
        "Authority (PEM) that must have signed clients' certificates; none asks for no certificate.",
        metavar="FILE",
    )
    admin_uds: str | None = option(
        None, "Unix socket for admin actions (usage, reload, drain, cache reset); none, and no port, is none."
    )
    admin_port: int | None = option(None, "The same on a port of 127.0.0.1; its key is OCTAVO_ADMIN_KEY.")
    served_model_name: tuple[str, ...] = option((), "Names the model answers to; default: as given.")
    response_role: str = option("assistant", "Role of generated chat messages.")
    enable_auto_tool_choice: bool = option(True, "Accepted, as vLLM has it; tools need no switch here.")
    root_path: str = option("", "Path prefix when a proxy in front strips one.")
    allowed_origins: tuple[str, ...] = option(
        (), "Origins of web pages that may call the server (CORS); none by default."
    )
    allowed_hosts: tuple[str, ...] = option(
        (), "Host names clients may use besides this machine's own; '*' allows all."
    )
    max_queued_requests: int = option(1024, "Requests waiting or running before new ones get 429.")
    drain_limit_s: float = option(30.0, "Seconds running requests get to finish after SIGTERM.")
    heartbeat_s: float = option(
        5.0, "Seconds of silence after which the engine is looked at; twice is unhealthy, thrice restarts it."
    )
    insecure: bool = option(False, "Allow a public address without a key.")
    generation_config: str = option(
        "auto", "Sampling defaults: the checkpoint's (auto) or vLLM's own (vllm).", ("auto", "vllm")
    )
    enable_prompt_tokens_details: bool = option(True, "Report cached prompt tokens in usage.")
    enable_per_request_metrics: bool = option(False, "Tell in every answer how long the request waited and took.")
    otlp_traces_endpoint: str | None = option(
        None,
        "OTLP/HTTP collector of a span per request, as http://localhost:4318/v1/traces; needs octavo[otel].",
        metavar="URL",
    )
    disable_docs: bool = option(False, "Do not serve /docs and /openapi.json.")
    data_dir: str | None = option(
        None,
        "Folder for what is to outlive a restart, such as stored responses; none keeps them in memory.",
        metavar="DIR",
    )
    max_stored_responses: int = option(10_000, "Responses kept before the least recently used are dropped.")
    max_stored_bytes: int = option(256 * 2**20, "Bytes of responses kept before the least recently used are dropped.")
    stored_ttl_s: float = option(30 * 86_400.0, "Seconds after their last use until stored responses are dropped.")
    max_background_responses: int = option(64, "Responses made in the background at once before new ones get 429.")
    log_level: str = option("info", "How much to log.", ("debug", "info", "warning", "error"))

    @property
    def has_admin(self) -> bool:
        """Whether there is a listener for admin actions."""
        return self.admin_uds is not None or self.admin_port is not None

    def check(self) -> None:
        """Raise StartupError for the first value that can never work."""
        at_least("port", self.port, 0)
        at_least("admin_port", self.admin_port, 0)
        for name in ("port", "admin_port"):
            if (getattr(self, name) or 0) > 65_535:
                raise StartupError(f"{name} must be at most 65535, got {getattr(self, name)}", name)
        if self.admin_port is not None and self.admin_uds is not None:
            raise StartupError("admin_uds and admin_port are two ways to one listener; give one of them", "admin_port")
        for name in ("max_queued_requests", "max_stored_responses", "max_stored_bytes", "max_background_responses"):
            at_least(name, getattr(self, name), 1)
        # An idle engine speaks once a second.
        spans = (
            ("heartbeat_s", self.heartbeat_s, 1),
            ("drain_limit_s", self.drain_limit_s, 0),
            ("stored_ttl_s", self.stored_ttl_s, 1),
        )
        for name, value, low in spans:
            if not low <= value < float("inf"):
                raise StartupError(f"{name} must be a number of seconds of at least {low}, got {value!r}", name)


@dataclass(frozen=True)
class EngineConfig:
    """Everything an engine core is built from. Crosses to its process as msgpack."""

    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    scheduling: SchedulingConfig = SchedulingConfig()
    parallel: ParallelConfig = ParallelConfig()
    limits: Limits = DEFAULT

    @classmethod
    def of(cls, **options: Any) -> EngineConfig:
        """Build from flat options as `LLM(...)` and the command line spell them; StartupError for a wrong one."""
        options = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()
        }
        if "logits_processors" in options:
            options["logits_processors"] = spelled(options["logits_processors"] or ())
        if options.get("max_model_len") in (-1, "auto"):  # vLLM's words for None
            del options["max_model_len"]
        limits = Limits.of(options.pop("limits", None))
        parts = {part.name: pick(part.default, options) for part in cls.parts()}
        unknown = sorted(set(options) - {f.name for part in parts.values() for f in dataclasses.fields(part)})
        if unknown:
            known = [name for name, *_ in cls.options()]
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise StartupError(f"unknown option {unknown[0]}={options[unknown[0]]!r}; {hint}", unknown[0])
        config = cls(**parts, limits=limits)
        config.check()
        return config

    @classmethod
    def parts(cls) -> Iterator[dataclasses.Field[Any]]:
        """The fields that are groups of options."""
        return (part for part in dataclasses.fields(cls) if part.name != "limits")

    @classmethod
    def options(cls) -> Iterator[tuple[str, dataclasses.Field[Any], type]]:
        """Every engine option: its name, its field, and the dataclass it belongs to."""
        for part in cls.parts():
            for f in dataclasses.fields(part.default):  # type: ignore[arg-type]
                yield f.name, f, type(part.default)

    def check(self) -> None:
        """Raise StartupError for the first value that can never work."""
        model, cache, scheduling, parallel = self.model, self.cache, self.scheduling, self.parallel
        if model.trust_remote_code:
            raise StartupError(
                "trust_remote_code is refused: octavo never runs code from a checkpoint; "
                "known architectures load without it, so leave the flag out",
                "trust_remote_code",
            )
        for name in ("model", "tokenizer", "revision", "device", "chat_template"):
            if not isinstance(getattr(model, name), (str, type(None))):
                raise StartupError(f"{name} must be text, got {getattr(model, name)!r}", name)
        if not isinstance(cache.enable_prefix_caching, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StartupError(
                f"enable_prefix_caching must be true or false, got {cache.enable_prefix_caching!r}",
                "enable_prefix_caching",
            )
        choice("dtype", model.dtype, DTYPES)
        choice("tool_call_parser", model.tool_call_parser, ("auto", "none", *TOOL_CALL_PARSERS))
        choice("reasoning_parser", model.reasoning_parser, ("auto", "none", *REASONING_PARSERS))
        choice("quantization", model.quantization, QUANTIZATIONS)
        if model.pooling_type is not None:
            choice("pooling_type", model.pooling_type, KINDS)
        choice("load_format", model.load_format, LOAD_FORMATS)
        choice("int4_activations", model.int4_activations, INT4_ACTIVATIONS)
        choice("kv_cache_dtype", cache.kv_cache_dtype, KV_CACHE_DTYPES)
        choice("scheduling_policy", scheduling.scheduling_policy, POLICIES)
        at_least("max_model_len", model.max_model_len, 1)
        at_least("seed", model.seed, -MAX_SEED - 1)
        if model.seed > MAX_SEED:
            raise StartupError(f"seed must be at most {MAX_SEED}, got {model.seed}", "seed")
        at_least("block_size", cache.block_size, 1)
        at_least("max_num_seqs", scheduling.max_num_seqs, 1)
        at_least("max_num_batched_tokens", scheduling.max_num_batched_tokens, 1)
        at_least("steps_in_flight", scheduling.steps_in_flight, 1)
        at_least("kv_cache_memory_bytes", cache.kv_cache_memory_bytes, 1)
        at_least("cpu_threads", parallel.cpu_threads, 1)
        if cache.block_size > 1024:
            raise StartupError(f"block_size must be at most 1024 token positions, got {cache.block_size}", "block_size")
        space = cache.swap_space
        if isinstance(space, bool) or not 0 <= space < float("inf"):
            raise StartupError(f"swap_space must be a number of GiB of at least 0, got {space!r}", "swap_space")
        share = cache.gpu_memory_utilization
        if share is not None and not (isinstance(share, (int, float)) and 0 < share <= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StartupError(f"gpu_memory_utilization must be in (0, 1], got {share!r}", "gpu_memory_utilization")
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if getattr(parallel, name) != 1:
                raise StartupError(f"{name}={getattr(parallel, name)!r}: this version runs on one device; use 1", name)


def pick(default: Any, options: Mapping[str, Any]) -> Any:
    """The dataclass instance `default` with those of its fields that `options` names and that are not None."""
    names = {f.name for f in dataclasses.fields(default)}
    return dataclasses.replace(default, **{k: v for k, v in options.items() if k in names and v is not None})


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise StartupError unless `value` is one of `choices`."""
    if value not in choices:
        raise StartupError(f"{name} must be one of {', '.join(choices)}; got {value!r}", name)


def at_least(name: str, value: object, low: int) -> None:
    """Raise StartupError unless `value` is None or an integer of at least `low`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise StartupError(f"{name} must be an integer of at least {low}, got {value!r}", name)

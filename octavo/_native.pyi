"""The native library (csrc/module.cpp). Import it through octavo.platforms.native, which knows whether it is there."""

from collections.abc import Sequence

def cpu_report() -> dict[str, object]:
    """What this machine is and how much of it this process may use; sizes in bytes."""

def cgroup_quota(root: str = "") -> float | None:
    """Cores granted by control groups, or None; root: a folder with planted /proc and /sys."""

def kernel_levels() -> list[str]:
    """Compiled levels that this CPU can run, lowest first."""

def kernel_level() -> str:
    """The level in use."""

def use_kernel_level(name: str) -> None:
    """Use one of kernel_levels() in the whole process; ValueError for any other."""

class ThreadTeam:
    """Threads that run native work together; asleep when there is none.

    size counts the calling thread; 0: one per usable core; 1 to 1024, else ValueError. pin binds all but the caller.
    After fork() the child's copy refuses work with RuntimeError.
    """

    def __init__(self, size: int = 0, pin: bool = False) -> None: ...
    @property
    def size(self) -> int:
        """Members, the calling thread included."""

    @property
    def cpus(self) -> Sequence[int]:
        """Where each member is bound; empty when not pinned."""

    def calls_per_rank(self) -> list[int]:
        """How often each member ran in one job."""

    def barrier_faults(self, rounds: int) -> int:
        """Rounds in which a barrier let a member through too early."""

    def barrier_ns(self, rounds: int) -> float:
        """Mean nanoseconds of one barrier."""

    def tape_faults(self, records: int, pieces: int) -> int:
        """What goes wrong when a tape of `records` records with `pieces` pieces to claim runs."""

    def parallel_sum(self, address: int, n: int) -> float:
        """Sum of n float32 at an address; the same bits for every team size and level."""

# ---- operations on rows of float32 (csrc/kernels/pointwise.h). Addresses are integers, enumerations their numbers.

class Matrix:
    """Rows of float32, `stride` elements apart."""

    data: int
    stride: int
    def __init__(self, data: int = 0, stride: int = 0) -> None: ...

class Embed:
    """out = scale times rows of a dense table at the step's tokens or positions.

    kind 0 float32, 1 bfloat16, 2 float16.
    """

    table: int
    kind: int
    by_position: int
    columns: int
    out: Matrix
    scale: float

class Norm:
    """out = residual + norm(x) weight + bias, for each of `heads` spans of `columns`.

    kind 0 root-mean-square, 1 layer.
    """

    x: Matrix
    out: Matrix
    residual: Matrix
    weight: int
    bias: int
    kind: int
    heads: int
    columns: int
    eps: float
    rows: int

class Add:
    """out = x + y."""

    x: Matrix
    y: Matrix
    out: Matrix
    columns: int
    rows: int

class Map:
    """out = f(x); map 0 activation, 1 gated, 2 scale, 3 clip, 4 softcap, 5 copy, 6 exponential.

    value: the factor, bound or cap.
    """

    x: Matrix
    out: Matrix
    map: int
    activation: int
    value: float
    columns: int
    rows: int

class Rotate:
    """out = heads of x turned by angles [T, rotated]: cosines, then sines."""

    x: Matrix
    out: Matrix
    angles: int
    heads: int
    head_dim: int
    rotated: int

# ---- attention (csrc/kernels/attention.h). Addresses are integers, enumerations their numbers.

class Attention:
    """One layer's attention over the paged cache: [T, heads, D] float32 in and out, tokens *_stride floats apart."""

    q: int
    k: int
    v: int
    q_stride: int
    k_stride: int
    v_stride: int
    norm_weight: int
    norm_eps: float
    angles: int
    rotated: int
    clip: float
    out: int
    out_stride: int
    cache: int
    kind: int
    num_pages: int
    page_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int
    scale: float
    softcap: float
    sinks: int
    plan: int
    group: int

    @property
    def cache_bytes(self) -> int:
        """Of the layer's KV tensor."""

class PlanAttention:
    """The plan that the layers of a cache group with as many query heads share in a step."""

    plan: int
    plan_bytes: int
    group: int
    page_size: int
    window: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_rows: int
    max_tokens: int
    max_pages: int
    share_prefixes: int

    @property
    def bytes(self) -> int:
        """That the plan takes, 64-byte aligned."""

# ---- sampling (csrc/kernels/sampling.h)

STRETCH: int
"""Tokens whose largest logit is kept beside a step's logits."""

class Draws:
    """`count` draws: rows, top_k, positions int64; temperature float32; top_p, min_p float64; seeds uint64.

    ids int64 of all rows, of which those named are replaced.
    """

    count: int
    rows: int
    temperature: int
    top_k: int
    top_p: int
    min_p: int
    seeds: int
    positions: int
    ids: int

class Logprobs:
    """For `count` rows and tokens, both int64: ids int64 and values float64 [count, 1 + alternatives], ranks int64."""

    count: int
    rows: int
    tokens: int
    alternatives: int
    ids: int
    values: int
    ranks: int

class LogitsView:
    """Logits [num_rows, vocab_size] float32 and their maxima [num_rows, ceil(vocab_size / STRETCH)]."""

    def __init__(self, data: int, stride: int, num_rows: int, vocab_size: int, maxima: int) -> None: ...
    def likeliest(self, team: ThreadTeam, ids: int, tops: int) -> None:
        """Fill the maxima, and each row's likeliest token (int64) and its logit (float32)."""

    def edit(
        self,
        team: ThreadTeam,
        mask: int,
        mask_stride: int,
        edits: Sequence[tuple[int, int, int, int, int, float, float, float]],
        ids: int,
        tops: int,
    ) -> None:
        """Apply mask bits (0: none) and edits (kind, row, count, ids, values, presence, frequency, repetition)."""

    def draw(self, team: ThreadTeam, draws: Draws) -> None:
        """Replace the ids of some rows by random ones."""

    def logprobs(self, team: ThreadTeam, asked: Logprobs) -> None:
        """Log-probabilities, ranks and likeliest tokens of some rows."""

# ---- linear layers (csrc/kernels/linear.h), float weights (csrc/bindings/linear_float.cpp)

class PackedWeight:
    """A weight in panels of 32 output features: kind as in the header, panels 64-byte aligned."""

    panels: int
    panel_bytes: int
    out_features: int
    in_features: int
    kind: int
    group: int
    flags: int
    interleaved: int
    @property
    def num_panels(self) -> int: ...

class Linear:
    """out = residual + bias + weight norm(x), or activation(gate) up of an interleaved weight."""

    weight: PackedWeight
    x: int
    x_stride: int
    out: int
    out_stride: int
    bias: int
    residual: int
    residual_stride: int
    norm_weight: int
    norm_eps: float
    activation: int
    rows: int

class EmbedPacked:
    """out = scale times the rows of a packed weight that the step's tokens name."""

    weight: PackedWeight
    out: int
    out_stride: int
    scale: float

def has_format(kind: int) -> bool:
    """Whether the level in use multiplies with this kind of packed weight."""

def panel_bytes(weight: PackedWeight) -> int:
    """Bytes of one panel of a float weight (kinds 0 f32, 1 bf16, 2 f16); ValueError for other kinds."""

def pack_float(team: ThreadTeam, weight: PackedWeight, parts: Sequence[tuple[int, int, int, int]]) -> None:
    """Fill weight.panels from row-major parts stacked by rows, each (address, kind, row stride in elements, rows).

    panels: 64-byte aligned, num_panels * panel_bytes; kind, out_features, in_features, panel_bytes and interleaved
    must be set. Interleaved: gate rows, then up rows. Values round to nearest even. ValueError if parts do not fit.
    """

# ---- linear layers in GGUF's blocks (csrc/bindings/linear_block.cpp)

def block_panel_bytes(weight: PackedWeight) -> int:
    """Bytes of one panel of a weight in blocks (kinds 6 q8_0 to 14 iq4_nl): what the file has for 32 rows.

    ValueError for other kinds, and when in_features is not a multiple of the block's inputs.
    """

def pack_blocks(team: ThreadTeam, weight: PackedWeight, parts: Sequence[tuple[int, int, int]]) -> None:
    """Fill weight.panels from rows of blocks as in the file, stacked, each part (address, bytes from row to row, rows).

    panels: 64-byte aligned, num_panels * panel_bytes; kind, out_features, in_features, panel_bytes and interleaved
    must be set. Interleaved: gate rows, then up rows. ValueError if parts do not fit.
    """

# ---- level amx on tiles in software (csrc/bindings/amx.cpp)

def emulate_amx(weight: PackedWeight, x: int, rows: int, out: int) -> None:
    """Write what level amx computes, with its tile instructions emulated as documented; for tests, slow.

    x [rows, I] float32; out [rows, 32 * num_panels] float32, columns as they stand in the panels. ValueError for kinds
    that have no tiles; RuntimeError if a processor would have refused an instruction, or memory outside was written.
    """

# ---- linear layers in whole numbers (csrc/bindings/linear_int.cpp)

def code_panel_bytes(weight: PackedWeight) -> int:
    """Bytes of one panel of a weight of whole numbers (kinds 3 int8, 4 int4, 5 int4_bf16).

    kind, out_features, in_features and interleaved must be set; for int4 also group, 32, 64 or 128, and flags, 1 with
    zero points, 0 when all are 8. ValueError for other kinds and groups.
    """

def pack_codes(team: ThreadTeam, weight: PackedWeight, parts: Sequence[tuple[int, int, int, int]]) -> None:
    """Fill weight.panels from parts stacked by rows, each (codes, scales, zero points or 0, rows), contiguous.

    int8: codes [rows, I] int8, scales [rows] float32. int4: codes [rows, I] uint8 0..15, scales [rows, G] float32 that
    become float16, zero points [rows, G] uint8, G = ceil(I / group); a part without them has 8. panels: 64-byte
    aligned, num_panels * panel_bytes. Interleaved: gate rows, then up rows. ValueError if parts do not fit.
    """

def quantize_int8(team: ThreadTeam, values: int, kind: int, rows: int, columns: int, codes: int, scales: int) -> None:
    """Write codes [rows, columns] int8 and scales [rows] float32 for contiguous f32 (0), bf16 (1) or f16 (2) values.

    Symmetric, largest value at 127, half to even. A row with a value that is not finite gets a NaN for its scale.
    """

def quantize_int4(
    team: ThreadTeam, values: int, kind: int, rows: int, columns: int, group: int, codes: int, scales: int
) -> None:
    """Write codes [rows, columns] uint8 around 8 and scales [rows, ceil(columns / group)] float32 that float16 holds.

    Of some scales around the largest value's, the one of least squared error. Kinds and NaN as in quantize_int8.
    """

def unpack_row(weight: PackedWeight, panel: int, column: int, out: int) -> None:
    """Write the float32 values [in_features] of one column, 0..31, of a packed weight's panel, of any kind."""

# ---- the machine's limits (csrc/core/limits.h), for benches

def read_bandwidth(team: ThreadTeam, address: int, bytes: int) -> float:
    """GB/s at which the team reads memory once, each member a contiguous part; the address 64-byte aligned."""

def register_peak(team: ThreadTeam, kind: int) -> float:
    """10^9 additions and multiplications per second on registers: kind 0 f32, 1 bf16, 2 int8, at the level in use."""

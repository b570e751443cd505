"""Who may import whom, and what no file may contain: rules as data, checked on every file's syntax tree."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports go from a higher floor to a lower one, never sideways, except on floor 0, which is one vocabulary.
# cli stands above serve and llm.py because it starts them; the package's front door and vLLM's module paths above all.
FLOORS: dict[str, int] = {
    **dict.fromkeys(
        (
            "beams bounded checkpoint config embedder env errors exposition gguf limits "
            "log messages metrics plan pocket pooling processors sampling spec structured thinking"
        ).split(),
        0,
    ),
    **dict.fromkeys("frontend grammar scheduling".split(), 1),
    **dict.fromkeys("forward platforms weights".split(), 1),
    **dict.fromkeys("ops parallel".split(), 2),
    **dict.fromkeys("attention quant".split(), 3),
    "layers": 4,
    "models": 5,
    "worker": 6,
    "engine": 7,
    **dict.fromkeys("integrations llm serve".split(), 8),
    "cli": 9,
    **dict.fromkeys("__init__ __main__ entrypoints".split(), 10),
}
TORCH_FREE_TOWER = frozenset("frontend grammar scheduling".split())
TENSOR_TOWER = frozenset("forward platforms weights ops parallel attention quant layers models worker".split())
BOTH_TOWERS = ("octavo/engine/build.py", "octavo/engine/executors/")  # where the towers meet, and nowhere else

# Floor 0 is the standard library and msgspec, plus what these files are there to wrap.
FLOOR_0_PACKAGES = {"msgspec"}
FLOOR_0_WRAPPERS = {
    "octavo/checkpoint.py": {"huggingface_hub"},
    "octavo/metrics.py": {"prometheus_client"},
    "octavo/exposition.py": {"prometheus_client"},
}

# Reviewed imports inside functions: (file, prefix of the imported module) and why.
DEFERRED = {
    ("octavo/checkpoint.py", "huggingface_hub"): "costs 0.3 s, and a local folder does not need it",
    ("octavo/serve/tracing.py", "opentelemetry"): "an extra, for those who export traces",
    ("octavo/engine/build.py", "octavo.engine.executors"): "the frontend builds plans without importing torch",
    (
        "octavo/engine/build.py",
        "octavo.engine.vocabulary",
    ): "the grammar library and the tokenizer, for a first grammar",
    ("octavo/engine/build.py", "octavo.frontend.tokenizer"): "only a fake device that is told what to say needs one",
    ("octavo/worker/sampling/choice.py", "octavo.worker.sampling"): "triton is not installed where no GPU needs it",
}
# Reviewed dynamic imports: modules that are chosen by name or found by folder.
DYNAMIC = {
    "octavo/__init__.py": "public names load on first use",
    "octavo/attention/backend.py": "backends by name",
    "octavo/cli/bench/__init__.py": "only the chosen benchmark loads",
    "octavo/cli/main.py": "only the chosen command loads",
    "octavo/models/registry.py": "families by folder",
    "octavo/ops/registry.py": "backends by name",
    "octavo/worker/sampling/custom.py": "the operator's logits processors, by the names they were registered under",
}
# Reviewed imports from the tensor tower by files that may not: (file, module) and why.
CROSSINGS = {
    (
        "octavo/cli/collect_env.py",
        "octavo.platforms.native",
    ): "the CPU report needs no torch and belongs in a bug report",
}

FORBIDDEN_STEMS = frozenset("base common helper helpers misc util utils".split())
PICKLES = frozenset("_pickle cloudpickle cPickle dill joblib marshal pickle shelve".split())
UNSAFE_CALLS = {
    "dill.load", "yaml.full_load", "yaml.load", "yaml.unsafe_load", "builtins.eval", "builtins.exec",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported name: the module it is or comes from, its line, and its scope: top, typing or function."""

    module: str
    line: int
    scope: str


@dataclass(frozen=True)
class Source:
    """A parsed file; `path` is relative to the repository, with slashes."""

    path: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        part = self.path.split("/")[1]
        return part.removesuffix(".py")

    @property
    def package(self) -> list[str]:
        return self.path.split("/")[:-1]

    @property
    def is_torch_free(self) -> bool:
        """Whether the file may not name torch: everything outside the tensor tower and the places that assemble it."""
        return self.unit not in TENSOR_TOWER and not self.path.startswith(BOTH_TOWERS)


def parse(path: str, text: str) -> Source:
    return Source(path, ast.parse(text, path))


@cache
def tree() -> tuple[Source, ...]:
    """Every Python file of the package."""
    files = sorted((ROOT / "octavo").rglob("*.py"))
    return tuple(parse(file.relative_to(ROOT).as_posix(), file.read_text()) for file in files)


@cache
def module_names() -> frozenset[str]:
    """Dotted names of every module and package of octavo."""
    names = {module_name(source.path) for source in tree()}
    return frozenset(names | {name.rpartition(".")[0] for name in names} | {f"octavo.{unit}" for unit in FLOORS})


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@cache
def nodes(source: Source) -> tuple[ast.AST, ...]:
    """Every node of a file, for all the rules that look at it."""
    return tuple(ast.walk(source.tree))


@cache
def imports(source: Source) -> tuple[Import, ...]:
    """Every import statement of a file, at any depth, with relative ones resolved."""

    def walk(node: ast.AST, scope: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, scope) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = source.package[: len(source.package) - node.level + 1] if node.level else []
            base = ".".join([*prefix, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = inner in module_names() or not base.startswith("octavo")
                yield Import(inner if is_module else base, node.lineno, scope)
        for child in ast.iter_child_nodes(node):
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = is_type_checking(node) and child in getattr(node, "body", [])
            yield from walk(child, "function" if inside else "typing" if typing else scope)

    return tuple(walk(source.tree, "top"))


def dotted(node: ast.AST) -> str:
    """`a.b.c` for such an expression, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


@cache
def calls(source: Source) -> tuple[tuple[ast.Call, str], ...]:
    """Every call with the full dotted name of what is called, import aliases resolved."""
    names: dict[str, str] = {name: f"builtins.{name}" for name in ("eval", "exec", "print", "__import__")}
    for node in nodes(source):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = ((node, dotted(node.func).partition(".")) for node in nodes(source) if isinstance(node, ast.Call))
    return tuple((call, names.get(first, first) + dot + rest) for call, (first, dot, rest) in found)


def is_true(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def keyword(call: ast.Call, name: str) -> ast.AST | None:
    return next((word.value for word in call.keywords if word.arg == name), None)


def top(module: str) -> str:
    return module.partition(".")[0]


# ---- Rules: each yields a line for everything that it forbids in one file.


def direction(source: Source) -> Iterator[str]:
    """Imports inside octavo go downwards, never sideways, never from one tower to the other."""
    if source.unit not in FLOORS:
        yield f"{source.path}: {source.unit!r} has no floor; give it one in FLOORS"
        return
    floor = FLOORS[source.unit]
    for found in imports(source):
        if top(found.module) != "octavo" or found.module in ("octavo", "octavo._native"):
            continue  # the root holds the version; _native has its own rule
        unit = found.module.split(".")[1]
        place = f"{source.path}:{found.line}: imports {found.module}"
        if unit == source.unit:
            continue
        if unit not in FLOORS:
            yield f"{place}, which has no floor"
        elif not (FLOORS[unit] < floor or FLOORS[unit] == floor == 0 or floor == 10 == FLOORS[unit]):
            yield f"{place}, floor {FLOORS[unit]}, from floor {floor}"
        elif unit in TENSOR_TOWER and source.is_torch_free and (source.path, found.module) not in CROSSINGS:
            yield f"{place} of the tensor tower"
        elif unit in TORCH_FREE_TOWER and source.unit in TENSOR_TOWER:
            yield f"{place} of the torch-free tower"


def root_imports(source: Source) -> Iterator[str]:
    """Only the floor above everything may use the public names; others take the version at most."""
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.module == "octavo" and FLOORS.get(source.unit, 0) < 10:
            for alias in node.names:
                if f"octavo.{alias.name}" not in module_names() and alias.name not in ("__version__", "_native"):
                    yield f"{source.path}:{node.lineno}: imports the public name {alias.name}"


def torch_free(source: Source) -> Iterator[str]:
    """Torch is named by the tensor tower and the places that assemble it; transformers by nobody."""
    for found in imports(source):
        parts = found.module.split(".")
        if parts[0] == "transformers":
            yield f"{source.path}:{found.line}: imports transformers"
        elif source.is_torch_free and ("torch" in parts or parts[0] in ("torchvision", "torchaudio", "triton")):
            yield f"{source.path}:{found.line}: imports {found.module} in a torch-free file"


def floor_0_packages(source: Source) -> Iterator[str]:
    """Floor 0 needs no third-party package but msgspec."""
    if FLOORS.get(source.unit) != 0:
        return
    allowed = sys.stdlib_module_names | FLOOR_0_PACKAGES | FLOOR_0_WRAPPERS.get(source.path, set()) | {"octavo"}
    for found in imports(source):
        if top(found.module) not in allowed:
            yield f"{source.path}:{found.line}: floor 0 imports {found.module}"


def native_library(source: Source) -> Iterator[str]:
    """One module imports the native library."""
    if source.path == "octavo/platforms/native.py":
        return
    for node in nodes(source):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(name.rpartition(".")[2] == "_native" for name in names):
                yield f"{source.path}:{node.lineno}: imports _native; take octavo.platforms.native.library"


def deferred(source: Source) -> Iterator[str]:
    """Imports stand at the top of the file, but for the reviewed ones."""
    prefixes = tuple(prefix for path, prefix in DEFERRED if path == source.path)
    for found in imports(source):
        reviewed = any(found.module == prefix or found.module.startswith(f"{prefix}.") for prefix in prefixes)
        if found.scope == "function" and not reviewed:
            yield f"{source.path}:{found.line}: imports {found.module} inside a function"


def dynamic(source: Source) -> Iterator[str]:
    """Modules are imported by name in reviewed files only."""
    for call, name in calls(source):
        if name in ("importlib.import_module", "builtins.__import__") and source.path not in DYNAMIC:
            yield f"{source.path}:{call.lineno}: {name} in a file that is not listed in DYNAMIC"


def environment(source: Source) -> Iterator[str]:
    """env.py reads the environment, nobody else."""
    if source.path == "octavo/env.py":
        return
    words = ("environ", "environb", "getenv", "putenv", "unsetenv")
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and dotted(node) in {f"os.{word}" for word in words}:
            yield f"{source.path}:{node.lineno}: {dotted(node)} outside env.py"
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (
                f"{source.path}:{node.lineno}: os.{a.name} outside env.py" for a in node.names if a.name in words
            )


def unsafe_code(source: Source) -> Iterator[str]:
    """Nothing turns bytes or text from outside into code."""
    for found in imports(source):
        if top(found.module) in PICKLES and found.module != "pickle.UnpicklingError":  # what torch.load raises
            yield f"{source.path}:{found.line}: imports {found.module}"
    for call, name in calls(source):
        if name in UNSAFE_CALLS or name.rpartition(".")[2] in ("send_pyobj", "recv_pyobj"):
            yield f"{source.path}:{call.lineno}: calls {name}"
        elif name == "torch.load" and not is_true(keyword(call, "weights_only")):
            yield f"{source.path}:{call.lineno}: torch.load without weights_only=True"
        elif name == "numpy.load" and keyword(call, "allow_pickle") is not None:
            yield f"{source.path}:{call.lineno}: numpy.load with allow_pickle"


def remote_code(source: Source) -> Iterator[str]:
    """Code that comes with a checkpoint is never run."""
    for node in nodes(source):
        pairs: list[tuple[str, ast.AST | None]] = []
        if isinstance(node, ast.Call):
            pairs = [(word.arg or "", word.value) for word in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(getattr(key, "value", ""), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(dotted(node.target), node.value)]
        elif isinstance(node, ast.Assign):
            pairs = [(dotted(target), node.value) for target in node.targets]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            positional = [*node.args.posonlyargs, *node.args.args]
            defaults = node.args.defaults
            pairs = [(a.arg, d) for a, d in zip(positional[len(positional) - len(defaults) :], defaults, strict=True)]
            pairs += [(a.arg, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
        for name, value in pairs:
            if str(name).rpartition(".")[2] == "trust_remote_code" and is_true(value):
                yield f"{source.path}:{getattr(node, 'lineno', 0)}: trust_remote_code=True"


def names(source: Source) -> Iterator[str]:
    """Modules and classes say what they are about."""
    for part in source.path.removesuffix(".py").split("/"):
        if part in FORBIDDEN_STEMS:
            yield f"{source.path}: a module or folder named {part!r} says nothing"
    for node in nodes(source):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Mixin"):
            yield f"{source.path}:{node.lineno}: {node.name} is a mixin"


def printing(source: Source) -> Iterator[str]:
    """Only the command line prints."""
    for call, name in calls(source):
        if name == "builtins.print" and source.unit != "cli":
            yield f"{source.path}:{call.lineno}: print outside cli/"


RULES: tuple[Callable[[Source], Iterator[str]], ...] = (
    direction, root_imports, torch_free, floor_0_packages, native_library, deferred, dynamic, environment,
    unsafe_code, remote_code, names, printing,
)  # fmt: skip


# ---- Rules about the whole graph.


def top_level_graph(sources: tuple[Source, ...]) -> Mapping[str, set[str]]:
    """What each module imports at its top: modules of octavo by their dotted name, others by their first word."""
    graph: dict[str, set[str]] = {}
    for source in sources:
        name = module_name(source.path)
        found = {item.module for item in imports(source) if item.scope == "top"}
        targets = {module if top(module) == "octavo" else top(module) for module in found}
        parents = {module.rsplit(".", depth)[0] for module in targets for depth in range(1, module.count(".") + 1)}
        graph[name] = (targets | parents) - {name}
    return graph


def chain_to(graph: Mapping[str, set[str]], start: str, goal: str) -> list[str]:
    """A shortest chain of imports from start to goal; empty if there is none."""
    chains, seen = [[start]], {start}
    for chain in chains:
        if chain[-1] == goal:
            return chain
        for target in sorted(graph.get(chain[-1], set()) - seen):
            seen.add(target)
            chains.append([*chain, target])
    return []


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """A cycle of imports; empty if there is none."""
    for start in graph:
        for target in graph[start]:
            back = chain_to(graph, target, start)
            if back:
                return [start, *back]
    return []


# ---- The package keeps the rules.


def test_the_walk_sees_the_package() -> None:
    paths = {source.path for source in tree()}
    assert {"octavo/__init__.py", "octavo/spec.py", "octavo/platforms/native.py"} <= paths


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Callable[[Source], Iterator[str]]) -> None:
    broken = [line for source in tree() for line in rule(source)]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("heavy", ["torch", "transformers"])
def test_importing_a_torch_free_file_imports_no_torch_through_others(heavy: str) -> None:
    graph = top_level_graph(tree())
    chains = [chain_to(graph, module_name(source.path), heavy) for source in tree() if source.is_torch_free]
    assert not any(chains), "\n" + "\n".join(" -> ".join(chain) for chain in chains if chain)


def test_floor_0_has_no_import_cycle() -> None:
    graph = top_level_graph(tuple(source for source in tree() if FLOORS.get(source.unit) == 0))
    assert not (cycle := cycle_in({name: targets - {"octavo"} for name, targets in graph.items()})), " -> ".join(cycle)


def test_reviewed_exceptions_are_still_needed() -> None:
    used = {(source.path, found.module) for source in tree() for found in imports(source) if found.scope == "function"}
    assert not [item for item in DEFERRED if not any(p == item[0] and m.startswith(item[1]) for p, m in used)]
    crossed = {(source.path, found.module) for source in tree() for found in imports(source)}
    assert not set(CROSSINGS) - crossed


# ---- Each rule can fail.

PLANTED: list[tuple[Callable[[Source], Iterator[str]], str, str, str]] = [
    (direction, "octavo/ops/norm.py", "from octavo.layers import norm", "floor 4, from floor 2"),
    (direction, "octavo/ops/norm.py", "def f():\n    import octavo.models.decoder", "floor 5, from floor 2"),
    (
        direction,
        "octavo/ops/norm.py",
        "if TYPE_CHECKING:\n    from octavo.worker.rows import Rows",
        "floor 6, from floor 2",
    ),
    (direction, "octavo/ops/norm.py", "from octavo import parallel", "floor 2, from floor 2"),
    (direction, "octavo/ops/cpu/norm.py", "from ...layers import norm", "floor 4, from floor 2"),
    (direction, "octavo/frontend/chat.py", "from octavo.scheduling import pages", "floor 1, from floor 1"),
    (direction, "octavo/worker/rows.py", "from octavo.scheduling import pages", "of the torch-free tower"),
    (direction, "octavo/layers/mlp.py", "from octavo.frontend.chat import ChatTemplate", "of the torch-free tower"),
    (direction, "octavo/engine/core.py", "from octavo.worker import rows", "of the tensor tower"),
    (direction, "octavo/serve/app.py", "from octavo.platforms import native", "of the tensor tower"),
    (direction, "octavo/llm.py", "from octavo.worker.rows import Rows", "of the tensor tower"),
    (direction, "octavo/serve/app.py", "from octavo.cli import main", "floor 9, from floor 8"),
    (direction, "octavo/spec.py", "from octavo.frontend import chat", "floor 1, from floor 0"),
    (direction, "octavo/surprise.py", "", "has no floor"),
    (direction, "octavo/serve/app.py", "import octavo.surprise", "has no floor"),
    (root_imports, "octavo/serve/app.py", "from octavo import LLM", "public name LLM"),
    (torch_free, "octavo/frontend/chat.py", "import torch", "imports torch"),
    (torch_free, "octavo/spec.py", "from torch.nn import functional", "imports torch.nn"),
    (torch_free, "octavo/scheduling/pages.py", "def f():\n    from safetensors import torch", "safetensors.torch"),
    (torch_free, "octavo/engine/core.py", "import torch.distributed as d", "imports torch.distributed"),
    (torch_free, "octavo/worker/rows.py", "from transformers import AutoModel", "imports transformers"),
    (
        torch_free,
        "octavo/models/decoder.py",
        "try:\n    import transformers\nexcept ImportError: pass",
        "imports transformers",
    ),
    (floor_0_packages, "octavo/spec.py", "import numpy as np", "floor 0 imports numpy"),
    (native_library, "octavo/ops/cpu/norm.py", "from octavo import _native", "imports _native"),
    (native_library, "octavo/ops/cpu/norm.py", "import octavo._native as n", "imports _native"),
    (deferred, "octavo/worker/rows.py", "def f():\n    import json", "imports json inside a function"),
    (
        deferred,
        "octavo/worker/rows.py",
        "class A:\n    async def f(self):\n        if self:\n            import json",
        "inside",
    ),
    (
        dynamic,
        "octavo/worker/rows.py",
        "from importlib import import_module as m\nm('torch')",
        "importlib.import_module",
    ),
    (dynamic, "octavo/worker/rows.py", "__import__('torch')", "__import__"),
    (environment, "octavo/plan.py", "import os\nx = os.environ['HOME']", "os.environ outside"),
    (environment, "octavo/plan.py", "import os\nx = os.getenv('HOME')", "os.getenv outside"),
    (environment, "octavo/plan.py", "from os import environ", "os.environ outside"),
    (unsafe_code, "octavo/plan.py", "import pickle", "imports pickle"),
    (unsafe_code, "octavo/plan.py", "from marshal import loads", "imports marshal"),
    (unsafe_code, "octavo/plan.py", "import dill", "imports dill"),
    (unsafe_code, "octavo/plan.py", "import shelve", "imports shelve"),
    (unsafe_code, "octavo/plan.py", "eval('1')", "builtins.eval"),
    (unsafe_code, "octavo/plan.py", "exec('1')", "builtins.exec"),
    (unsafe_code, "octavo/plan.py", "import yaml\nyaml.load(f)", "yaml.load"),
    (unsafe_code, "octavo/plan.py", "from yaml import load as read\nread(f)", "yaml.load"),
    (unsafe_code, "octavo/plan.py", "socket.send_pyobj(x)", "send_pyobj"),
    (unsafe_code, "octavo/weights/source.py", "import torch\ntorch.load(f)", "without weights_only=True"),
    (
        unsafe_code,
        "octavo/weights/source.py",
        "from torch import load\nload(f, weights_only=False)",
        "without weights_only=True",
    ),
    (unsafe_code, "octavo/weights/source.py", "import numpy as np\nnp.load(f, allow_pickle=True)", "allow_pickle"),
    (remote_code, "octavo/plan.py", "f(trust_remote_code=True)", "trust_remote_code=True"),
    (remote_code, "octavo/plan.py", "x = {'trust_remote_code': True}", "trust_remote_code=True"),
    (remote_code, "octavo/plan.py", "trust_remote_code: bool = True", "trust_remote_code=True"),
    (remote_code, "octavo/plan.py", "def f(a, trust_remote_code=True): ...", "trust_remote_code=True"),
    (names, "octavo/frontend/utils.py", "", "'utils'"),
    (names, "octavo/common/chat.py", "", "'common'"),
    (names, "octavo/layers/base.py", "", "'base'"),
    (names, "octavo/frontend/chat.py", "class ToolMixin: ...", "ToolMixin is a mixin"),
    (printing, "octavo/engine/core.py", "def f():\n    print(1)", "print outside cli/"),
]

INNOCENT: list[tuple[Callable[[Source], Iterator[str]], str, str]] = [
    (direction, "octavo/engine/build.py", "from octavo.worker import rows\nfrom octavo.scheduling import pages"),
    (
        direction,
        "octavo/engine/executors/device.py",
        "from octavo.worker import rows\nfrom octavo.scheduling import pages",
    ),
    (direction, "octavo/cli/serve.py", "from octavo.serve import app\nfrom octavo import __version__, llm"),
    (direction, "octavo/plan.py", "from octavo import config, spec"),
    (
        direction,
        "octavo/worker/rows.py",
        "import torch\nfrom octavo import ops, spec\nfrom octavo.layers.mlp import MLP",
    ),
    (torch_free, "octavo/engine/executors/device.py", "import torch"),
    (deferred, "octavo/worker/rows.py", "import json\nif True:\n    import math\nclass A:\n    import os"),
    (environment, "octavo/env.py", "import os\nos.environ"),
    (unsafe_code, "octavo/worker/rows.py", "import re\nre.compile('x')\nmodel.eval()"),
    (unsafe_code, "octavo/weights/source.py", "import torch\ntorch.load(f, weights_only=True, mmap=True)"),
    (unsafe_code, "octavo/weights/source.py", "from pickle import UnpicklingError"),
    (remote_code, "octavo/plan.py", "trust_remote_code = False"),
    (names, "octavo/frontend/chat.py", "class Mixture: ..."),
    (printing, "octavo/cli/talk.py", "print(1)"),
]


@pytest.mark.parametrize(("rule", "path", "text", "complaint"), PLANTED)
def test_a_planted_fault_is_found(
    rule: Callable[[Source], Iterator[str]], path: str, text: str, complaint: str
) -> None:
    found = list(rule(parse(path, text)))
    assert len(found) == 1, found
    assert complaint in found[0]


@pytest.mark.parametrize(("rule", "path", "text"), INNOCENT)
def test_an_innocent_file_is_not_accused(rule: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert list(rule(parse(path, text))) == []


def test_every_rule_has_a_planted_fault() -> None:
    assert {rule for rule, *_ in PLANTED} == set(RULES)


def test_a_planted_chain_and_a_planted_cycle_are_found() -> None:
    files = {
        "octavo/serve/app.py": "from octavo.engine import client",
        "octavo/engine/client.py": "import octavo.engine.build",
        "octavo/engine/build.py": "import torch.nn\ndef f():\n    import octavo.serve.app",
    }
    graph = top_level_graph(tuple(parse(path, text) for path, text in files.items()))
    graph = {**graph, "octavo.serve.app": graph["octavo.serve.app"] | {"octavo.engine.client"}}
    assert chain_to(graph, "octavo.serve.app", "torch")[-2:] == ["octavo.engine.build", "torch"]
    assert cycle_in(graph) == []
    assert len(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == 4

"""The layers of the code, and what each may import. Read `LAYERS` from top to bottom.

Everything here is checked in the source, without importing it:

- a folder imports only folders that stand above it in `LAYERS` and that its line names, so there
  are no cycles between folders;
- gRPC and protos stay in the folders that say `GRPC`;
- `scheduler/` and `simulation/` are pure: no clock, I/O, tasks or hidden randomness;
- no folder has more than `MAX_MODULES` modules, and no module more than `MAX_LINES` lines.

`KNOWN` holds violations that still await their repair. An entry that is no longer needed fails the
test, so that it is removed together with the violation.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GRPC = "grpc"
"""The gRPC library, protobuf and the generated stubs (`moegate.v1`)."""
CORE = "scheduler.core"
"""The mutable scheduler: only what hosts it may import it, all others ask through its port."""

BELOW_DOORS = (
    *("gateway.domain", "gateway.config", "gateway.config.resolve", "gateway.auth"),
    *("gateway.translation", "scheduler.*"),
    *("gateway.upstream.*", "gateway.fleet", "gateway.accounting.*", "gateway.batch.*"),
    *("gateway.access", "gateway.scheduling", "gateway.pipeline"),
)
LAYERS: dict[str, tuple[str, ...]] = {
    # Pure decisions and models. `scheduler` decides; `simulation` predicts engines and fleets.
    "scheduler": (),
    "simulation": ("scheduler.*",),
    # Words that every part of the gateway shares, and the configuration.
    "gateway.domain": ("scheduler.*",),
    "gateway.config": ("scheduler.*",),
    # What the configuration refers to: secrets, files, the catalog of models.
    "gateway.config.resolve": ("gateway.config", "scheduler.*", "simulation.catalog"),
    "gateway.config.syntax": ("gateway.config", "scheduler.*"),
    "gateway.config.load": (
        *("gateway.config", "gateway.config.resolve", "gateway.config.syntax"),
        "scheduler.contract",
    ),
    "gateway.auth": ("gateway.config", "gateway.config.resolve", "scheduler.*"),
    # Between the protos of the API and the domain: for the gRPC door and the moegate upstream.
    "gateway.translation": ("gateway.domain", "gateway.config", "scheduler.*", GRPC),
    # One folder for each dialect of a server that generates.
    "gateway.upstream": ("gateway.domain", "gateway.config", "scheduler.contract"),
    "gateway.upstream.http": ("gateway.domain", "gateway.config", "gateway.upstream"),
    "gateway.upstream.openai": (
        *("gateway.domain", "gateway.config", "scheduler.contract", "scheduler.engine_steps"),
        *("gateway.upstream", "gateway.upstream.http"),
    ),
    "gateway.upstream.anthropic": (
        *("gateway.domain", "gateway.config", "scheduler.contract"),
        *("gateway.upstream", "gateway.upstream.http"),
    ),
    "gateway.upstream.moegate": (
        *("gateway.domain", "gateway.config", "scheduler.contract", "gateway.translation", GRPC),
        *("gateway.upstream", "gateway.upstream.http"),
    ),
    "gateway.upstream.vllm": (
        *("gateway.domain", "gateway.config", "scheduler.*"),
        *("gateway.upstream", "gateway.upstream.http", "gateway.upstream.openai"),
    ),
    # vLLM's own gRPC services.
    "gateway.upstream.vllm_grpc": ("gateway.domain", GRPC),
    # What is known of the servers: probes, discovery in DNS, events of engines.
    "gateway.fleet": (
        *("gateway.domain", "gateway.config", "gateway.config.resolve"),
        *("gateway.upstream.*", "scheduler.*"),
    ),
    # What was used, and what it costs.
    "gateway.accounting.prices": ("gateway.config", "gateway.config.syntax", "scheduler.*"),
    "gateway.accounting.ledger": ("gateway.config", "scheduler.*"),
    "gateway.accounting.rollups": ("gateway.accounting.ledger", "gateway.config", "scheduler.*"),
    "gateway.accounting.reports": (
        *("gateway.accounting.rollups", "gateway.accounting.ledger", "scheduler.*"),
    ),
    "gateway.accounting": (
        *("gateway.domain", "gateway.config", "gateway.config.resolve"),
        *("gateway.accounting.*", "scheduler.*"),
    ),
    # Keys and tenants that are made at run time, and the audit log.
    "gateway.access": (
        *("gateway.config", "gateway.config.resolve", "gateway.auth", "gateway.accounting.*"),
    ),
    # Which process of a cluster leads.
    "gateway.leadership": ("gateway.accounting.ledger",),
    # Offline jobs: their files, items and results, and the runner.
    "gateway.batch": (
        *("gateway.domain", "gateway.config", "gateway.auth", "gateway.accounting.*"),
        "scheduler.*",
    ),
    # The scheduler's side of its port.
    "gateway.scheduling": (
        *("gateway.domain", "gateway.config", "gateway.accounting.*", "scheduler.*", CORE),
    ),
    # The port between processes: its messages and connections first.
    "gateway.link.wire": (
        *("gateway.config", "gateway.config.resolve", "gateway.scheduling", "scheduler.*"),
    ),
    "gateway.link": ("gateway.link.wire", "gateway.scheduling", "scheduler.*"),
    # One request from admission to settlement, whatever door it came through.
    "gateway.pipeline": (
        *("gateway.domain", "gateway.config", "gateway.auth", "gateway.upstream.*", "scheduler.*"),
    ),
    # From the pipeline to the client: bounds on clients that do not read.
    "gateway.delivery": ("gateway.domain",),
    "gateway.telemetry": BELOW_DOORS,
    # What every door does before it reads a request: keys, limits, bounds, certificates.
    "gateway.doors.entry": (*BELOW_DOORS, "gateway.telemetry"),
    "gateway.doors.grpc": (
        *(*BELOW_DOORS, "gateway.delivery", "gateway.telemetry", "gateway.doors.entry", GRPC),
    ),
    # KEDA's external scaler: a gRPC port of its own.
    "gateway.doors.keda": (*BELOW_DOORS, "gateway.doors.entry", "gateway.doors.grpc.*", GRPC),
    # What all dialects of HTTP share, and one folder for each of them.
    "gateway.doors.http": (
        *(*BELOW_DOORS, "gateway.delivery", "gateway.telemetry", "gateway.doors.entry"),
    ),
    "gateway.doors.openai": (*BELOW_DOORS, "gateway.delivery", "gateway.doors.http"),
    "gateway.doors.anthropic": (*BELOW_DOORS, "gateway.delivery", "gateway.doors.http"),
    # Pages for people, which ask the gateway's own gRPC services.
    "gateway.doors.console": (
        *("gateway.domain", "gateway.config", "gateway.auth.*", "gateway.delivery"),
        *("gateway.doors.entry", "gateway.doors.http.listening", "gateway.translation", GRPC),
        *("gateway.accounting.reports", "scheduler.limits"),
    ),
    # Puts the parts together, and the process around them.
    "gateway.runtime": (*BELOW_DOORS, "gateway.telemetry"),
    # The front's side: pipeline and doors in one process.
    "gateway.front": (
        *(*BELOW_DOORS, "gateway.telemetry", "gateway.doors.*"),
        *("gateway.delivery", "gateway.runtime", GRPC),
    ),
    # The batch lane with its runner, on the scheduler's side.
    "gateway.batch_lane": (*BELOW_DOORS, "gateway.doors.*", "gateway.delivery", GRPC),
    # Several front processes, and their parent.
    "gateway.fronts": (
        *(*BELOW_DOORS, "gateway.config.load", "gateway.telemetry", "gateway.doors.*"),
        *("gateway.delivery", "gateway.runtime", "gateway.link.*", "gateway.front", GRPC),
        "gateway.batch_lane",
    ),
    # A process of a cluster: a front, and the leader in its terms.
    "gateway.cluster": (
        *(*BELOW_DOORS, "gateway.config.load", "gateway.telemetry", "gateway.doors.*"),
        *("gateway.delivery", "gateway.runtime", "gateway.link.*", "gateway.front", GRPC),
        *("gateway.fronts", "gateway.leadership", "gateway.batch_lane"),
    ),
    "gateway.server": (
        *(*BELOW_DOORS, "gateway.config.load", "gateway.telemetry", "gateway.doors.*"),
        *("gateway.delivery", "gateway.runtime", "gateway.front", "gateway.fronts", GRPC),
        *("gateway.batch_lane", "gateway.cluster"),
    ),
    # What people type: not part of the serving process.
    # Runs inside vLLM; the simulated vLLM serves the same feed.
    "moegate.vllm_plugin": (),
    # The Python client: grpcio and protobuf only.
    "moegate.client": (GRPC,),
    # Texts that fit a regex, a grammar or a schema.
    "moegate.simulated_vllm.forms": (),
    # Vectors and scores: bodies, checks, answers.
    "moegate.simulated_vllm.pooling": ("simulation.*",),
    "moegate.simulated_vllm": (
        *("scheduler.*", "simulation.*", "moegate.vllm_plugin", "moegate.simulated_vllm.forms"),
        "moegate.simulated_vllm.pooling",
    ),
    "moegate.up": ("gateway.*", "simulation.catalog"),
    "moegate.demo": ("gateway.*", "scheduler.*", "simulation.*", "moegate.up", GRPC),
    "moegate.cli": ("gateway.*", "scheduler.*", "simulation.*", "moegate.*", GRPC),
    "moegate.__main__": ("moegate.cli",),
}
"""From low to high: each folder, and the folders it may import; `.*`: with all their subfolders.

`scheduler`, `simulation` and the folders of `moegate` are one layer each with their subfolders;
cycles inside of them are found separately."""

KNOWN: set[tuple[str, str]] = set()
"""Imports against `LAYERS` that are still there: (folder, what it imports)."""
KNOWN_CYCLES: set[frozenset[str]] = set()
"""Cycles between folders of one layer that are still there."""
MAX_MODULES = 16
KNOWN_LARGE_FOLDERS: set[str] = set()
MAX_LINES = 400

PURE = {"scheduler": {"scheduler"}, "simulation": {"simulation", "scheduler"}}
# What a pure module may use beside its own package. Clocks, I/O, tasks and hidden randomness are
# in none of these; numpy's generators take a seed (see below).
ALLOWED = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "itertools", "json", "math", "msgspec", "numpy", "operator",
    "types", "typing",
}  # fmt: skip
SOURCES = [path for package in PURE for path in sorted((ROOT / package).rglob("*.py"))]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: name the package"
            yield node.module or ""


def violations(source: str, package: str) -> list[str]:
    tree = ast.parse(source)
    allowed = ALLOWED | PURE[package]
    found = [name for name in imported(tree) if name.partition(".")[0] not in allowed]
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call) else ""
        seeded = ("Generator", "default_rng", "SeedSequence", "PCG64")
        if text.startswith("np.random.") and text.partition("(")[0].split(".")[2] not in seeded:
            found.append(f"{text}: hidden state")
        if text.endswith("default_rng()"):
            found.append(f"{text}: no seed")
        if text.startswith(("open(", "print(", "input(")):
            found.append(f"{text}: I/O")
    return found


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sources("gateway", "scheduler", "simulation")}
MODULES |= {module_name(path): path for path in sources("moegate")}
GRPC_PACKAGES = ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "moegate.v1")


def within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def folder_of(module: str) -> str:
    """The folder that holds a module; a module at the top of a package stands for itself."""
    folder = ".".join(MODULES[module].relative_to(ROOT).parent.parts)
    return folder if "." in folder else module


def targets(path: Path) -> Iterator[str]:
    """What a module imports of this repository: modules, and `GRPC`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in full]
        else:
            continue
        for name in names:
            if any(within(name, package) for package in GRPC_PACKAGES):
                yield GRPC
            elif name in MODULES:
                yield name


def layer_of(folder: str) -> str:
    return max((layer for layer in LAYERS if within(folder, layer)), key=len)


def may_import(layer: str, target: str) -> bool:
    """`target`: a module, or `GRPC`."""
    if target in (GRPC, CORE) and layer not in ("scheduler", "simulation"):
        return target in LAYERS[layer]
    if target != GRPC and layer_of(folder_of(target)) == layer:
        return True
    return any(matches(target, allowed) for allowed in LAYERS[layer])


def matches(target: str, allowed: str) -> bool:
    if allowed.endswith(".*"):
        return within(target, allowed.removesuffix(".*"))
    return target == allowed or (target in MODULES and folder_of(target) == allowed)


def against_the_layers() -> dict[tuple[str, str], set[str]]:
    """Modules with a forbidden import, by (folder, what it imports)."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        folder = folder_of(module)
        for target in targets(path):
            if not may_import(layer_of(folder), target):
                shown = target if target in (GRPC, CORE) else folder_of(target)
                found[folder, shown].add(module)
    return found


def test_the_layers_have_an_order() -> None:
    layers = list(LAYERS)
    for number, (layer, allowed) in enumerate(LAYERS.items()):
        for name in allowed:
            folder = name.removesuffix(".*")
            named = [i for i, other in enumerate(layers) if within(other, folder)]
            if name.endswith(".*"):
                # Of a whole tree, what stands below may not be imported: the cycles tell.
                assert name in ("gateway.*", "moegate.*") or max(named) <= number, (layer, name)
            elif name not in (GRPC, CORE) and named:
                assert max(i for i in named if layers[i] == folder) < number, (layer, name)


def test_every_folder_has_a_layer() -> None:
    packages = {"gateway", "moegate", "scheduler", "simulation"}
    for module in MODULES:
        folder = folder_of(module)
        if folder not in packages and MODULES[module].name != "__init__.py":
            assert any(within(folder, layer) for layer in LAYERS), f"{folder}: which layer is it?"


def test_folders_import_what_their_layer_may() -> None:
    found = against_the_layers()
    new = {pair: modules for pair, modules in found.items() if pair not in KNOWN}
    assert new == {}
    assert KNOWN - found.keys() == set(), "mended: remove it from KNOWN"


@pytest.mark.parametrize(
    ("layer", "target"),
    [
        ("scheduler", "simulation.engine.engine"),
        ("gateway.config", "gateway.auth.authenticator"),
        ("gateway.domain", "gateway.config.gateway"),
        ("gateway.upstream.openai", "gateway.upstream.anthropic.body"),
        ("gateway.upstream.openai", GRPC),
        ("gateway.fleet", CORE),
        ("gateway.pipeline", "gateway.doors.grpc.errors"),
        ("gateway.doors.http", "gateway.doors.openai.dialect"),
        ("gateway.doors.openai", GRPC),
        ("gateway.accounting", "gateway.runtime.assembly"),
        ("moegate.simulated_vllm", "gateway.server"),
    ],
)
def test_the_layers_forbid(layer: str, target: str) -> None:
    assert not may_import(layer, target)


def test_imports_are_found_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import grpc.aio\nfrom moegate.v1 import chat_pb2\nfrom google.rpc import status_pb2\n"
        "from scheduler import core\nimport scheduler.contract\nimport json\n"
        "def f():\n    from gateway.server import running_gateway\n"
    )
    assert sorted(targets(path)) == [
        "gateway.server", *[GRPC] * 3, "scheduler.contract", "scheduler.core",
    ]  # fmt: skip


def cycles() -> set[frozenset[str]]:
    """Folders that import each other, directly or through others, but for `KNOWN` imports."""
    imports: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        folder = folder_of(module)
        for target in targets(path):
            other = GRPC if target == GRPC else folder_of(target)
            if other not in (folder, GRPC) and (folder, other) not in KNOWN:
                imports[folder].add(other)
    reached = {folder: _reachable(folder, imports) for folder in imports}
    found = set()
    for folder, others in reached.items():
        if folder in others:
            found.add(frozenset(o for o in others if folder in reached.get(o, ())))
    return found


def _reachable(folder: str, imports: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    left = [*imports[folder]]
    while left:
        if (other := left.pop()) not in reached:
            reached.add(other)
            left.extend(imports.get(other, ()))
    return reached


def test_no_folder_imports_itself_through_others() -> None:
    assert cycles() == KNOWN_CYCLES


def test_folders_and_modules_are_small() -> None:
    modules: dict[str, int] = defaultdict(int)
    for path in (*MODULES.values(), *sources("benchmarks")):
        if "v1" in path.parts or path.name == "__init__.py":
            continue
        modules[".".join(path.relative_to(ROOT).parent.parts)] += 1
        assert len(path.read_text().splitlines()) <= MAX_LINES, path
    large = {folder for folder, count in modules.items() if count > MAX_MODULES}
    assert large == KNOWN_LARGE_FOLDERS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_packages_import_nothing_that_touches_the_world(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert violations(path.read_text(), package) == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import time",
        "from grpc import aio",
        "import random",
        "import aiohttp.web",
        "from opentelemetry import trace",
        "from gateway import config",
        "import numpy as np\nnp.random.random()",
        "import numpy as np\nrng = np.random.default_rng()",
        "open('x')",
    ],
)
def test_the_rule_finds_what_it_forbids(source: str) -> None:
    assert violations(source, "scheduler") != []


def test_the_scheduler_does_not_know_the_simulation() -> None:
    assert violations("from simulation import engine", "scheduler") != []
    assert violations("from scheduler import core", "simulation") == []


def test_the_gateway_never_imports_an_engine() -> None:
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        roots = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not roots & {"vllm", "torch", "transformers"}, path

"""Which module may import which: downward only, and nothing heavy outside the worker process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scanproof"

LAYERS = {
    4: {
        "plugin", "controller", "state", "settings", "session", "summary", "progress", "cli", "commands",
        "__main__", "hookspecs", "comparing", "reporting", "session_report", "latencies", "without_benchmark",
        "remeasuring", "ahead", "jobs", "own_process", "own_process_running", "own_process_child", "broken_device",
    },
    3: {
        "audit", "audit_checks", "tables", "listing", "latency_tables", "recording", "plan", "history", "report",
        "triage", "bisect", "pruning_plot",
    },
    2: {
        "evaluation", "plain", "process", "results", "worker", "snapshot", "passthrough", "store", "fingerprint",
        "filehashes", "proof", "origins", "machine", "doctor", "taskfiles", "failures", "load_report", "mirror",
        "prefetch", "download", "models", "kernels", "embedded", "environment", "faults", "placement",
        "substitution", "thrift", "scoring",
    },
    1: {
        "__init__", "values", "printed", "expected", "published", "schema", "validation", "value_checks", "yamlfile",
        "tasks", "constants", "wording", "problems", "tolerance", "flips", "likelihood", "calibration", "derive",
        "latency", "baselines", "record", "launched", "kernel_table", "pruning", "memory", "paired",
        "engines", "outcome",
    },
}  # fmt: skip
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
HEAVY = {"torch", "lm_eval", "transformers", "datasets", "mamba_ssm", "causal_conv1d", "flash_attn", "triton"}
WORKER_ONLY = {"worker", "thrift", "passthrough", "models", "kernels", "faults", "substitution", "scoring"}
TRAINING = {
    "embedded/train.py", "embedded/architectures.py", "embedded/tokenizer.py", "embedded/megatron_folder.py",
}  # fmt: skip


def modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "mirror" not in path.parts)


def room(module: str) -> str:
    """Name of the module, or of its package, in the table of layers."""
    return module.partition("/")[0].removesuffix(".py")


def imported(module: str) -> Iterator[str]:
    """Full names that a module imports, type-checking imports left out."""
    tree = ast.parse((PACKAGE / module).read_text())
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_layer_and_imports_downward(module: str) -> None:
    assert room(module) in LAYER_OF, f"{module}: add it to the table of layers"
    layer = LAYER_OF[room(module)]
    for name in imported(module):
        parts = name.split(".")
        if parts[0] == "scanproof" and len(parts) > 1 and parts[1] in LAYER_OF:
            assert LAYER_OF[parts[1]] <= layer, f"{module} (layer {layer}) imports {name} (layer {LAYER_OF[parts[1]]})"


@pytest.mark.parametrize(
    "module", [name for name in modules() if room(name) not in WORKER_ONLY and name not in TRAINING]
)
def test_nothing_heavy_is_imported_outside_the_worker(module: str) -> None:
    heavy = {name.partition(".")[0] for name in imported(module)} & HEAVY
    assert not heavy, f"{module} imports {heavy}"


def test_the_plugin_and_the_command_line_load_without_torch() -> None:
    program = (
        "import sys, scanproof.plugin, scanproof.cli, scanproof.evaluation, scanproof.expected, scanproof.session;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

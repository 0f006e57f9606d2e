"""Rooms import downward only, and nothing above the worker loads torch or lm-eval."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "scanproof"
HEAVY = ("torch", "lm_eval", "transformers", "datasets", "mamba_ssm", "causal_conv1d", "flash_attn", "triton")
COMPUTING = ("evaluation/worker", "models", "scoring", "kernels", "faults", "embedded")
"""Where torch and lm-eval may be imported."""


def light_modules() -> list[str]:
    """Every module outside the rooms that compute, by its dotted name."""
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    light = [path for path in paths if not path.as_posix().startswith(COMPUTING) and path.name != "__main__.py"]
    return sorted(".".join(("scanproof", *path.with_suffix("").parts)).removesuffix(".__init__") for path in light)


def test_nothing_above_the_worker_loads_torch_or_lm_eval() -> None:
    """In a process of its own: what other tests have imported would hide it."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    if heavy: sys.exit(f'{name} loads {heavy}')\n"
    )
    command = [sys.executable, "-c", program, *light_modules()]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_no_function_above_the_worker_imports_them_either() -> None:
    """A function that is called later would bring them into pytest's own process."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(COMPUTING):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                found += [f"{name}:{node.lineno}: {each}" for each in named if each.partition(".")[0] in HEAVY]
    assert found == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's code, without its data, with the contracts."""
    for path in PACKAGE.rglob("*.py"):
        target = tmp_path / path.relative_to(ROOT)
        if "mirror" not in target.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_the_contracts_hold(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("numbers/values.py", "from scanproof.history import drift", "scanproof.history.drift"),
        ("kernels/costs.py", "from scanproof.evaluation import store", "scanproof.evaluation.store"),
        ("report/build.py", "from scanproof.cli import app", "scanproof.cli.app"),
        ("history/drift.py", "import torch", "torch"),
        ("evaluation/results.py", "import lm_eval", "lm_eval"),
    ],
)
def test_the_contracts_see_an_import_that_goes_up_and_one_that_is_heavy(
    copy: Path, module: str, line: str, said: str
) -> None:
    path = copy / "scanproof" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    result = lint(copy)
    assert result.returncode != 0
    assert said in result.stdout

"""Calls the scripts for a bare GPU machine, `tools/gpu_check.sh` and `tools/gpu_wheels.sh`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import gpu_check
import gpu_results
import pytest
from gpu_steps import Step

from tests.support.known_digests import compute_digests

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
Check = Callable[..., tuple[int, str]]


def shell(*words: object, without_gpu: bool = True, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A script of tools/ with this Python; without drivers, wherever the tests run."""
    path = os.pathsep.join(
        each
        for each in os.environ["PATH"].split(os.pathsep)
        if not (without_gpu and (Path(each) / "nvidia-smi").exists())
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SCANPROOF_"))}
    return subprocess.run(
        list(map(str, words)), cwd=folder, env={**inherited, "PATH": path}, capture_output=True, text=True, check=False
    )


def report_gpu(folder: Path, name: str = "Made-up GPU", driver: str = "1.2.3") -> None:
    """Let the driver's tool in a folder report a GPU."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{name}, {driver}, 81559'\n")
    tool.chmod(0o755)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Steps of a test's own through `gpu_check.main`, on a machine whose driver's tool reports a GPU."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    report_gpu(tool.parent)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    # Steps are sessions of their own, and take nothing from this one.
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "SCANPROOF_"))]:
        monkeypatch.delenv(name)

    work = tmp_path / "work"
    work.mkdir()
    shutil.copyfile(compute_digests() / "cache" / "hashes.sqlite", work / "digests.sqlite")

    def run(table: Sequence[Step], *words: str) -> tuple[int, str]:
        places = ["--work", str(work), "--out", str(tmp_path / "out")]
        code = gpu_check.main([*places, *words], table)
        return code, capsys.readouterr().out

    return run


def of_python(name: str, code: str, limit: int = 120) -> Step:
    return Step(name=name, asks=f"{name}?", limit=limit, command=("-c", code))


def of_tests(tmp_path: Path, name: str, text: str, *words: str) -> Step:
    path = tmp_path / f"test_{name}.py"
    path.write_text(text)
    return Step(name=name, asks=f"{name}?", limit=120, tests=(str(path), *words))


def results(tmp_path: Path) -> dict[str, gpu_results.Result]:
    return gpu_results.read([tmp_path / "out"])

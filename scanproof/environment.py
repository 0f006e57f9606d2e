"""This machine: GPU, driver, package versions.  Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "causal-conv1d", "datasets", "flash-attn", "lm-eval", "mamba-ssm", "numpy",
    "scanproof", "tokenizers", "torch", "transformers", "triton",
)  # fmt: skip
"""Distributions whose version can move a number."""
SMI_SECONDS = 30.0
"""Time limit of nvidia-smi: the first call after a start of the machine loads the driver."""


def versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed version per distribution name; None where it is not installed."""
    installed: dict[str, str | None] = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def usable_cpus() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def gpus() -> list[dict[str, str]]:
    """Name, driver and memory (MiB) of each NVIDIA GPU, asked from the driver's own tool, not from torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    fields = ["name", "driver_version", "memory.total"]
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if result.returncode != 0:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in result.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def why_no_gpu() -> str | None:
    """Why a test that needs an NVIDIA GPU cannot run here, or None when it can."""
    if shutil.which("nvidia-smi") is None:
        return "needs an NVIDIA GPU: no NVIDIA driver is installed here (nvidia-smi not found)"
    if not gpus():
        return "needs an NVIDIA GPU: nvidia-smi is here but reports no usable GPU"
    return None


def source(folder: Path) -> dict[str, Any] | None:
    """Branch, commit, and whether files have uncommitted changes, of the clone in `folder`; None outside of a clone.

    A continuous-integration job checks out a commit without a branch; it names the branch in its environment.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                [git, *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    named = [os.environ.get(name) for name in ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")]
    branch = next(filter(None, named), None) or ask("symbolic-ref", "--quiet", "--short", "HEAD")
    return {"branch": branch, "commit": commit, "changed": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def snapshot(folder: Path | None = None) -> dict[str, Any]:
    """Python, platform, package versions, GPUs of this machine, and the clone in `folder` that is being tested."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": versions(),
        "gpus": gpus(),
        **({"source": source(folder)} if folder is not None else {}),
    }

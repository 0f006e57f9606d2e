"""What this machine is: GPU, driver, packages.  Nothing heavy is imported for it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

PACKAGES = (
    "causal-conv1d", "datasets", "flash-attn", "lm-eval", "mamba-ssm", "numpy",
    "scanproof", "tokenizers", "torch", "transformers", "triton",
)  # fmt: skip
"""Distributions whose version can move a number."""


def versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed version per distribution name; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def gpus() -> list[dict[str, str]]:
    """Name, driver and memory (MiB) of each NVIDIA GPU, asked from the driver's own tool, not from torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    fields = ["name", "driver_version", "memory.total"]
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
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


def snapshot() -> dict[str, Any]:
    """Python, platform, package versions and GPUs of this machine."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": versions(),
        "gpus": gpus(),
    }

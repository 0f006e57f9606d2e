"""What this machine has to run kernels with, found without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from scanproof import environment
from scanproof.kernels.launches import kernel_table, origin

INSTALL_TORCH = "install torch for CUDA: https://pytorch.org/get-started/locally"
LOAD_SECONDS = 60.0
LOAD = """
import importlib, json, sys
found = {}
try:
    import torch
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
            found[name] = None
        except (ImportError, OSError) as error:
            found[name] = str(error)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
except Exception as error:
    found = {name: f"torch cannot be imported: {type(error).__name__}: {error}" for name in sys.argv[1:]}
print("\\n" + json.dumps({"loaded": found}))
"""


@dataclass(frozen=True, kw_only=True)
class KernelPackage:
    """One package of the table, as it is installed here."""

    distribution: str
    version: str | None = None
    """None: not installed."""
    commit: str | None = None
    """Of its sources, where the installer or a clone says it."""
    importable: bool = False
    """`import` finds its Python module."""
    shadowed: str | None = None
    """Where `import` finds it when that is not the installed one."""
    no_extension: str | None = None
    """Why its CUDA extension cannot be loaded, or None."""
    needs_extension: bool = True
    """Its Python module cannot be imported without the extension."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything that decides which kernels run."""

    gpus: tuple[dict[str, str], ...] = ()
    no_gpu: str | None = None
    """Why no GPU can be used, or None."""
    torch: str | None = None
    torch_cuda: str | None = None
    """CUDA that torch was built for; None: for the CPU."""
    triton: str | None = None
    nvcc: str | None = None
    """Where the CUDA compiler is; needed to build, not to run."""
    nvcc_cuda: str | None = None
    """CUDA version of the compiler, where it says it."""
    not_to_build: tuple[str, ...] = ()
    """What building kernel packages needs beside the compiler, and is not installed."""
    packages: tuple[KernelPackage, ...] = ()
    hub_kernels: str | None = None
    """Version of the hub's `kernels` package, where transformers would use it."""

    def package(self, distribution: str) -> KernelPackage:
        return next(each for each in self.packages if each.distribution == distribution)


def examine() -> Machine:
    """Look at this machine; extensions are loaded in a process of their own, where there are any."""
    present = [package.extension for package in kernel_table.PACKAGES if _finds(package.extension)]
    reasons = load_extensions(present) if present else {}
    nvcc = find_nvcc()
    return Machine(
        gpus=tuple(environment.gpus()),
        no_gpu=environment.why_no_gpu(),
        torch=_version("torch"),
        torch_cuda=torch_cuda(),
        triton=_version("triton"),
        nvcc=nvcc,
        nvcc_cuda=nvcc_cuda(nvcc) if nvcc else None,
        not_to_build=tuple(name for name in kernel_table.BUILD_REQUIREMENTS if not _finds(name)),
        packages=tuple(kernel_package(package, reasons) for package in kernel_table.PACKAGES),
        hub_kernels=_version("kernels") if _uses_hub_kernels() else None,
    )


def load_extensions(names: list[str], seconds: float = LOAD_SECONDS) -> dict[str, str | None]:
    """Extension -> why it cannot be loaded, or None; it may crash or hang without harm."""
    command = [sys.executable, "-c", LOAD, *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(names, f"loading it took more than {seconds:g} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return dict.fromkeys(names, f"loading it ended python with exit code {done.returncode}: {last}")
    # What is loaded may print as well.
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"loaded": ')]
    loaded: dict[str, str | None] = json.loads(line)["loaded"]
    return loaded


def kernel_package(package: kernel_table.Package, reasons: dict[str, str | None]) -> KernelPackage:
    """How a package is installed; `reasons` as `load_extensions` gives them."""
    installed = origin.find_installed(package.distribution)
    module = package.modules[0]
    place = _place(module)
    return KernelPackage(
        distribution=package.distribution,
        version=installed.version if installed else None,
        commit=source_commit(installed) if installed else None,
        importable=place is not None,
        shadowed=place if place and installed and origin.distribution_of(place) is None else None,
        no_extension=reasons.get(package.extension, f"there is no module {package.extension}"),
        needs_extension=place is not None and needs_extension(Path(place).parent, package.extension),
    )


def source_commit(installed: metadata.Distribution) -> str | None:
    """Commit of a distribution's sources: noted by the installer (PEP 610), or of the clone it is edited in."""
    direct = origin.direct_url(installed)
    info = direct.get("vcs_info")
    if isinstance(info, dict):
        return str(info.get("commit_id"))
    source = origin.source_folder(installed)
    if source is None or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def source_commits() -> dict[str, str | None]:
    """Commit of each installed kernel package, None where it cannot be known: a version alone may be many commits."""
    found = {package.distribution: origin.find_installed(package.distribution) for package in kernel_table.PACKAGES}
    return {name: source_commit(installed) for name, installed in found.items() if installed is not None}


def torch_cuda() -> str | None:
    """CUDA version that the installed torch was built for, read from its version file."""
    place = _place("torch")
    file = Path(place).parent / "version.py" if place else None
    if file is None or not file.is_file():
        return None
    for node in _statements(file.read_text(errors="replace")):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
            value = getattr(node, "value", None)
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def find_nvcc() -> str | None:
    """The CUDA compiler, looked for where torch's builds of extensions look for it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=str(Path(home) / "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def nvcc_cuda(nvcc: str) -> str | None:
    """CUDA version of a compiler: `13.0`."""
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"release (\d+\.\d+)", done.stdout)
    return release[1] if release else None


def why_no_gpu() -> str | None:
    """Why a program of PyTorch cannot use a GPU here, as far as that is known without importing PyTorch; None: it may.

    The driver's tool comes first, then the installed torch: one that is built for the CPU finds no GPU.
    """
    reason = environment.why_no_gpu()
    if reason is not None or torch_cuda() is not None:
        return reason
    version = _version("torch")
    found = f"torch {version} is built for the CPU" if version else "torch is not installed"
    return f"needs an NVIDIA GPU: there is one, but {found}; {INSTALL_TORCH}"


def needs_extension(folder: Path, extension: str) -> bool:
    """Whether a module of a package imports the extension without a `try` around it."""
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(errors="replace")
        if f"import {extension}" in text and _imports_plainly(_statements(text), extension):
            return True
    return False


def _statements(text: str) -> list[ast.stmt]:
    """Of a module; none where it is not Python."""
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError):
        return []


def _imports_plainly(body: list[ast.stmt], module: str) -> bool:
    for node in body:
        if isinstance(node, ast.Import) and module in [alias.name for alias in node.names]:
            return True
        if isinstance(node, ast.If) and _imports_plainly([*node.body, *node.orelse], module):
            return True
    return False


def _uses_hub_kernels() -> bool:
    return os.environ.get("USE_HUB_KERNELS", "YES").upper() in ("1", "ON", "YES", "TRUE")


def _version(distribution: str) -> str | None:
    return environment.versions((distribution,))[distribution]


def _finds(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _place(module: str) -> str | None:
    """File that `import` would load for a top-level module; nothing is imported."""
    spec = importlib.util.find_spec(module)
    return spec.origin if spec is not None else None

"""Finds out what this machine has for running kernels: GPU, torch, CUDA, kernel packages.  It does not import torch."""

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
"""Time limit for loading the extensions."""
LOAD = """
import importlib, json, sys
reasons = {}
try:
    import torch
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
            reasons[name] = None
        except (ImportError, OSError) as error:
            reasons[name] = str(error)
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}"
except Exception as error:
    reasons = {name: f"torch cannot be imported: {type(error).__name__}: {error}" for name in sys.argv[1:]}
print("\\n" + json.dumps({"loaded": reasons}))
"""
"""Program that loads extensions, named in its arguments, and prints for each why it cannot be loaded, or null."""


@dataclass(frozen=True, kw_only=True)
class KernelPackage:
    """One package of the kernel table, as it is installed here."""

    distribution: str
    version: str | None = None
    """None: the package is not installed."""
    commit: str | None = None
    """Commit of its sources, if the installer or a git clone records it."""
    importable: bool = False
    """Whether `import` finds its Python module."""
    shadowed: str | None = None
    """The file that `import` finds, if it is not part of the installed package."""
    no_extension: str | None = None
    """Why its CUDA extension cannot be loaded; None if it can, or if there is none to load."""
    needs_extension: bool = True
    """Whether its Python module cannot be imported without the extension."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything on a machine that determines which kernels can run."""

    gpus: tuple[dict[str, str], ...] = ()
    """What nvidia-smi says of each GPU, by field."""
    no_gpu: str | None = None
    """Why no GPU can be used; None if one can."""
    torch: str | None = None
    """Version of torch; None: not installed."""
    torch_cuda: str | None = None
    """CUDA version that torch was built for; None: for the CPU."""
    triton: str | None = None
    """Version of triton; None: not installed."""
    nvcc: str | None = None
    """Path of the CUDA compiler, which building kernels needs and running them does not."""
    nvcc_cuda: str | None = None
    """CUDA version of the compiler; None if it does not say."""
    not_to_build: tuple[str, ...] = ()
    """Modules that building kernel packages needs and that are not installed."""
    packages: tuple[KernelPackage, ...] = ()
    hub_kernels: str | None = None
    """Version of the Hugging Face hub's `kernels` package, if transformers would use it; None otherwise."""

    def package(self, distribution: str) -> KernelPackage:
        """The package of a distribution that is in the kernel table."""
        return next(package for package in self.packages if package.distribution == distribution)


def examine() -> Machine:
    """Examine this machine; the extensions that exist are loaded in a process of their own."""
    extensions = [package.extension for package in kernel_table.PACKAGES if package.extension]
    present = [extension for extension in extensions if _is_importable(extension)]
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
        not_to_build=tuple(name for name in kernel_table.BUILD_REQUIREMENTS if not _is_importable(name)),
        packages=tuple(kernel_package(package, reasons) for package in kernel_table.PACKAGES),
        hub_kernels=_version("kernels") if _uses_hub_kernels() else None,
    )


def load_extensions(names: list[str], seconds: float = LOAD_SECONDS) -> dict[str, str | None]:
    """Try to load extensions in a process of their own, so that a crash or a hang does no harm.

    Returns:
        Extension -> why it cannot be loaded; None if it can.
    """
    command = [sys.executable, "-c", LOAD, *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(names, f"loading it took more than {seconds:g} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return dict.fromkeys(names, f"loading it ended python with exit code {done.returncode}: {last}")
    # Loaded modules may print to standard output as well.
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"loaded": ')]
    loaded: dict[str, str | None] = json.loads(line)["loaded"]
    return loaded


def kernel_package(package: kernel_table.Package, reasons: dict[str, str | None]) -> KernelPackage:
    """Find out how a package is installed.

    Args:
        reasons: what `load_extensions` returned.
    """
    installed = origin.find_installed(package.distribution)
    module = package.modules[0]
    file = _find_file(module)
    lacking = reasons.get(package.extension, f"there is no module {package.extension}") if package.extension else None
    return KernelPackage(
        distribution=package.distribution,
        version=installed.version if installed else None,
        commit=source_commit(installed) if installed else None,
        importable=file is not None,
        shadowed=file if file and installed and origin.distribution_of(file) is None else None,
        no_extension=lacking,
        needs_extension=bool(package.extension)
        and file is not None
        and needs_extension(Path(file).parent, package.extension),
    )


def source_commit(installed: metadata.Distribution) -> str | None:
    """Commit of a distribution's sources, by the installer's record (PEP 610) or by git if it is an editable one."""
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
    """Commit of each installed kernel package, because one version may be many commits; None where it is not known."""
    distributions = {
        package.distribution: origin.find_installed(package.distribution) for package in kernel_table.PACKAGES
    }
    return {name: source_commit(installed) for name, installed in distributions.items() if installed is not None}


def torch_cuda() -> str | None:
    """CUDA version of the installed torch, read from its version.py; None: built for the CPU, or not installed."""
    init = _find_file("torch")
    version_file = Path(init).parent / "version.py" if init else None
    if version_file is None or not version_file.is_file():
        return None
    for node in _statements(version_file.read_text(errors="replace")):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
            value = getattr(node, "value", None)
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def find_nvcc() -> str | None:
    """Find the CUDA compiler in the places where torch looks for it when it builds extensions."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=str(Path(home) / "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def nvcc_cuda(nvcc: str) -> str | None:
    """CUDA version of a compiler, such as `13.0`; None if it does not say."""
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"release (\d+\.\d+)", done.stdout)
    return release[1] if release else None


def why_no_gpu() -> str | None:
    """The reason why PyTorch cannot use a GPU here, or None if there is no reason that is known without importing it.

    First nvidia-smi is asked whether there is a GPU, then whether the installed torch is built for CUDA.
    """
    reason = environment.why_no_gpu()
    if reason is not None or torch_cuda() is not None:
        return reason
    version = _version("torch")
    torch = f"torch {version} is built for the CPU" if version else "torch is not installed"
    return f"needs an NVIDIA GPU: there is one, but {torch}; {INSTALL_TORCH}"


def needs_extension(folder: Path, extension: str) -> bool:
    """Whether a module below a folder imports the extension outside of any `try`, so that it fails without it."""
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(errors="replace")
        if f"import {extension}" in text and _imports_plainly(_statements(text), extension):
            return True
    return False


def _statements(text: str) -> list[ast.stmt]:
    """Top-level statements of a module; none if its text is not Python."""
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError):
        return []


def _imports_plainly(body: list[ast.stmt], module: str) -> bool:
    """Whether statements import a module at top level or under `if`, but not in `try` or in a function."""
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


def _is_importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _find_file(module: str) -> str | None:
    """The file that `import` would load for a top-level module; nothing is imported."""
    spec = importlib.util.find_spec(module)
    return spec.origin if spec is not None else None

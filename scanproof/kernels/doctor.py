"""Says what this machine lacks for a complete run on its GPU: a pure function from a Machine to rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scanproof.kernels.launches import kernel_table
from scanproof.kernels.launches.kernel_table import Operation
from scanproof.kernels.launches.machine import INSTALL_TORCH, KernelPackage, Machine

DoctorState = Literal["ok", "missing", "warning"]
COLUMNS = ("what", "state", "found", "advice")
OLDEST_TRITON = (3, 5)
"""Oldest release that mamba-ssm 2.3 works with."""
USE_INSTALLED = "set USE_HUB_KERNELS=NO, or pip uninstall kernels"


@dataclass(frozen=True, kw_only=True)
class DoctorRow:
    """The state of one thing that kernels need, or of one operation."""

    what: str
    state: DoctorState
    found: str
    """What is installed, or the reason why it is missing."""
    advice: str = ""
    """What to do about it."""


def diagnose(machine: Machine) -> list[DoctorRow]:
    """Describe the machine, its packages and its operations, and warn of known pitfalls; one row each."""
    return [
        *_describe_machine(machine),
        *(_describe_package(package) for package in machine.packages),
        *(_describe_operation(operation, machine) for operation in kernel_table.OPERATIONS),
        *_warn_of_traps(machine),
    ]


def missing_rows(rows: list[DoctorRow]) -> list[DoctorRow]:
    """The rows of what a run on the GPU would lack."""
    return [row for row in rows if row.state == "missing"]


def _describe_machine(machine: Machine) -> Iterator[DoctorRow]:
    if machine.no_gpu is not None:
        reason = machine.no_gpu.removeprefix("needs an NVIDIA GPU: ")
        yield DoctorRow(
            what="GPU", state="missing", found=reason, advice="run on a machine with an NVIDIA GPU and driver"
        )
    for gpu in machine.gpus:
        yield DoctorRow(what="GPU", state="ok", found=f"{gpu['name']}, {gpu['memory.total']} MiB")
        yield DoctorRow(what="driver", state="ok", found=gpu["driver_version"])
    yield _describe_torch(machine)
    yield _describe_cuda(machine)
    yield _describe_triton(machine)


def _describe_cuda(machine: Machine) -> DoctorRow:
    """CUDA of torch and of the compiler; the compiler matters only if a kernel package has to be built."""
    compiler = f"compiler {machine.nvcc}" if machine.nvcc else "no compiler (nvcc), which only building needs"
    if machine.nvcc_cuda is not None:
        compiler += f" of CUDA {machine.nvcc_cuda}"
    description = f"{machine.torch_cuda or 'none'} in torch; {compiler}"
    if machine.torch_cuda is None or all(_is_complete(package) for package in machine.packages):
        return DoctorRow(what="CUDA", state="ok", found=description)
    major = machine.torch_cuda.partition(".")[0]
    if machine.nvcc is None or (machine.nvcc_cuda or major).partition(".")[0] != major:
        advice = f"install CUDA's compiler {machine.torch_cuda} before kernel packages, and set CUDA_HOME to its folder"
        return DoctorRow(what="CUDA", state="warning", found=description, advice=advice)
    return DoctorRow(what="CUDA", state="ok", found=description)


def _describe_torch(machine: Machine) -> DoctorRow:
    if machine.torch is None:
        return DoctorRow(what="torch", state="missing", found="not installed", advice=INSTALL_TORCH)
    if machine.torch_cuda is None:
        return DoctorRow(
            what="torch", state="missing", found=f"{machine.torch}, built for the CPU", advice=INSTALL_TORCH
        )
    return DoctorRow(what="torch", state="ok", found=f"{machine.torch}, built for CUDA {machine.torch_cuda}")


def _describe_triton(machine: Machine) -> DoctorRow:
    why = _why_no_triton(machine)
    if why is None:
        return DoctorRow(what="triton", state="ok", found=machine.triton or "")
    return DoctorRow(
        what="triton", state="missing", found=why, advice="install the triton that torch pins, 3.5 or later"
    )


def _why_no_triton(machine: Machine) -> str | None:
    """The reason why mamba-ssm cannot use Triton here, or None when it can."""
    if machine.triton is None:
        return "not installed"
    if _release(machine.triton) < OLDEST_TRITON:
        return f"{machine.triton} is older than {_dotted(OLDEST_TRITON)}, which mamba-ssm needs"
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _release(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return (*numbers, *[0] * (3 - len(numbers)))


def _is_old(package: KernelPackage) -> bool:
    """Whether a package is installed in a release older than the table asks for."""
    oldest = kernel_table.find_package(package.distribution).oldest
    return package.version is not None and _release(package.version) < _release(oldest)


def _is_complete(package: KernelPackage) -> bool:
    """Whether a package is installed with its kernels and new enough, so that it need not be built."""
    return package.importable and package.no_extension is None and not _is_old(package)


def _describe_package(package: KernelPackage) -> DoctorRow:
    row = kernel_table.find_package(package.distribution)
    if not package.importable:
        return DoctorRow(
            what=row.distribution, state="missing", found="not installed", advice=f"{row.install} ({row.when})"
        )
    version = f"{package.version or 'no version: not installed, found on the module path'}"
    commit = f"commit {package.commit}" if package.commit else "commit not known"
    if package.no_extension is not None:
        why = f"{version}, {commit}; without {row.extension}: {package.no_extension}"
        return DoctorRow(
            what=row.distribution, state="missing", found=why, advice=_advise_rebuild(row, package.no_extension)
        )
    if _is_old(package):
        description = f"{version}, {commit}; older than {row.oldest}"
        return DoctorRow(what=row.distribution, state="missing", found=description, advice=row.install)
    loads = f"{row.extension} loads" if row.extension else "its kernels are Triton's"
    return DoctorRow(what=row.distribution, state="ok", found=f"{version}, {commit}; {loads}")


def _advise_rebuild(row: kernel_table.Package, reason: str) -> str:
    if "undefined symbol" in reason or "cannot open shared object" in reason:
        return f"it was built for another torch or CUDA; build it again: {row.rebuild}"
    return f"it is installed without its kernels; build it again: {row.rebuild} ({row.when})"


def _describe_operation(operation: Operation, machine: Machine) -> DoctorRow:
    reasons = list(dict.fromkeys(_find_reasons(operation, machine)))
    if not reasons:
        return DoctorRow(what=operation.name, state="ok", found="real")
    advice = f"without it: {operation.without}"
    return DoctorRow(what=operation.name, state="missing", found="; ".join(reasons), advice=advice)


def _find_reasons(operation: Operation, machine: Machine) -> Iterator[str]:
    """The reasons why an operation would not launch its kernels; none if it would."""
    if machine.no_gpu is not None:
        yield "no GPU"
    if machine.torch_cuda is None:
        yield "no torch for CUDA"
    for name in operation.forward:
        for kernel in kernel_table.find_kernels(name):
            package = machine.package(kernel.distribution)
            extension = kernel_table.find_package(kernel.distribution).extension
            if not package.importable:
                yield f"no {kernel.distribution}"
            elif package.no_extension is not None and (kernel.entries or package.needs_extension):
                yield f"no {extension}" if kernel.entries else f"{kernel.distribution} needs {extension}"
            if not kernel.entries and _why_no_triton(machine):
                yield f"no triton {_dotted(OLDEST_TRITON)} or later"


def _warn_of_traps(machine: Machine) -> Iterator[DoctorRow]:
    """Warn of what does not stop a run but spoils it: missing build tools, shadowed packages, kernels of the hub."""
    if machine.not_to_build and not all(_is_complete(package) for package in machine.packages):
        description = f"not installed, and needed to build kernel packages: {', '.join(machine.not_to_build)}"
        yield DoctorRow(what="build tools", state="warning", found=description, advice=kernel_table.INSTALL_EXTRA)
    for package in machine.packages:
        if package.shadowed:
            description = f"{package.distribution} is imported from {package.shadowed}, not from what is installed"
            advice = "published numbers end as errors; pip install -e that folder, or take it off PYTHONPATH"
            yield DoctorRow(what="working copy", state="warning", found=description, advice=advice)
    if machine.hub_kernels:
        description = f"the hub's package kernels {machine.hub_kernels} is installed"
        advice = f"transformers may run kernels of the hub, and numbers end as errors: {USE_INSTALLED}"
        yield DoctorRow(what="hub kernels", state="warning", found=description, advice=advice)
    mamba = machine.package("mamba-ssm")
    if machine.no_gpu is not None and mamba.importable and not (mamba.needs_extension and mamba.no_extension):
        description = "mamba_ssm can be imported and there is no GPU"
        advice = "transformers takes its kernels without asking for a GPU: run the embedded suite without mamba-ssm"
        yield DoctorRow(what="mamba_ssm on the CPU", state="warning", found=description, advice=advice)

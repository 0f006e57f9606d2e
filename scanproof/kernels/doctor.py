"""Would a run on this machine's GPU be complete?  Pure: a Machine in, rows out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scanproof.kernels.launches import kernel_table
from scanproof.kernels.launches.kernel_table import Operation
from scanproof.kernels.launches.machine import INSTALL_TORCH, KernelPackage, Machine

State = Literal["ok", "missing", "warning"]
COLUMNS = ("what", "state", "found", "advice")
OLDEST_TRITON = (3, 5)
"""mamba-ssm 2.3 needs it."""
USE_INSTALLED = "set USE_HUB_KERNELS=NO, or pip uninstall kernels"


@dataclass(frozen=True, kw_only=True)
class DoctorRow:
    """One thing that kernels need, or one operation."""

    what: str
    state: State
    found: str
    """What is there, or why it is not."""
    advice: str = ""
    """What to do about it."""


def diagnose(machine: Machine) -> list[DoctorRow]:
    """The machine, its packages, its operations, and what is known to go wrong."""
    return [
        *_machine(machine),
        *(_package(package) for package in machine.packages),
        *(_operation(operation, machine) for operation in kernel_table.OPERATIONS),
        *_traps(machine),
    ]


def missing_rows(found: list[DoctorRow]) -> list[DoctorRow]:
    """What a run on the GPU would lack."""
    return [row for row in found if row.state == "missing"]


def _machine(machine: Machine) -> Iterator[DoctorRow]:
    if machine.no_gpu is not None:
        reason = machine.no_gpu.removeprefix("needs an NVIDIA GPU: ")
        yield DoctorRow(
            what="GPU", state="missing", found=reason, advice="run on a machine with an NVIDIA GPU and driver"
        )
    for gpu in machine.gpus:
        yield DoctorRow(what="GPU", state="ok", found=f"{gpu['name']}, {gpu['memory.total']} MiB")
        yield DoctorRow(what="driver", state="ok", found=gpu["driver_version"])
    yield _torch(machine)
    yield _cuda(machine)
    yield _triton(machine)


def _cuda(machine: Machine) -> DoctorRow:
    """The compiler matters where a kernel package has to be built, and there only."""
    compiler = f"compiler {machine.nvcc}" if machine.nvcc else "no compiler (nvcc), which only building needs"
    if machine.nvcc_cuda is not None:
        compiler += f" of CUDA {machine.nvcc_cuda}"
    found = f"{machine.torch_cuda or 'none'} in torch; {compiler}"
    if machine.torch_cuda is None or all(_is_whole(package) for package in machine.packages):
        return DoctorRow(what="CUDA", state="ok", found=found)
    major = machine.torch_cuda.partition(".")[0]
    if machine.nvcc is None or (machine.nvcc_cuda or major).partition(".")[0] != major:
        advice = f"install CUDA's compiler {machine.torch_cuda} before kernel packages, and set CUDA_HOME to its folder"
        return DoctorRow(what="CUDA", state="warning", found=found, advice=advice)
    return DoctorRow(what="CUDA", state="ok", found=found)


def _torch(machine: Machine) -> DoctorRow:
    if machine.torch is None:
        return DoctorRow(what="torch", state="missing", found="not installed", advice=INSTALL_TORCH)
    if machine.torch_cuda is None:
        return DoctorRow(
            what="torch", state="missing", found=f"{machine.torch}, built for the CPU", advice=INSTALL_TORCH
        )
    return DoctorRow(what="torch", state="ok", found=f"{machine.torch}, built for CUDA {machine.torch_cuda}")


def _triton(machine: Machine) -> DoctorRow:
    why = _no_triton(machine)
    if why is None:
        return DoctorRow(what="triton", state="ok", found=machine.triton or "")
    return DoctorRow(
        what="triton", state="missing", found=why, advice="install the triton that torch pins, 3.5 or later"
    )


def _no_triton(machine: Machine) -> str | None:
    if machine.triton is None:
        return "not installed"
    if _release(machine.triton) < OLDEST_TRITON:
        return f"{machine.triton} is older than {'.'.join(map(str, OLDEST_TRITON))}, which mamba-ssm needs"
    return None


def _release(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return (*numbers, *[0] * (3 - len(numbers)))


def _is_old(package: KernelPackage) -> bool:
    oldest = kernel_table.find_package(package.distribution).oldest
    return package.version is not None and _release(package.version) < _release(oldest)


def _is_whole(package: KernelPackage) -> bool:
    return package.importable and package.no_extension is None and not _is_old(package)


def _package(package: KernelPackage) -> DoctorRow:
    row = kernel_table.find_package(package.distribution)
    if not package.importable:
        return DoctorRow(
            what=row.distribution, state="missing", found="not installed", advice=f"{row.install} ({row.when})"
        )
    version = f"{package.version or 'no version: not installed, found on the module path'}"
    commit = f"commit {package.commit}" if package.commit else "commit not known"
    if package.no_extension is not None:
        why = f"{version}, {commit}; without {row.extension}: {package.no_extension}"
        return DoctorRow(what=row.distribution, state="missing", found=why, advice=_remedy(row, package.no_extension))
    if _is_old(package):
        found = f"{version}, {commit}; older than {row.oldest}"
        return DoctorRow(what=row.distribution, state="missing", found=found, advice=row.install)
    return DoctorRow(what=row.distribution, state="ok", found=f"{version}, {commit}; {row.extension} loads")


def _remedy(row: kernel_table.Package, reason: str) -> str:
    if "undefined symbol" in reason or "cannot open shared object" in reason:
        return f"it was built for another torch or CUDA; build it again: {row.rebuild}"
    return f"it is installed without its kernels; build it again: {row.rebuild} ({row.when})"


def _operation(operation: Operation, machine: Machine) -> DoctorRow:
    reasons = list(dict.fromkeys(_reasons(operation, machine)))
    if not reasons:
        return DoctorRow(what=operation.name, state="ok", found="real")
    advice = f"without it: {operation.without}"
    return DoctorRow(what=operation.name, state="missing", found="; ".join(reasons), advice=advice)


def _reasons(operation: Operation, machine: Machine) -> Iterator[str]:
    """Why an operation would not launch its kernels."""
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
            if not kernel.entries and _no_triton(machine):
                yield "no triton that mamba-ssm can use"


def _traps(machine: Machine) -> Iterator[DoctorRow]:
    if machine.not_to_build and not all(_is_whole(package) for package in machine.packages):
        found = f"not installed, and needed to build kernel packages: {', '.join(machine.not_to_build)}"
        yield DoctorRow(what="build tools", state="warning", found=found, advice=kernel_table.INSTALL_EXTRA)
    for package in machine.packages:
        if package.shadowed:
            found = f"{package.distribution} is imported from {package.shadowed}, not from what is installed"
            advice = "published numbers end as errors; pip install -e that folder, or take it off PYTHONPATH"
            yield DoctorRow(what="working copy", state="warning", found=found, advice=advice)
    if machine.hub_kernels:
        found = f"the hub's package kernels {machine.hub_kernels} is installed"
        advice = f"transformers may run kernels of the hub, and numbers end as errors: {USE_INSTALLED}"
        yield DoctorRow(what="hub kernels", state="warning", found=found, advice=advice)
    mamba = machine.package("mamba-ssm")
    if machine.no_gpu is not None and mamba.importable and not (mamba.needs_extension and mamba.no_extension):
        found = "mamba_ssm can be imported and there is no GPU"
        advice = "transformers takes its kernels without asking for a GPU: run the embedded suite without mamba-ssm"
        yield DoctorRow(what="mamba_ssm on the CPU", state="warning", found=found, advice=advice)

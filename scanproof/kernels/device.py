"""Asks PyTorch about the GPU that kernels run on: whether it can be used, and how much memory is free."""

from __future__ import annotations

import warnings

import torch

from scanproof.kernels.launches import machine


def why_no_gpu() -> str | None:
    """The reason why kernels cannot run on a GPU here, or None when they can.

    A GPU with a driver is not enough: PyTorch has to be able to use it.
    """
    reason = machine.why_no_gpu()
    if reason is not None:
        return reason
    with warnings.catch_warnings():
        # The reason below says what torch may warn about here, for example an old driver.
        warnings.simplefilter("ignore")
        usable = torch.cuda.is_available()
    if not usable:
        return (
            f"needs an NVIDIA GPU: nvidia-smi reports one, but torch {torch.__version__} for CUDA {torch.version.cuda} "
            "cannot use it: is CUDA_VISIBLE_DEVICES empty, or the driver too old for this CUDA?"
        )
    return None


def why_no_memory(needed: float) -> tuple[str, bool] | None:
    """Why the GPU has not this much memory, and whether it never has; None when it has.

    Memory that something else holds is no property of the machine: what was left out for it was not checked.
    """
    free = free_bytes()
    if needed <= free:
        return None
    total = total_bytes()
    return f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB are free", needed > total


def total_bytes() -> int:
    """Bytes of memory that the current GPU has."""
    return int(torch.cuda.mem_get_info()[1])


def free_bytes() -> int:
    """Bytes of free memory on the current GPU, including memory that PyTorch has cached for reuse."""
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])

"""The GPU that kernels run on: whether it can be used, and how much memory it has left."""

from __future__ import annotations

import warnings

import torch

from scanproof.kernels.launches import machine


def why_no_gpu() -> str | None:
    """Why kernels cannot run on a GPU here, or None when they can: a driver is not enough, torch has to use it."""
    reason = machine.why_no_gpu()
    if reason is not None:
        return reason
    with warnings.catch_warnings():
        # What it warns of, an old driver say, is in the reason.
        warnings.simplefilter("ignore")
        usable = torch.cuda.is_available()
    if not usable:
        return (
            f"needs an NVIDIA GPU: nvidia-smi reports one, but torch {torch.__version__} for CUDA {torch.version.cuda} "
            "cannot use it: is CUDA_VISIBLE_DEVICES empty, or the driver too old for this CUDA?"
        )
    return None


def free_bytes() -> int:
    """Free memory of the current GPU, what PyTorch keeps for later calls included."""
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])

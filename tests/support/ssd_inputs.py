"""Inputs of scans and of SSD in float64, drawn from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch, F = Late("torch"), Late("torch.nn.functional")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def ssd_arguments(length: int, groups: int = 2, *, skip: bool = False) -> dict[str, Any]:
    """Arguments of SSD: b 2, l `length`, h 4, p 3, g `groups`, n 5; with `skip` also D, a number per head."""
    arguments = {
        "x": random(2, length, 4, 3),
        "dt": F.softplus(random(2, length, 4)),
        "A": -random(4).exp(),
        "B": random(2, length, groups, 5),
        "C": random(2, length, groups, 5, seed=1),
    }
    return {**arguments, "D": random(4, seed=2)} if skip else arguments

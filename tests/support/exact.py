"""Tensors that have to be equal up to the rounding of float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Late("torch")


def close(first: Tensor, second: Tensor) -> None:
    """Fail unless two tensors in float64 are equal up to rounding."""
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)

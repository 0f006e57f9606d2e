"""The first layer and position at which a model leaves its float64 run."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from scanproof.evaluation.worker.substitution.sites import places, replaced

FACTOR = 10.0
"""Errors above this many times the largest error of the layer with all operations replaced are departures."""


def blocks(network: Any) -> nn.ModuleList:
    """The model's layers: its longest list of modules.

    Raises:
        ValueError: it has none.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError("the model has no list of layers")
    return max(lists, key=len)


def stream(output: Any) -> Tensor:
    """The residual stream after a layer: mamba_ssm's layers return its two parts, the others it and a state."""
    if isinstance(output, Tensor):
        return output
    first, *rest = output
    assert isinstance(first, Tensor)
    if rest and isinstance(rest[0], Tensor) and rest[0].shape == first.shape:
        return first + rest[0]
    return first


@contextlib.contextmanager
def watched(network: Any, kept: list[Tensor]) -> Iterator[None]:
    """Keep the residual stream after each layer, in float64 on the CPU."""

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        kept.append(stream(output).detach().to("cpu", torch.float64)[0])

    handles = [layer.register_forward_hook(keep) for layer in blocks(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def streams(network: Any, tokens: Tensor) -> list[Tensor]:
    """(l, d) after each layer, for one document (1, l)."""
    kept: list[Tensor] = []
    with watched(network, kept):
        network(tokens)
    return kept


def find(network: Any, tokens: Tensor, on_gpu: bool) -> dict[str, float] | None:
    """The first departure, or None where every layer stays as close as its dtype allows.

    Args:
        tokens: (1, l).

    Returns:
        layer and position, counted from 0; error and allowed, relative to the stream's size at the position.
    """
    operations = {place.operation for place in places(network, on_gpu)}
    as_is = streams(network, tokens)
    with replaced(places(network, on_gpu), operations):
        rounded = streams(network, tokens)
    wide = copy.deepcopy(network).double()
    with replaced(places(wide, on_gpu), operations):
        exact = streams(wide, tokens)
    return first(as_is, rounded, exact)


def first(as_is: list[Tensor], rounded: list[Tensor], exact: list[Tensor]) -> dict[str, float] | None:
    """The first layer, and the first position in it, beyond what the same dtype makes of correct operations."""
    for layer, (found, fair, reference) in enumerate(zip(as_is, rounded, exact, strict=True)):
        error, noise = (relative(each, reference) for each in (found, fair))
        allowed = FACTOR * float(noise.max())
        over = torch.nonzero(error > allowed)
        if len(over):
            position = int(over[0, 0])
            return {
                "layer": layer, "position": position, "error": float(error[position]), "allowed": allowed,
            }  # fmt: skip
    return None


def relative(found: Tensor, reference: Tensor) -> Tensor:
    """Size of the error over the size of the reference, per position; NaN counts as infinite."""
    size = torch.linalg.vector_norm(reference, dim=-1)
    error = torch.linalg.vector_norm(found - reference, dim=-1) / size.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.nan_to_num(error, nan=float("inf"), posinf=float("inf"))

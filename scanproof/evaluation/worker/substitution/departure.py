"""Find the first layer and position at which a model departs from its float64 run."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from scanproof.evaluation.worker.substitution.sites import find_replacements, replace_operations

FACTOR = 10.0
"""An error is a departure if it exceeds this many times the layer's largest error with all operations replaced."""


def find_layers(network: Any) -> nn.ModuleList:
    """The model's layers: its longest list of modules.

    Raises:
        ValueError: the model has no list of modules.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError("the model has no list of layers")
    return max(lists, key=len)


def residual_stream(output: Any) -> Tensor:
    """The residual stream after a layer.

    A layer of mamba_ssm returns two parts, whose sum it is; other layers return it alone or with a state.
    """
    if isinstance(output, Tensor):
        return output
    first, *rest = output
    assert isinstance(first, Tensor)
    if rest and isinstance(rest[0], Tensor) and rest[0].shape == first.shape:
        return first + rest[0]
    return first


@contextlib.contextmanager
def record_streams(network: Any, streams: list[Tensor]) -> Iterator[None]:
    """Within the block, append to `streams` the residual stream after each layer, in float64 on the CPU."""

    def append(_module: Any, _inputs: Any, output: Any) -> None:
        streams.append(residual_stream(output).detach().to("cpu", torch.float64)[0])

    handles = [layer.register_forward_hook(append) for layer in find_layers(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def compute_streams(network: Any, tokens: Tensor) -> list[Tensor]:
    """The residual stream (l, d) after each layer, for the tokens (1, l) of one document."""
    streams: list[Tensor] = []
    with record_streams(network, streams):
        network(tokens)
    return streams


def find_departure(network: Any, tokens: Tensor, on_gpu: bool) -> dict[str, float] | None:
    """The first departure, or None where every layer is as close to float64 as its dtype allows.

    Args:
        network: the model.
        tokens: (1, l), the tokens of one document.
        on_gpu: whether the model runs on a GPU.

    Returns:
        `layer` and `position`, counted from 0; `error` and `allowed`, relative to the norm of the stream there.
    """
    replacements = find_replacements(network, on_gpu)
    operations = {replacement.operation for replacement in replacements}
    as_is = compute_streams(network, tokens)
    with replace_operations(replacements, operations):
        rounded = compute_streams(network, tokens)
    wide = copy.deepcopy(network).double()
    with replace_operations(find_replacements(wide, on_gpu), operations):
        exact = compute_streams(wide, tokens)
    return first_departure(as_is, rounded, exact)


def first_departure(as_is: list[Tensor], rounded: list[Tensor], exact: list[Tensor]) -> dict[str, float] | None:
    """The first layer and position whose error exceeds that of correct operations in the same dtype by FACTOR.

    The arguments are streams (l, d) per layer: of the model, with references in its dtype, and in float64.
    """
    for layer, (measured, correct, reference) in enumerate(zip(as_is, rounded, exact, strict=True)):
        error, noise = relative_error(measured, reference), relative_error(correct, reference)
        allowed = FACTOR * float(noise.max())
        over = torch.nonzero(error > allowed)
        if len(over):
            position = int(over[0, 0])
            return {
                "layer": layer, "position": position, "error": float(error[position]), "allowed": allowed,
            }  # fmt: skip
    return None


def relative_error(measured: Tensor, reference: Tensor) -> Tensor:
    """Norm of the error over the norm of the reference, per position (l,); NaN counts as infinite."""
    size = torch.linalg.vector_norm(reference, dim=-1)
    error = torch.linalg.vector_norm(measured - reference, dim=-1) / size.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.nan_to_num(error, nan=float("inf"), posinf=float("inf"))

"""Plants a fault of an operation into the layers of the stand-in models (`scanproof.models.layers`).

The layers call functions with other signatures than the operations: each `_adapt_...` function translates a call of a
layer's function to a call of the operation, plants the fault there, and translates the result back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest import mock

from torch import Tensor
from torch.nn import functional

from scanproof.faults.fault import Call, Fault, plant
from scanproof.models import layers

Adapt = Callable[[Call, Callable[[Call], Call]], Call]
"""Takes a layer's function, and a function that plants the fault into an operation; returns the faulty function."""


def _adapt_scan(function: Call, plant: Callable[[Call], Call]) -> Call:
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus")

    def faulty(*given: Any, **named: Any) -> tuple[Tensor, None]:
        operation = plant(lambda **arguments: function(**arguments)[0])
        return operation(**dict(zip(names, given, strict=False)), **named), None

    return faulty


def _adapt_ssd(function: Call, plant: Callable[[Call], Call]) -> Call:
    def operation(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None,
        initial_states: Tensor | None = None, return_final_states: bool = False, **unused: None,
    ) -> Any:  # fmt: skip
        y, state = function(x, dt, A, B, C, chunk_size, D, initial_state=initial_states)
        return (y, state) if return_final_states else y

    def faulty(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor, initial_state: None = None
    ) -> Any:
        return plant(operation)(x=x, dt=dt, A=A, B=B, C=C, chunk_size=chunk_size, D=D), None

    return faulty


def _adapt_convolution(function: Call, plant: Callable[[Call], Call]) -> Call:
    def operation(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **unused: None
    ) -> Any:
        return function(x, weight, bias, activation)

    def faulty(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, before: None = None
    ) -> Any:
        return plant(operation)(x=x, weight=weight, bias=bias, activation=activation)

    return faulty


def _adapt_norm(function: Call, plant: Callable[[Call], Call]) -> Call:
    def faulty(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Any:
        return plant(function)(x=x, weight=weight, eps=eps)

    return faulty


def _adapt_gated_norm(function: Call, plant: Callable[[Call], Call]) -> Call:
    def faulty(x: Tensor, z: Tensor, weight: Tensor, **options: Any) -> Any:
        return plant(function)(x=x, z=z, weight=weight, **options)

    return faulty


def _adapt_attention(function: Call, plant: Callable[[Call], Call]) -> Call:
    def operation(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float | None) -> Any:
        heads_first = (part.transpose(1, 2) for part in (q, k, v))
        return function(*heads_first, is_causal=causal, scale=softmax_scale).transpose(1, 2)

    def faulty(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float | None) -> Any:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return plant(operation)(q=q, k=k, v=v, causal=is_causal, softmax_scale=scale).transpose(1, 2)

    return faulty


@dataclass(frozen=True)
class Layer:
    """A function of the stand-ins that computes an operation."""

    owner: Any
    """The module of the function."""
    function: str
    """Name of the function."""
    adapt: Adapt
    model: str
    """The stand-in that is evaluated with a fault in this function."""


LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        "selective_scan_fn": Layer(layers, "selective_scan", _adapt_scan, "mamba1-tiny"),
        "mamba_chunk_scan_combined": Layer(layers, "ssd", _adapt_ssd, "mamba2-tiny"),
        "causal_conv1d_fn": Layer(layers, "causal_conv1d", _adapt_convolution, "mamba1-tiny"),
        "rms_norm_fn": Layer(layers, "rms_norm", _adapt_norm, "mamba1-tiny"),
        "rmsnorm_fn": Layer(layers, "gated_rms_norm", _adapt_gated_norm, "mamba2-tiny"),
        "flash_attn_func": Layer(functional, "scaled_dot_product_attention", _adapt_attention, "mamba2attn-tiny"),
    }
)
"""Operation -> layer.  The other operations have none: the stand-ins neither decode nor pack sequences, and they fuse
nothing."""


@contextmanager
def plant_in_layers(fault: Fault) -> Iterator[None]:
    """In the block, the stand-ins compute with the fault."""
    layer = LAYERS[fault.op]
    function = getattr(layer.owner, layer.function)
    with mock.patch.object(layer.owner, layer.function, layer.adapt(function, lambda call: plant(fault, call))):
        yield

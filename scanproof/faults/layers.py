"""Plants a fault into the operations that the stand-ins are made of (`scanproof.models.layers`)."""

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
"""From a layer's function, and what plants into an operation, to the function with the fault in it."""


def _scan(function: Call, plant: Callable[[Call], Call]) -> Call:
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus")

    def faulty(*given: Any, **named: Any) -> tuple[Tensor, None]:
        operation = plant(lambda **arguments: function(**arguments)[0])
        return operation(**dict(zip(names, given, strict=False)), **named), None

    return faulty


def _ssd(function: Call, plant: Callable[[Call], Call]) -> Call:
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


def _convolution(function: Call, plant: Callable[[Call], Call]) -> Call:
    def operation(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **unused: None
    ) -> Any:
        return function(x, weight, bias, activation)

    def faulty(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, before: None = None
    ) -> Any:
        return plant(operation)(x=x, weight=weight, bias=bias, activation=activation)

    return faulty


def _norm(function: Call, plant: Callable[[Call], Call]) -> Call:
    def faulty(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Any:
        return plant(function)(x=x, weight=weight, eps=eps)

    return faulty


def _gated_norm(function: Call, plant: Callable[[Call], Call]) -> Call:
    def faulty(x: Tensor, z: Tensor, weight: Tensor, **options: Any) -> Any:
        return plant(function)(x=x, z=z, weight=weight, **options)

    return faulty


def _attention(function: Call, plant: Callable[[Call], Call]) -> Call:
    def operation(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float | None) -> Any:
        heads_first = (part.transpose(1, 2) for part in (q, k, v))
        return function(*heads_first, is_causal=causal, scale=softmax_scale).transpose(1, 2)

    def faulty(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float | None) -> Any:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return plant(operation)(q=q, k=k, v=v, causal=is_causal, softmax_scale=scale).transpose(1, 2)

    return faulty


@dataclass(frozen=True)
class Layer:
    """The function of the stand-ins that does what an operation does."""

    owner: Any
    """The module that holds it."""
    function: str
    adapt: Adapt
    model: str
    """The stand-in that a fault in it is looked for with."""


LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        "selective_scan_fn": Layer(layers, "selective_scan", _scan, "mamba1-tiny"),
        "mamba_chunk_scan_combined": Layer(layers, "ssd", _ssd, "mamba2-tiny"),
        "causal_conv1d_fn": Layer(layers, "causal_conv1d", _convolution, "mamba1-tiny"),
        "rms_norm_fn": Layer(layers, "rms_norm", _norm, "mamba1-tiny"),
        "rmsnorm_fn": Layer(layers, "gated_rms_norm", _gated_norm, "mamba2-tiny"),
        "flash_attn_func": Layer(functional, "scaled_dot_product_attention", _attention, "mamba2attn-tiny"),
    }
)
"""Operation -> layer.  The others have no counterpart: the stand-ins neither decode nor pack, and fuse nothing."""


@contextmanager
def plant_in_layers(fault: Fault) -> Iterator[None]:
    """While it lasts, the stand-ins run with the fault."""
    layer = LAYERS[fault.op]
    function = getattr(layer.owner, layer.function)
    with mock.patch.object(layer.owner, layer.function, layer.adapt(function, lambda call: plant(fault, call))):
        yield

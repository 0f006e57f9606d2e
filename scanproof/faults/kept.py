"""Faults of what a function keeps from call to call, reads again in its backward pass, or hides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from scanproof.faults.fault import Arguments, Call, Fault, Spoil, WithMemory

KEYS: Mapping[str, Callable[[Tensor], Any]] = {
    "identity": id,
    "address": lambda value: value.data_ptr(),
    "shape": lambda value: (tuple(value.shape), value.dtype),
}
"""What a function tells the tensors of two calls apart by."""


def argument_kept(key: Callable[[Tensor], Any], name: str) -> Callable[[], Spoil]:
    """Make the fault: an argument is read once for each key, as where a cast of the weights is kept."""

    def make() -> Spoil:
        kept: dict[Any, Tensor] = {}

        def spoil(call: Call, arguments: Arguments) -> Any:
            value = arguments[name]
            old = kept.setdefault(key(value), value.detach().clone())
            # The gradient is that of the argument.
            read = value + (old - value).detach() if value.is_floating_point() else old
            return call(**{**arguments, name: read})

        return spoil

    return make


def results_kept(key: Callable[[Tensor], Any], name: str) -> Callable[[], Spoil]:
    """Make the fault: all results are kept, as by `functools.cache`."""

    def make() -> Spoil:
        kept: dict[Any, Any] = {}

        def spoil(call: Call, arguments: Arguments) -> Any:
            number = key(arguments[name])
            if number not in kept:
                kept[number] = call(**arguments)
            old = kept[number]
            return tuple(value.clone() for value in old) if isinstance(old, tuple) else old.clone()

        return spoil

    return make


class _Rereading(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, given: Arguments, names: list[str], *values: Tensor) -> Any:
        ctx.call, ctx.given, ctx.names, ctx.values = call, given, names, values
        return call(**{**given, **dict(zip(names, (value.detach() for value in values), strict=True))})

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        leaves = [value.detach().clone().requires_grad_() for value in ctx.values]
        with torch.enable_grad():
            results = ctx.call(**{**ctx.given, **dict(zip(ctx.names, leaves, strict=True))})
        results = results if isinstance(results, tuple) else (results,)
        return None, None, None, *torch.autograd.grad(results, leaves, gradients)


def reread_in_backward(call: Call, arguments: Arguments) -> Any:
    """The backward pass computes from the arguments themselves, which autograd was not told to keep."""
    names = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad]
    apply: Any = _Rereading.apply
    return apply(call, arguments, names, *(arguments[name] for name in names)) if names else call(**arguments)


def nan_hidden(call: Call, arguments: Arguments) -> Any:
    """A NaN in the output becomes 0."""
    result = call(**arguments)
    y = result[0] if isinstance(result, tuple) else result
    hidden = torch.nan_to_num(y)
    return (hidden, *result[1:]) if isinstance(result, tuple) else hidden


def _faults() -> Iterator[Fault]:
    for title, key in KEYS.items():
        yield Fault(
            f"kept_by_{title}-rms_norm_fn", "rms_norm_fn",
            f"The weight is that of the first call with a tensor of the same {title}.",
            WithMemory(argument_kept(key, "weight")), in_layers=False,
        )  # fmt: skip
    yield Fault(
        "results_kept-causal_conv1d_update", "causal_conv1d_update",
        "The results are those of the first call with a tensor at the same address.",
        WithMemory(results_kept(KEYS["address"], "x")), in_layers=False,
    )  # fmt: skip
    yield Fault(
        "reread-rms_norm_fn", "rms_norm_fn",
        "The backward pass reads the arguments again, and raises no error where they were overwritten.",
        reread_in_backward, in_layers=False,
    )  # fmt: skip
    for op in ("rms_norm_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"):
        yield Fault(f"hidden_nan-{op}", op, "A NaN in the output becomes 0.", nan_hidden, in_layers=False)


FAULTS: tuple[Fault, ...] = tuple(_faults())

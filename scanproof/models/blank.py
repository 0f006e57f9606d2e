"""Make a model without its weights, which come from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)

SETTING = (Tensor.uniform_, Tensor.copy_, Tensor.div_)
"""What models call, beside torch.nn.init, to set initial values."""


class _Blank(TorchFunctionMode):
    """Weights of modules are on the meta device, and no values are computed for them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        # torch's modules make weights with `device=None`.  The few numbers that a class draws itself are on the CPU.
        if func is torch.empty and given.get("device", "cpu") is None:
            given = {**given, "device": "meta"}
        target = args[0] if args else given.get("tensor")
        sets = func in SETTING or getattr(func, "__module__", None) == nn.init.__name__
        if sets and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **given)


def make_without_weights(make: Callable[[], Model]) -> Model:
    """What `make` returns, on the meta device: tensors with shapes and no values.

    `torch.device("meta")` would do, but to compute initial values on that device torch imports its compiler, which
    takes a second.
    """
    with _Blank():
        model = make()
    return model.to("meta")

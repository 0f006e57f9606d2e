"""How transformers' forms of the operations in PyTorch are called, and what they do not take.  Imports no torch."""

from __future__ import annotations

from typing import Any

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.providers.provider import Call, Condition


def passes(*names: str) -> Condition:
    """Whether a case passes an optional argument, or asks for something by an option."""
    return lambda case: any(name in case.given or bool(case.options.get(name)) for name in names)


def has_groups(case: KernelCase) -> bool:
    """Whether B and C have more than one group."""
    return case.sizes.get("g", 1) > 1 and "g" in case.axes.get("B", "g").split()


def has_constant(case: KernelCase) -> bool:
    """Whether B or C is the same at every position."""
    return any(axes.split()[-1] not in ("l", "2l") for name, axes in case.axes.items() if name in ("B", "C"))


def is_complex(case: KernelCase) -> bool:
    return "complex64" in case.types.values()


def has_heads(case: KernelCase) -> bool:
    """Whether a state has heads, as Mamba-2's has."""
    return "h" in case.axes.get("state", "h").split()


def has_no_heads(case: KernelCase) -> bool:
    return not has_heads(case)


def is_half(case: KernelCase) -> bool:
    return case.dtype != "float32"


def returns_states_in_half(case: KernelCase) -> bool:
    """Whether states are returned beside inputs in halves."""
    return is_half(case) and bool(case.options.get("return_final_states"))


def rounds_much(case: KernelCase) -> bool:
    """Whether a step in halves matters much: where softplus turns from exp(x) to x, or beside a fast decay."""
    return is_half(case) and not {"steps_wide", "decay_very_negative"}.isdisjoint(case.values.values())


def is_empty(case: KernelCase) -> bool:
    """Whether a batch has no rows."""
    return case.sizes.get("b") == 0


def has_skips_of_channels(case: KernelCase) -> bool:
    """Whether each channel of a head has a number of D of its own."""
    return "p" in case.axes.get("D", "").split()


def is_one_position(case: KernelCase) -> bool:
    """Whether the argument x has no axis of positions."""
    return "l" not in case.axes.get("x", "l").split()


def has_bias(case: KernelCase) -> bool:
    """Whether a norm has the bias that it usually lacks."""
    return bool(case.axes.get("bias"))


def gates_last(case: KernelCase) -> bool:
    """Whether a norm is taken before its gate, as is the default."""
    return "z" in case.given and bool(case.options.get("norm_before_gate", True))


def of_scan(scan: Call) -> Call:
    """The scan of (b, n, l), given B and C of one group, (b, 1, n, l), its output in the dtype of its input."""

    def call(*, u: Any, delta: Any, B: Any, C: Any, **same: Any) -> Any:
        B, C = (part.squeeze(1) if part.dim() == 4 else part for part in (B, C))
        return with_first_as(u, scan(hidden_states=u, dt=delta, B=B, C=C, **same))

    return call


def of_duality(scan: Call) -> Call:
    """The scan in chunks, its output in the dtype of its input."""
    return lambda *, x, **same: with_first_as(x, scan(hidden_states=x, **same))


def with_first_as(wanted: Any, results: Any) -> Any:
    """The results, the first of them in the dtype of another tensor: transformers' mixers cast it after the call."""
    if isinstance(results, tuple):
        return (results[0].to(wanted.dtype), *results[1:])
    return results.to(wanted.dtype)


def of_gated_norm(module: Any) -> Call:
    """The norm of a module that is made for one size, as a function of its weight."""

    def call(*, x: Any, weight: Any, bias: None, z: Any = None, eps: float = 1e-6, **options: Any) -> Any:
        import torch

        made = module(x.shape[-1], group_size=options.get("group_size") or x.shape[-1], eps=eps)
        return torch.func.functional_call(made, {"weight": weight}, (x, z))

    return call


def of_norm(module: Any) -> Call:
    """As `of_gated_norm`, of a module without a gate."""

    def call(*, x: Any, weight: Any, bias: None, eps: float = 1e-6, **options: Any) -> Any:
        import torch

        return torch.func.functional_call(module(x.shape[-1], eps=eps), {"weight": weight}, (x,))

    return call


def of_rotation(rotate: Call) -> Call:
    """The rotation of the first channels of (b, l, q, p); the form rotates all, and takes an angle for each channel."""

    def call(*, x: Any, cos: Any, sin: Any, seqlen_offsets: Any = None) -> Any:
        import torch

        places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        places = places if seqlen_offsets is None else places + seqlen_offsets[:, None]
        width = 2 * cos.shape[-1]
        cos, sin = (torch.cat([table, table], dim=-1)[places] for table in (cos, sin))
        turned, _ = rotate(x[..., :width], x[..., :width], cos, sin, unsqueeze_dim=2)
        return torch.cat([turned, x[..., width:]], dim=-1)

    return call

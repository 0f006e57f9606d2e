"""From a case to the tensors of its call: what each argument's axes are, and how its values are drawn."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels.cases import CaseError, KernelCase, suggest_nearest

Draw = Callable[[tuple[int, ...], torch.Generator, KernelCase], Any]


@dataclass(frozen=True)
class ArgumentSpec:
    """One argument of an operation."""

    name: str
    axes: str
    """Letters of the case's sizes, one per axis."""
    values: str = "normal"
    """A key of DRAWS."""
    dtype: str = "input"
    """`input`, the dtype of the case, or a dtype's name."""
    optional: bool = False
    differentiable: bool = True


@dataclass(frozen=True)
class OutputSpec:
    """One result of an operation, in the order in which it returns them; what it changes in place comes last."""

    name: str
    axes: str
    dtype: str = "input"
    option: str | None = None
    """The option that asks for it; None: it always comes."""
    differentiable: bool = True
    moved: str | None = None
    """Axes of what a call writes of it, where that is less than all."""


def case_dtype(case: KernelCase) -> torch.dtype:
    """The dtype of a case."""
    dtype = getattr(torch, case.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def dtype_of(part: ArgumentSpec | OutputSpec, case: KernelCase) -> torch.dtype:
    """Dtype of an argument or output in this case."""
    name = case.types.get(part.name, part.dtype)
    dtype = case_dtype(case) if name == "input" else getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def axes_of(part: ArgumentSpec | OutputSpec, case: KernelCase) -> str:
    """Axes of an argument or output in this case: some operations take it in more than one form."""
    return case.axes.get(part.name, part.axes)


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Sizes of the axes; a number stands for itself."""
    return tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in axes.split())


def _normal(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _uniform(low: float, high: float) -> Draw:
    def draw(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).mul(high - low).add(low)

    return draw


def _log_uniform(low: float, high: float) -> Draw:
    uniform = _uniform(math.log(low), math.log(high))
    return lambda shape_of, generator, case: torch.as_tensor(torch.exp(uniform(shape_of, generator, case)))


def _before_softplus(low: float, high: float) -> Draw:
    """Values whose softplus is log-uniform, as mamba_ssm draws the bias of dt."""
    after = _log_uniform(low, high)

    def draw(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
        steps = after(shape, generator, case)
        return torch.as_tensor(steps + torch.log(-torch.expm1(-steps)))

    return draw


def _negative(draw: Draw) -> Draw:
    return lambda shape_of, generator, case: -draw(shape_of, generator, case)


def _scaled(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """Weights (out, in): normal, divided by the root of the inputs, so that outputs stay near 1."""
    return _normal(shape, generator, case) / math.sqrt(shape[-1])


def _segments(case: KernelCase, length: int) -> tuple[int, ...]:
    segments = case.segments or (length,)
    if sum(segments) != length:
        raise ValueError(f"{case.id}: the segments {segments} have {sum(segments)} positions, the row has {length}")
    return segments


def _seq_idx(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(b, l): 0, 0, 0, 1, 1, ... by the segments."""
    numbers = [number for number, length in enumerate(_segments(case, shape[1])) for _ in range(length)]
    return torch.tensor(numbers, device=generator.device).expand(shape).contiguous()


def _cu_seqlens(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(case.segments)], device=generator.device)


def _none(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> None:
    """For an argument that has no default and is not given."""


def _longest(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> int:
    return max(case.segments)


def _rows(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """b different rows of N, in no order."""
    return torch.randperm(case.sizes["N"], generator=generator, device=generator.device)[: shape[0]]


def _padding(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """As `rows`, the last of them padding."""
    rows = _rows(shape, generator, case)
    rows[-1] = -1
    return rows


def _filled(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """How much of a cache of m positions is filled, with room for l more."""
    room = case.sizes["m"] - case.sizes["l"]
    return torch.randint(0, room + 1, shape, generator=generator, device=generator.device)


def _full(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """A cache that is full once the l new positions are in it."""
    return torch.full(shape, case.sizes["m"] - case.sizes["l"], device=generator.device)


def _counts(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """How many inputs a ring has seen; some before it was full, some after."""
    return torch.randint(0, 3 * case.sizes["s"], shape, generator=generator, device=generator.device)


DRAWS: Mapping[str, Draw] = MappingProxyType(
    {
        "none": _none,
        "normal": _normal,
        "near_one": _uniform(0.5, 1.5),
        "weight": _scaled,
        # From heads that remember a whole case to heads that forget within a few positions.
        "decay": _negative(_log_uniform(0.05, 16.0)),
        "decay_near_zero": _negative(_log_uniform(1e-6, 1e-4)),
        "decay_very_negative": _negative(_log_uniform(1e3, 1e5)),
        "step_bias": _before_softplus(1e-3, 1e-1),
        "steps": _log_uniform(1e-3, 1e-1),
        "steps_tiny": _before_softplus(1e-6, 2e-6),
        "steps_saturating": _uniform(15.0, 40.0),
        "seq_idx": _seq_idx,
        "cu_seqlens": _cu_seqlens,
        "longest": _longest,
        "rows": _rows,
        "padding": _padding,
        "filled": _filled,
        "full": _full,
        "counts": _counts,
    }
)


def draw_arguments(
    case: KernelCase,
    arguments: tuple[ArgumentSpec, ...],
    sizes: Mapping[str, int],
    device: str,
    outputs: tuple[OutputSpec, ...] = (),
) -> dict[str, Any]:
    """Arguments of one call, by name: those that are always given, and those that the case gives.

    Every argument has a seed of its own, so that one more argument does not change the others.

    Raises:
        CaseError: the row names an argument, a result, a way to draw or an axis that is not there.
    """
    check_names(case, arguments, outputs, sizes)
    drawn = {}
    for argument in arguments:
        if argument.optional and argument.name not in case.given:
            continue
        seed = zlib.crc32(f"{case.op}-{case.name}-{argument.name}".encode()) + case.seed
        generator = torch.Generator(device).manual_seed(seed)
        axes = axes_of(argument, case)
        value = DRAWS[case.values.get(argument.name, argument.values)](shape_of(axes, sizes), generator, case)
        if isinstance(value, Tensor):
            dtype = dtype_of(argument, case)
            if dtype.is_complex:
                value = torch.complex(value, _normal(tuple(value.shape), generator, case))
            value = lay_out(value.to(dtype), axes, case.layouts.get(argument.name))
        drawn[argument.name] = value
    return drawn


def check_names(
    case: KernelCase, arguments: tuple[ArgumentSpec, ...], outputs: tuple[OutputSpec, ...], sizes: Mapping[str, int]
) -> None:
    """Raise CaseError, naming the row, the key and the nearest known name, where a row names what is not there."""
    taken = {each.name for each in arguments}
    both = taken | {each.name for each in outputs}
    keys = [("with", case.given, taken), ("values", case.values, taken), ("layouts", case.layouts, both)]
    for key, names, known in [*keys, ("axes", case.axes, both), ("types", case.types, both)]:
        for name in sorted(names):
            _known(case, f"{key}: {case.op} has no argument{' or result' if known is both else ''}", name, known)
    for name, drawn in case.values.items():
        _known(case, f"values: {name}: no values are called", drawn, DRAWS)
    for name, axes in case.axes.items():
        for letter in axes.split():
            if not letter.isdigit():
                _known(case, f"axes: {name}: no size has the letter", letter, sizes)


def _known(case: KernelCase, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise CaseError(f"{case.place}: {what} {name}{suggest_nearest(name, known)}")


def lay_out(value: Tensor, axes: str, layout: str | None) -> Tensor:
    """The same values, as a layout of `scanproof.kernels.cases` has them in memory."""
    if layout == "tied":
        after = axes.split().index("h") + 1
        one = value
        for axis in range(after, value.dim()):
            one = one.narrow(axis, 0, 1)
        return one.expand_as(value)
    if layout == "transposed":
        # Not `contiguous`, which leaves the strides of an axis of length 1 as they are.
        return value.mT.clone(memory_format=torch.contiguous_format).mT
    if layout == "padded":
        wider = value.new_empty(*value.shape[:-1], value.shape[-1] + 8)
        wider[..., : value.shape[-1]] = value
        return wider[..., : value.shape[-1]]
    return value

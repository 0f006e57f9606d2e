"""Makes the arguments of a case: their shapes, dtypes, memory layouts and random values."""

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
"""Draws the values of one argument from its shape, a random generator and the case; tensors are float32 or int64."""


@dataclass(frozen=True)
class ArgumentSpec:
    """Describes one argument of an operation."""

    name: str
    axes: str
    """Letters of the case's sizes, one per axis, with spaces between them."""
    values: str = "normal"
    """How its values are drawn: a key of DRAWS."""
    dtype: str = "input"
    """The name of a dtype, or `input` for the dtype of the case."""
    optional: bool = False
    differentiable: bool = True


@dataclass(frozen=True)
class OutputSpec:
    """Describes one result of an operation.

    Results have the order in which the operation returns them; arguments that it changes in place come last.
    """

    name: str
    axes: str
    dtype: str = "input"
    option: str | None = None
    """The option that asks for this result; None: it is always returned."""
    differentiable: bool = True
    moved: str | None = None
    """Axes of the part that a call writes, where that is less than the whole."""


def case_dtype(case: KernelCase) -> torch.dtype:
    """The dtype of a case, as torch's."""
    dtype = getattr(torch, case.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def dtype_of(part: ArgumentSpec | OutputSpec, case: KernelCase) -> torch.dtype:
    """The dtype of an argument or output in a case."""
    name = case.types.get(part.name, part.dtype)
    dtype = case_dtype(case) if name == "input" else getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def axes_of(part: ArgumentSpec | OutputSpec, case: KernelCase) -> str:
    """The axes of an argument or output in a case; some operations accept more than one form."""
    return case.axes.get(part.name, part.axes)


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The size of each axis; an axis may also be written as a number."""
    return tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in axes.split())


def _normal(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _uniform(low: float, high: float) -> Draw:
    def draw(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).mul(high - low).add(low)

    return draw


def _log_uniform(low: float, high: float) -> Draw:
    uniform = _uniform(math.log(low), math.log(high))
    return lambda shape, generator, case: torch.as_tensor(torch.exp(uniform(shape, generator, case)))


def _before_softplus(low: float, high: float) -> Draw:
    """Values whose softplus is log-uniform between `low` and `high`, as mamba_ssm initializes the bias of dt."""
    after = _log_uniform(low, high)

    def draw(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
        steps = after(shape, generator, case)
        return torch.as_tensor(steps + torch.log(-torch.expm1(-steps)))

    return draw


def _negative(draw: Draw) -> Draw:
    return lambda shape, generator, case: -draw(shape, generator, case)


def _scaled(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """Weights (out, in): normal, divided by the square root of the number of inputs, so that outputs stay near 1."""
    return _normal(shape, generator, case) / math.sqrt(shape[-1])


def _segments(case: KernelCase, length: int) -> tuple[int, ...]:
    """Lengths of the packed sequences of a row; ValueError if they do not add up to the row's length."""
    segments = case.segments or (length,)
    if sum(segments) != length:
        raise ValueError(f"{case.id}: the segments {segments} have {sum(segments)} positions, the row has {length}")
    return segments


def _seq_idx(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(b, l): the number of the sequence that each position belongs to: 0, 0, 0, 1, 1, ..."""
    numbers = [number for number, length in enumerate(_segments(case, shape[1])) for _ in range(length)]
    return torch.tensor(numbers, device=generator.device).expand(shape).contiguous()


def _cu_seqlens(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(s + 1,): where the packed sequences begin and end."""
    return torch.tensor([0, *itertools.accumulate(case.segments)], device=generator.device)


def _none(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> None:
    """None, for an argument that has no default and is not passed."""


def _longest(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> int:
    """Length of the longest packed sequence."""
    return max(case.segments)


def _rows(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(b,): distinct rows out of N, in random order."""
    return torch.randperm(case.sizes["N"], generator=generator, device=generator.device)[: shape[0]]


def _padding(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """As `rows`, but the last one is -1, which marks padding."""
    rows = _rows(shape, generator, case)
    rows[-1] = -1
    return rows


def _filled(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """How many positions of a cache of m are filled; l more fit in."""
    room = case.sizes["m"] - case.sizes["l"]
    return torch.randint(0, room + 1, shape, generator=generator, device=generator.device)


def _full(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """As `filled`, but the l new positions fill the cache to its end."""
    return torch.full(shape, case.sizes["m"] - case.sizes["l"], device=generator.device)


def _counts(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """How many inputs a ring buffer of s has seen; for some rows it is not full yet, for others it is."""
    return torch.randint(0, 3 * case.sizes["s"], shape, generator=generator, device=generator.device)


DRAWS: Mapping[str, Draw] = MappingProxyType(
    {
        "none": _none,
        "normal": _normal,
        "near_one": _uniform(0.5, 1.5),
        "weight": _scaled,
        # From heads that remember a whole sequence to heads that forget within a few positions.
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
    """Draw the arguments of one call, by name: those that are required, and the optional ones that the case passes.

    Every argument has a seed of its own, so that adding an argument does not change the values of the others.

    Raises:
        CaseError: the row names an argument, a result, a way to draw or an axis that does not exist.
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
    """Raise CaseError if a row names something that does not exist.

    The message names the row, the key and the most similar known name.
    """
    taken = {argument.name for argument in arguments}
    both = taken | {output.name for output in outputs}
    keys = [("with", case.given, taken), ("values", case.values, taken), ("layouts", case.layouts, both)]
    for key, names, known in [*keys, ("axes", case.axes, both), ("types", case.types, both)]:
        for name in sorted(names):
            _check_known(case, f"{key}: {case.op} has no argument{' or result' if known is both else ''}", name, known)
    for name, drawn in case.values.items():
        _check_known(case, f"values: {name}: no values are called", drawn, DRAWS)
    for name, axes in case.axes.items():
        for letter in axes.split():
            if not letter.isdigit():
                _check_known(case, f"axes: {name}: no size has the letter", letter, sizes)


def _check_known(case: KernelCase, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise CaseError(f"{case.place}: {what} {name}{suggest_nearest(name, known)}")


def lay_out(value: Tensor, axes: str, layout: str | None) -> Tensor:
    """Return the same values in another memory layout.

    Args:
        axes: letters of the value's axes; a `tied` value has one number per head, along the axis `h`.
        layout: `transposed`, `padded` or `tied` (see `KernelCase.layouts`); None: unchanged.
    """
    if layout == "tied":
        after = axes.split().index("h") + 1
        one = value
        for axis in range(after, value.dim()):
            one = one.narrow(axis, 0, 1)
        return one.expand_as(value)
    if layout == "transposed":
        # `contiguous` does not do: it keeps the strides of an axis of length 1.
        return value.mT.clone(memory_format=torch.contiguous_format).mT
    if layout == "padded":
        wider = value.new_empty(*value.shape[:-1], value.shape[-1] + 8)
        wider[..., : value.shape[-1]] = value
        return wider[..., : value.shape[-1]]
    return value

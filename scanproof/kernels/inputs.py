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
    moved: str | None = None
    """Axes of the part that a call reads, where that is less than the whole."""


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
    wide: str | None = None
    """The option that makes it float32 beside inputs of any dtype, unless an argument of its name is passed."""
    moved: str | None = None
    """Axes of the part that a call writes, where that is less than the whole."""
    angle: bool = False
    """Whether it is an angle, which is the same after a whole turn: its cosine and sine are compared."""
    unrounded: bool = False
    """Whether nothing in it has to be rounded to the dtype of the case, so that it is held to float32's constant."""


def case_dtype(case: KernelCase) -> torch.dtype:
    """The dtype of a case, as torch's."""
    dtype = getattr(torch, case.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def dtype_of(part: ArgumentSpec | OutputSpec, case: KernelCase) -> torch.dtype:
    """The dtype of an argument or output in a case."""
    name = case.types.get(part.name, part.dtype)
    wide = part.wide if isinstance(part, OutputSpec) else None
    if wide is not None and case.options.get(wide) and part.name not in case.given:
        name = "float32"
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


def _spread(low: float, high: float) -> Draw:
    """Values that cover the range from `low` to `high` evenly: one in each of as many equal parts as there are values.

    Few values, one per head or channel, would leave wide gaps if they were drawn independently.
    """

    def draw(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
        count = math.prod(shape)
        parts = torch.randperm(count, generator=generator, device=generator.device)
        within = torch.rand(count, generator=generator, device=generator.device)
        return ((parts + within) / count * (high - low) + low).reshape(shape)

    return draw


def _negative(draw: Draw) -> Draw:
    return lambda shape, generator, case: -draw(shape, generator, case)


def _unit(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """Vectors of length 1 along the last axis."""
    return torch.nn.functional.normalize(_normal(shape, generator, case), dim=-1)


def _ends(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """0 or 1."""
    return torch.randint(0, 2, shape, generator=generator, device=generator.device)


def _scaled(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """Weights (out, in): normal, divided by the square root of the number of inputs, so that outputs stay near 1."""
    return _normal(shape, generator, case) / math.sqrt(shape[-1])


def _seq_idx(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(b, l): the number of the sequence that each position belongs to: 0, 0, 0, 1, 1, ...

    A sequence of length 0 has a number and no position.  ValueError if the lengths of a row do not fill it.
    """
    batch, length = shape
    rows = case.segments_of_rows or (case.segments or (length,),) * batch
    wrong = [lengths for lengths in rows if sum(lengths) != length]
    if wrong or len(rows) != batch:
        raise ValueError(f"{case.id}: segments of {batch} rows of {length} positions are not {wrong or rows}")
    numbers = [[number for number, count in enumerate(lengths) for _ in range(count)] for lengths in rows]
    return torch.tensor(numbers, device=generator.device, dtype=torch.int64).reshape(shape)


def _cu_seqlens(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(s + 1,): where the packed sequences begin and end."""
    return torch.tensor([0, *itertools.accumulate(case.segments)], device=generator.device)


def _key_cu_seqlens(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
    """(s + 1,): where the packed sequences of keys begin and end."""
    return torch.tensor([0, *itertools.accumulate(case.key_segments or case.segments)], device=generator.device)


def _none(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> None:
    """None, for an argument that has no default and is not passed."""


def _longest(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> int:
    """Length of the longest packed sequence."""
    return max(case.segments)


def _longest_key(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> int:
    """Length of the longest packed sequence of keys."""
    return max(case.key_segments or case.segments)


def _state_len(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> int:
    """How many positions a state keeps."""
    return case.sizes["s"]


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


def _rotary(turn: Callable[[Tensor], Tensor]) -> Draw:
    """(m, r / 2): `turn` of the angles m / 10000^(2 i / r) of positions m and pairs i, as models have them."""

    def draw(shape: tuple[int, ...], generator: torch.Generator, case: KernelCase) -> Tensor:
        positions, pairs = (torch.arange(size, device=generator.device, dtype=torch.float64) for size in shape)
        return turn(positions[:, None] / 10000 ** (pairs / shape[1])).to(torch.float32)

    return draw


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
        # Slow enough that a state outlasts steps of 25.
        "decay_slow": _negative(_log_uniform(1e-3, 1e-1)),
        "decay_very_negative": _negative(_log_uniform(1e3, 1e5)),
        # Fast enough for exponentials of 0 after large steps, and not after small ones: gradients of A are not all 0.
        "decay_steep": _negative(_log_uniform(200.0, 2000.0)),
        # The logarithm of a decay within one step: from a state that outlasts a sequence to one that is soon forgotten.
        "log_decay": _negative(_log_uniform(1e-4, 1.0)),
        "log_decay_near_zero": _negative(_log_uniform(1e-9, 1e-6)),
        "log_decay_very_negative": _negative(_log_uniform(1.0, 1e3)),
        # As a gate gives it: the product of a step of 1e-3 to 1e-1 and a decay of 1 to 16.
        "log_gate": _negative(_log_uniform(1e-3, 1.6)),
        "log_decay_slow": _negative(_log_uniform(1e-6, 1e-4)),
        # From almost none to so much that little of a state is left; and so much that nothing is.
        "log_decay_wide": _negative(_log_uniform(1e-3, 8.0)),
        "log_decay_fast": _negative(_uniform(2.0, 40.0)),
        "zero": _uniform(0.0, 0.0),
        "log_of_decay": _uniform(math.log(0.05), math.log(16.0)),
        "unit": _unit,
        "share": _uniform(0.0, 1.0),
        "ends": _ends,
        "step_bias": _before_softplus(1e-3, 1e-1),
        "steps": _log_uniform(1e-3, 1e-1),
        "turns": _uniform(0.0, 2 * math.pi),
        # So short that decay_steep, too, leaves something of a state.
        "steps_short": _log_uniform(1e-4, 1e-2),
        "steps_tiny": _before_softplus(1e-6, 2e-6),
        "steps_saturating": _uniform(15.0, 40.0),
        # Past 89 the exponential in softplus is infinite in float32.
        "steps_overflowing": _uniform(80.0, 120.0),
        # Steps before softplus from -5 to 25, over which it turns from exp(x) to x: of a dt to which a bias drawn as
        # `step_bias` is added, and of a bias that is added to a dt near 0.
        "steps_wide": _spread(2.0, 27.0),
        "step_bias_wide": _spread(-5.0, 25.0),
        "seq_idx": _seq_idx,
        "cu_seqlens": _cu_seqlens,
        "longest": _longest,
        "key_cu_seqlens": _key_cu_seqlens,
        "longest_key": _longest_key,
        "state_len": _state_len,
        "rows": _rows,
        "padding": _padding,
        "filled": _filled,
        "full": _full,
        "counts": _counts,
        "cosines": _rotary(torch.cos),
        "sines": _rotary(torch.sin),
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
    results = {output.name for output in outputs}
    if case.backward:
        results |= {f"grad of {argument.name}" for argument in arguments if argument.differentiable}
    for name in sorted(case.known.results if case.known else ()):
        _check_known(case, f"known: {case.op} has here no result", name, results)
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
        layout: `transposed`, `padded`, `tied` or `heads_first` (see `KernelCase.layouts`); None: unchanged.
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
    if layout == "heads_first":
        return value.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    if layout == "padded":
        wider = value.new_empty(*value.shape[:-1], value.shape[-1] + 8)
        wider[..., : value.shape[-1]] = value
        return wider[..., : value.shape[-1]]
    return value

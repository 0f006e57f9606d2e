"""Does a NaN in an argument reach the results that depend on it, and no other row of the batch?

A NaN is how a run that went wrong shows.  An implementation that replaces it by a number hides that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.compare import Call, draw_inputs, run_op, run_reference
from scanproof.kernels.copies import copy_tensors
from scanproof.kernels.inputs import axes_of
from scanproof.kernels.operation import Op
from scanproof.kernels.settings import pin_settings


def _list_floating(op: Op, arguments: Mapping[str, Any]) -> list[str]:
    """Arguments that may hold a NaN."""
    values = {argument.name: arguments.get(argument.name) for argument in op.arguments}
    return [
        name
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ]


@pin_settings()
def find_wrong_nan(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> list[str]:
    """Call the operation with one NaN in each of its floating arguments in turn; one line for each wrong result.

    A result has to be not finite wherever the reference gives NaN and where it is another number for another number in
    the NaN's place; and finite in every row of the batch that is the same for both.  Within a row an implementation may
    spread it further, as products with a mask do.

    Raises:
        WrongResult: as `run_op`.
    """
    case = replace(case, backward=False)
    arguments = draw_inputs(op, case, device)
    clean = run_reference(op, case, arguments)
    lines: list[str] = []
    for argument in _list_floating(op, arguments):
        last = arguments[argument].numel() - 1
        # A third from the beginning; the last number where nothing depends on that, as of a state of the last inputs.
        for place in (last // 3, last):
            with_nan, with_other = (
                {**arguments, argument: _replace_one(arguments[argument], place, change)}
                for change in (lambda number: float("nan"), lambda number: 2 * number + 1)
            )
            reference, other = run_reference(op, case, with_nan), run_reference(op, case, with_other)
            depends = {name: other[name] != clean[name] for name in clean}
            if any(bool(part.any()) for part in depends.values()):
                break
        for name, result in run_op(op, case, with_nan, call, device).items():
            lines += [
                f"{case.id}: a NaN in {argument} {what}"
                for what in _find_mistakes(op, case, name, result, reference[name].isnan(), depends[name])
            ]
    return lines


def _replace_one(value: Tensor, place: int, change: Callable[[float], float]) -> Tensor:
    """The same layout with another number at one place, counted as if it were flat."""
    changed: Tensor = copy_tensors({"value": value})["value"]
    index = tuple(int(part) for part in torch.unravel_index(torch.tensor(place), value.shape))
    changed[index] = change(float(value[index]))
    return changed


def _find_mistakes(
    op: Op, case: KernelCase, name: str, result: Tensor, is_nan: Tensor, depends: Tensor
) -> Iterator[str]:
    finite = result.isfinite()
    due = depends & is_nan
    hidden = (due & finite).nonzero()
    if len(hidden):
        place = tuple(hidden[0].tolist())
        yield (
            f"is hidden in {len(hidden)} of {int(due.sum())} numbers of {name} that depend on it: "
            f"{name}[{', '.join(map(str, place))}] is {float(result[place]):.9g}"
        )
    (output,) = (output for output in op.expected_outputs(case) if output.name == name)
    if axes_of(output, case).split()[0] in ("b", "N"):
        others = ~(depends | is_nan).flatten(1).any(1)
        reached = (others & ~finite.flatten(1).all(1)).nonzero()
        if len(reached):
            yield f"reaches row {int(reached[0])} of {name}, which does not depend on it"

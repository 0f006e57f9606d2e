"""Does an operation give the same bits when it is called again, and others for other values in the same tensors?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels import invariants
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.compare import (
    Call,
    Called,
    Results,
    call_op,
    describe_failures,
    draw_inputs,
    judge_results,
    uses_tf32,
)
from scanproof.kernels.copies import WORDS, overwrite_tensors
from scanproof.kernels.costs import forward_cost
from scanproof.kernels.operation import Op
from scanproof.kernels.settings import pin_settings

SMALL_BYTES = 2**20
"""Only cases that move at most this are called with other values as well, which have references of their own."""
FAR = 8.0
"""With other values, a result that is off by this many times what is allowed is not bad luck; the criterion itself is
for the case's own values."""
OTHER = 1_000_003
"""Added to the seed of a case to draw other values."""


@dataclass(frozen=True)
class _Kept:
    """One call, what it returned, and a copy of that."""

    title: str
    returned: Results
    copies: Results


@pin_settings()
def find_unrepeated(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> list[str]:
    """Call the operation twice with the same arguments; one line for each result that differs.

    The first results have to stay as they are while it is called again: a buffer that is kept between calls, compared
    with itself, would always agree.  Between the two, where a case is small, it is called with other values in the same
    tensors, and compared with the reference: what it keeps from call to call, by shape, by address or by the identity
    of a tensor, shows.

    Results that a GPU sums atomically (`Op.atomic`) have no fixed order of summation: they may differ by rounding.

    Raises:
        WrongResult: as `call_op`.
    """
    small = is_small(op, case)
    arguments = draw_inputs(op, case, device)
    called = call_op(op, case, arguments, call, device, keep_graph=small)
    first = _keep(op, "first", called)
    lines, kept = [], [first]
    if small:
        other_case = draw_other_values(case)
        others = draw_inputs(op, other_case, device)
        overwrite_tensors(called.given, others)
        lines += _find_rereading(op, case, called, first, device)
        other = _keep(op, "other", call_op(op, other_case, others, call, device, into=called))
        kept.append(other)
        lines += _find_stale(op, other_case, others, first, other, device)
    second = _keep(op, "second", call_op(op, case, arguments, call, device))
    lines += _find_differences(op, case, first.copies, second.copies, device, "two identical calls")
    return lines + _find_overwritten(op, case, [*kept, second])


def _find_stale(
    op: Op, case: KernelCase, arguments: Mapping[str, Any], first: _Kept, other: _Kept, device: str
) -> list[str]:
    """Results of the other values that are far off, as they are where something of the first ones is in them."""
    comparisons = judge_results(op, case, arguments, other.copies, device)
    far = tuple(comparison for comparison in comparisons if comparison.times_allowed > FAR)
    if not far:
        return []
    same = _list_equal(first, other)
    gave = f", which gave the same {', '.join(same)} as the values before" if same else ""
    return [f"{describe_failures(case, far)}\n  with other values in the same tensors{gave}"]


def is_small(op: Op, case: KernelCase) -> bool:
    """Whether a case is asked more than whether it repeats itself.

    What is known to be wrong is not, nor what has no positions: the state that is returned may then be the one given.
    """
    return forward_cost(op, case).bytes <= SMALL_BYTES and case.known is None and 0 not in case.sizes.values()


def draw_other_values(case: KernelCase) -> KernelCase:
    """The same call with other values; packed sequences have the same lengths in another order."""
    return replace(
        case,
        seed=case.seed + OTHER,
        segments=case.segments[::-1],
        segments_of_rows=tuple(lengths[::-1] for lengths in case.segments_of_rows),
        key_segments=case.key_segments[::-1],
    )


def _keep(op: Op, title: str, called: Called) -> _Kept:
    # What it changes in place is an argument, in which the next call finds other values.
    own = {name: value.clone() if name in op.changes else value for name, value in called.results.items()}
    return _Kept(title, own, {name: value.clone() for name, value in own.items()})


def _find_rereading(op: Op, case: KernelCase, called: Called, kept: _Kept, device: str) -> list[str]:
    """Results that changed when the arguments were overwritten, and gradients that do where no error is raised.

    PyTorch raises one for whatever was saved by `save_for_backward`, or by its own operations.
    """
    lines = [
        f"{case.id}: {name} changed when the arguments were overwritten after the call: it lies in their memory"
        for name, value in kept.returned.items()
        if name not in op.aliases and not _is_same(value, kept.copies[name])
    ]
    if not case.backward:
        return lines
    try:
        again = called.gradients(op, case)
    except Exception:
        # Whatever it is, nobody takes it for a gradient.
        return lines
    what = "a backward pass that ran again, after the arguments were overwritten, raised no error and"
    return lines + _find_differences(op, case, {name: kept.copies[name] for name in again}, again, device, what)


def _find_differences(op: Op, case: KernelCase, first: Results, second: Results, device: str, what: str) -> list[str]:
    atomic = [(name, first[name], second[name]) for name in first if name in op.atomic]
    lines = invariants.find_violations(case, atomic, tf32=uses_tf32(op, case, device))
    changed = [name for name in first if name not in op.atomic and not _is_same(first[name], second[name])]
    return lines + [f"{case.id}: {what} gave different bits of {name}" for name in changed]


def _list_equal(first: _Kept, second: _Kept) -> list[str]:
    """Results that are the same numbers, not all of them 0."""
    pairs = [(name, value, second.copies[name]) for name, value in first.copies.items()]
    return [name for name, value, other in pairs if bool(value.ne(0).any()) and _is_same(value, other)]


def _find_overwritten(op: Op, case: KernelCase, kept: Sequence[_Kept]) -> list[str]:
    """Results that a later call wrote to.  Equal arguments write equal bits: the same memory shows in its address."""
    return [
        f"{case.id}: the {later.title} call overwrote {name} of the {earlier.title}"
        for earlier, later in itertools.combinations(kept, 2)
        for name, value in earlier.returned.items()
        if name not in op.aliases
        and (
            not _is_same(value, earlier.copies[name])
            or (value.numel() and value.data_ptr() == later.returned[name].data_ptr())
        )
    ]


def _is_same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(_view_bits(first), _view_bits(second))


def _view_bits(value: Tensor) -> Tensor:
    """As integers: then -0.0 is another number than 0.0, and a NaN is equal to itself."""
    return value.resolve_conj().resolve_neg().contiguous().view(WORDS[value.element_size()])

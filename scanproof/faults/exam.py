"""The exam: every fault is planted, one at a time, and the suite's own kernel checks have to find it.

What is run is what `tests/kernels` runs: `compare_case` on rows of `cases.yaml`, the pairs of the invariants, and two
identical calls.  Nothing here knows of a fault what the suite does not know.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from scanproof.faults.fault import Call, Fault, plant
from scanproof.kernels import compare, invariants, operation_table
from scanproof.kernels.cases import InvariantCase, KernelCase, load, load_invariants
from scanproof.kernels.costs import forward_cost
from scanproof.kernels.operation import Op

if TYPE_CHECKING:
    from scanproof.faults.evaluation import Evaluated

T = TypeVar("T")
SMALL_BYTES = 1_000_000
SMALL_SEQLEN = 300
"""Rows of at most this size are run: those that a processor does in milliseconds."""
SHARE = 7
"""A clean run takes one in so many rows; it has no factor in common with the number of dtypes, which alternate."""
RAISED = "the operation raised an error: "
SEED = 7
"""Of the roundings of the implementation under test."""


@dataclass(frozen=True)
class Implementations:
    """Where the operations under test come from."""

    name: str
    """reference, interpreter or gpu."""
    device: str
    call: Callable[[Op, int], Call]
    """The operation; the second argument is the seed of its roundings, for those of the place `reference`."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Operation -> why it cannot be imported here."""


@dataclass(frozen=True)
class Check:
    """One check of the suite, and how it ended."""

    kind: str
    """`numerics`, or the name of an invariant."""
    id: str
    """Of its row."""
    message: str
    """What is wrong; empty when nothing is."""
    seconds: float
    """Of processor time: the machine may have other work."""
    results: int
    """Results or pairs that were compared."""


@dataclass(frozen=True)
class ExamAnswer:
    """All checks of one fault."""

    fault: Fault
    checks: tuple[Check, ...]
    evaluation: Evaluated | None = None
    """What the embedded evaluation says; None where it was not asked."""

    def found(self, numerics: bool) -> list[Check]:
        """The checks that saw the fault: numerics, or invariants."""
        return [each for each in self.checks if each.message and (each.kind == "numerics") == numerics]

    @property
    def caught(self) -> bool:
        return any(each.message for each in self.checks)


def select_small_cases(place: Implementations) -> tuple[KernelCase, ...]:
    """The suite's rows that are small enough, but for those that the installed operation is known to miss."""
    return tuple(case for case in load() if _is_small(case) and _runs(case, place))


def select_small_invariants(place: Implementations) -> tuple[InvariantCase, ...]:
    """The suite's invariants whose case is small enough."""
    return tuple(row for row in load_invariants() if _is_small(row.case) and _runs(row.case, place))


def _is_small(case: KernelCase) -> bool:
    small = forward_cost(operation_table.find_operation(case.op), case).bytes <= SMALL_BYTES
    return small and case.sizes.get("l", 1) <= SMALL_SEQLEN and not case.rows


def _runs(case: KernelCase, place: Implementations) -> bool:
    if place.name == "reference":
        return True
    return place.name in case.where and case.known is None and case.op not in place.missing


@dataclass(frozen=True)
class Suite:
    """What `tests/kernels` checks, as far as a place can run it and it is small."""

    place: Implementations
    cases: tuple[KernelCase, ...]
    invariants: tuple[tuple[InvariantCase, frozenset[str]], ...]
    """Each with the operations that it calls."""

    @property
    def operations(self) -> frozenset[str]:
        """The operations that have any row here."""
        return frozenset(case.op for case in self.cases)


def build_suite(place: Implementations) -> Suite:
    """The checks of a place."""
    rows = [(row, _uses(row, place)) for row in select_small_invariants(place)]
    return Suite(place, select_small_cases(place), tuple(row for row in rows if not row[1] & place.missing.keys()))


def check_numerics(case: KernelCase, call: Call, device: str) -> Check:
    """The criterion on one row."""
    started = time.process_time()
    op = operation_table.find_operation(case.op)
    try:
        comparisons = compare.compare_case(op, case, call, device)
    except compare.WrongResult as error:
        return Check("numerics", case.id, str(error), time.process_time() - started, 1)
    except RuntimeError as error:
        # In the suite it is a failed test; an installed kernel may refuse a call.
        message = f"{case.id}: {RAISED}{str(error).partition(chr(10))[0]}"
        return Check("numerics", case.id, message, time.process_time() - started, 1)
    message = compare.describe_failures(case, comparisons)
    return Check("numerics", case.id, message, time.process_time() - started, len(comparisons))


def check_invariant(row: InvariantCase, calls: Callable[[str], Call], device: str) -> Check:
    """One invariant; `calls` gives the operation of a name."""
    started = time.process_time()
    case, op = row.case, operation_table.find_operation(row.case.op)

    def as_tuples(name: str) -> Call:
        return compare.return_tuples(calls(name))

    try:
        if row.invariant == "determinism":
            wrong, compared = compare.find_unrepeated(op, case, calls(op.name), device), len(op.outputs)
        else:
            pairs = invariants.PAIRS[row.invariant, case.op](as_tuples, compare.draw_inputs(op, case, device))
            wrong = invariants.find_violations(case, pairs, tf32=compare.uses_tf32(op, case, device))
            compared = len(pairs)
    except (compare.WrongResult, RuntimeError):
        # Results of a wrong shape cannot be put together; that they are wrong is for numerics to say.
        wrong, compared = [], 0
    return Check(row.invariant, row.id, "\n".join(wrong), time.process_time() - started, compared)


def _uses(row: InvariantCase, place: Implementations) -> frozenset[str]:
    """The operations that an invariant calls."""
    seen = set()

    def calls(name: str) -> Call:
        seen.add(name)
        return place.call(operation_table.find_operation(name), SEED)

    # It ends at the first operation that is missing, which is enough to know.
    with contextlib.suppress(ImportError):
        check_invariant(row, calls, place.device)
    return frozenset(seen)


def examine(fault: Fault, suite: Suite, until_caught: bool = False) -> ExamAnswer:
    """Plant a fault and run every check of its operation.

    Args:
        until_caught: stop at the first check that sees it.
    """
    checks = []
    for check in _checks(fault, suite):
        checks.append(check)
        if until_caught and check.message:
            break
    return ExamAnswer(fault, tuple(checks))


def _checks(fault: Fault, suite: Suite) -> Iterator[Check]:
    """Every check of the fault's operation, in the suite's order."""
    place = suite.place

    def calls(name: str) -> Call:
        call = place.call(operation_table.find_operation(name), SEED)
        return plant(fault, call) if name == fault.op else call

    for case in suite.cases:
        # Faults are written for real arguments; with complex ones an axis of time holds pairs.
        if case.op == fault.op and not case.types:
            yield check_numerics(case, calls(fault.op), place.device)
    for row, used in suite.invariants:
        if fault.op in used:
            yield check_invariant(row, calls, place.device)


@dataclass(frozen=True)
class CleanRun:
    """Part of the checks once, with nothing planted."""

    seed: int
    checks: int
    results: int
    """Results and pairs that were compared."""
    alarms: tuple[Check, ...]


def run_clean(seeds: Sequence[int], suite: Suite) -> Iterator[CleanRun]:
    """The same checks without a fault: inputs and roundings are drawn anew from each seed.

    Each run takes, of every operation and dtype, one in SHARE of the rows; SHARE runs on end take them all.
    """
    cases = _in_turns(suite.cases, lambda case: case)
    rows = _in_turns([row for row, _ in suite.invariants], lambda row: row.case)
    for seed in seeds:
        checks = [_clean_case(case, seed, suite.place) for case in cases(seed)]
        checks += [_clean_row(row, seed, suite.place) for row in rows(seed)]
        results = sum(each.results for each in checks)
        yield CleanRun(seed, len(checks), results, tuple(each for each in checks if each.message or not each.results))


def _in_turns(items: Sequence[T], case_of: Callable[[T], KernelCase]) -> Callable[[int], Iterator[T]]:
    """From a number to the items whose turn it is, of every operation and dtype at least one."""
    groups: dict[tuple[str, str], list[T]] = {}
    for item in items:
        groups.setdefault((case_of(item).op, case_of(item).dtype), []).append(item)

    def turn(number: int) -> Iterator[T]:
        for group in groups.values():
            yield from group[number % min(SHARE, len(group)) :: SHARE]

    return turn


def _clean_case(case: KernelCase, seed: int, place: Implementations) -> Check:
    return check_numerics(
        replace(case, seed=seed), place.call(operation_table.find_operation(case.op), seed), place.device
    )


def _clean_row(row: InvariantCase, seed: int, place: Implementations) -> Check:
    fresh = replace(row, case=replace(row.case, seed=seed))
    return check_invariant(fresh, lambda name: place.call(operation_table.find_operation(name), seed), place.device)

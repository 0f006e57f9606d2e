"""The exam: faults are planted one at a time, and the suite's own kernel checks have to find them.

The exam runs only the suite's own checks, those of `tests/kernels`: `compare_case` on rows of `cases.yaml`, the
invariants, identical calls with one of other values between them, and a NaN in each argument.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from scanproof.faults.fault import Call, Fault, plant
from scanproof.kernels import compare, invariants, nan_spread, operation_table, repeats
from scanproof.kernels.cases import InvariantCase, KernelCase, load, load_invariants
from scanproof.kernels.costs import forward_cost
from scanproof.kernels.operation import Op

if TYPE_CHECKING:
    from scanproof.faults.evaluation import Evaluated

T = TypeVar("T")
Check = Callable[[Callable[[str], Call]], "CheckResult"]
"""From a function that returns the operation of a name to what a check of it finds."""
SMALL_BYTES = 1_000_000
SMALL_SEQLEN = 300
"""Only cases of at most these sizes are run, which take a processor milliseconds."""
SHARE = 7
"""A clean run takes one in this many cases of each operation and dtype."""
NAN = "nan"
"""Kind of the check that a NaN shows, on the case of `determinism`."""
RAISED = "the operation raised an error: "
"""Start of the message of a check whose operation raised."""
SEED = 7
"""Seed for the roundings of the reference implementation under test."""


@dataclass(frozen=True)
class Implementations:
    """The implementations of the operations that faults are planted into."""

    name: str
    """`reference`, `interpreter` or `gpu`."""
    device: str
    """`cpu` or `cuda`."""
    call: Callable[[Op, int], Call]
    """Returns an operation.  The second argument is the seed of its roundings; only `reference` uses it."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Operation that cannot be imported here -> why."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of the suite."""

    kind: str
    """`numerics`, or the name of an invariant."""
    id: str
    """Id of the case or invariant."""
    message: str
    """What is wrong; empty if the check passed."""
    seconds: float
    """Processor time, because the machine may do other work at the same time."""
    results: int
    """How many results or pairs were compared."""
    without: str = ""
    """What is wrong without the fault, so that the check cannot judge it; then it was not run with the fault."""


@dataclass(frozen=True)
class ExamAnswer:
    """The results of all checks that were run with one fault."""

    fault: Fault
    checks: tuple[CheckResult, ...]
    evaluation: Evaluated | None = None
    """The result of evaluating a stand-in with the fault; None if that was not done."""

    def seen_by(self, numerics: bool) -> list[CheckResult]:
        """The checks that detected the fault: comparisons with the reference if `numerics`, else invariants."""
        return [check for check in self.checks if check.message and (check.kind == "numerics") == numerics]

    @property
    def caught(self) -> bool:
        return any(check.message for check in self.checks)

    @property
    def not_judged(self) -> list[CheckResult]:
        """The checks that fail without the fault: that they fail with it as well would show nothing."""
        return [check for check in self.checks if check.without]


def select_small_cases(implementations: Implementations) -> tuple[KernelCase, ...]:
    """Select the suite's cases that are small enough, without those that the installed operation is known to fail."""
    return tuple(case for case in load() if _is_small(case) and _can_run(case, implementations))


def select_small_invariants(implementations: Implementations) -> tuple[InvariantCase, ...]:
    """Select the suite's invariants whose case is small enough."""
    rows = [row for row in load_invariants() if _is_small(row.case) and _can_run(row.case, implementations)]
    one_each = {row.case.op: row for row in reversed(rows) if row.invariant == "determinism"}
    # On a GPU the suite does not ask it.
    nan = [] if implementations.device != "cpu" else [replace(row, invariant=NAN) for row in one_each.values()]
    return (*rows, *nan)


def _is_small(case: KernelCase) -> bool:
    small = forward_cost(operation_table.find_operation(case.op), case).bytes <= SMALL_BYTES
    # Into no element nothing can be planted.
    return small and 0 < case.sizes.get("l", 1) <= SMALL_SEQLEN and case.sizes.get("b", 1) > 0 and not case.rows


def _can_run(case: KernelCase, implementations: Implementations) -> bool:
    if implementations.name == "reference":
        return True
    return implementations.name in case.where and case.known is None and case.op not in implementations.missing


@dataclass(frozen=True)
class ExamSuite:
    """The checks of `tests/kernels` that are small and that the implementations can run."""

    implementations: Implementations
    cases: tuple[KernelCase, ...]
    invariants: tuple[tuple[InvariantCase, frozenset[str]], ...]
    """Each invariant with the names of the operations that it calls."""
    clean: dict[tuple[str, str], CheckResult] = field(default_factory=dict, compare=False, repr=False)
    """Kind and id of a check -> its result without a fault; filled as checks are needed."""

    @property
    def operations(self) -> frozenset[str]:
        """The operations that have at least one case here."""
        return frozenset(case.op for case in self.cases)

    def cases_for(self, op: str) -> tuple[KernelCase, ...]:
        """The cases of an operation that faults are planted into.

        Faults are written for real arguments; with complex ones the time axis contains pairs.
        """
        return tuple(case for case in self.cases if case.op == op and "complex64" not in case.types.values())


def build_suite(implementations: Implementations) -> ExamSuite:
    """Select the checks that the implementations can run."""
    known: dict[tuple[str, str], frozenset[str]] = {}
    rows = []
    for row in select_small_invariants(implementations):
        # A dtype changes nothing of what is called; where a call is refused, those after it are not known.
        key = row.invariant, row.case.op
        used, is_whole = (known[key], True) if key in known else _find_operations_used(row, implementations)
        if is_whole:
            known[key] = used
        if not used & implementations.missing.keys():
            rows.append((row, used))
    return ExamSuite(implementations, select_small_cases(implementations), tuple(rows))


def check_numerics(case: KernelCase, call: Call, device: str) -> CheckResult:
    """Compare one case with its reference by the suite's criterion.

    Args:
        call: the operation under test.
    """
    started = time.process_time()
    op = operation_table.find_operation(case.op)
    try:
        comparisons = compare.compare_case(op, case, call, device)
    except compare.WrongResult as error:
        return CheckResult("numerics", case.id, str(error), time.process_time() - started, 1)
    except RuntimeError as error:
        # An installed kernel may refuse a call; in the suite that is a failed test.
        message = f"{case.id}: {RAISED}{str(error).partition(chr(10))[0]}"
        return CheckResult("numerics", case.id, message, time.process_time() - started, 1)
    message = compare.describe_failures(case, comparisons)
    return CheckResult("numerics", case.id, message, time.process_time() - started, len(comparisons))


def check_invariant(row: InvariantCase, calls: Callable[[str], Call], device: str) -> CheckResult:
    """Check one invariant.

    Args:
        calls: returns the operation of a name.
    """
    started = time.process_time()
    case, op = row.case, operation_table.find_operation(row.case.op)

    def as_tuples(name: str) -> Call:
        return compare.return_tuples(calls(name))

    try:
        if row.invariant == "determinism":
            wrong, compared = repeats.find_unrepeated(op, case, calls(op.name), device), len(op.outputs)
        elif row.invariant == NAN:
            wrong, compared = nan_spread.find_wrong_nan(op, case, calls(op.name), device), len(op.outputs)
        else:
            pairs = invariants.PAIRS[row.invariant, case.op](as_tuples, compare.draw_inputs(op, case, device))
            wrong = invariants.find_violations(case, pairs, tf32=compare.uses_tf32(op, case, device))
            compared = len(pairs)
    except (compare.WrongResult, RuntimeError):
        # Results of a wrong shape cannot be put together here.  `check_numerics` is what detects a wrong shape.
        wrong, compared = [], 0
    return CheckResult(row.invariant, row.id, "\n".join(wrong), time.process_time() - started, compared)


def _find_operations_used(row: InvariantCase, implementations: Implementations) -> tuple[frozenset[str], bool]:
    """Find out which operations an invariant calls: its own, and where it puts calls together, by checking it once.

    Returns them, and whether these are all: a check that compares nothing stopped on its way.
    """
    if row.invariant in ("determinism", NAN):
        return frozenset({row.case.op}), True
    seen = set()

    def calls(name: str) -> Call:
        seen.add(name)
        return implementations.call(operation_table.find_operation(name), SEED)

    # It stops at the first operation that is missing, and then the invariant cannot be run anyway.
    compared = 0
    with contextlib.suppress(ImportError):
        compared = check_invariant(row, calls, implementations.device).results
    return frozenset(seen), compared > 0


def examine(fault: Fault, suite: ExamSuite, until_caught: bool = False, start_with: str = "") -> ExamAnswer:
    """Plant a fault and run every check of its operation.

    Args:
        until_caught: stop at the first check that detects the fault.
        start_with: id of the check that is run first, because it is expected to detect it; the others keep their order.
    """
    checks = []
    for check in _run_checks(fault, suite, start_with):
        checks.append(check)
        if until_caught and check.message:
            break
    return ExamAnswer(fault, tuple(checks))


def _run_checks(fault: Fault, suite: ExamSuite, start_with: str) -> Iterator[CheckResult]:
    """Run each check of an operation: without a fault if it has not been yet, then with it."""
    implementations = suite.implementations

    def clean(name: str) -> Call:
        return implementations.call(operation_table.find_operation(name), SEED)

    def faulty(name: str) -> Call:
        return plant(fault, clean(name)) if name == fault.op else clean(name)

    for key, check in sorted(_list_checks(fault.op, suite), key=lambda one: one[0][1] != start_with):
        yield _run_if_clean(key, suite, check, clean, faulty)


def _list_checks(operation: str, suite: ExamSuite) -> Iterator[tuple[tuple[str, str], Check]]:
    """The checks of an operation with their kinds and ids, in the suite's order."""
    device = suite.implementations.device
    for case in suite.cases_for(operation):

        def compare_with(calls: Callable[[str], Call], case: KernelCase = case) -> CheckResult:
            return check_numerics(case, calls(case.op), device)

        yield ("numerics", case.id), compare_with
    for row, used in suite.invariants:
        if operation in used:

            def check_with(calls: Callable[[str], Call], row: InvariantCase = row) -> CheckResult:
                return check_invariant(row, calls, device)

            yield (row.invariant, row.id), check_with


def _run_if_clean(
    key: tuple[str, str],
    suite: ExamSuite,
    check: Check,
    clean: Callable[[str], Call],
    faulty: Callable[[str], Call],
) -> CheckResult:
    """Run a check with a fault, unless it fails, or compares nothing, without the fault."""
    if key not in suite.clean:
        suite.clean[key] = check(clean)
    before = suite.clean[key]
    if before.message or not before.results:
        return replace(before, message="", without=before.message or f"{before.id}: it compares nothing")
    return check(faulty)


@dataclass(frozen=True)
class CleanRun:
    """The result of running part of the checks without any fault."""

    seed: int
    checks: int
    results: int
    """How many results and pairs were compared."""
    alarms: tuple[CheckResult, ...]
    """The checks that failed, or that compared nothing."""


def run_clean(seeds: Sequence[int], suite: ExamSuite) -> Iterator[CleanRun]:
    """Run the checks without a fault, once per seed; inputs and roundings are drawn from the seed.

    Each run takes one in SHARE of the cases of every operation and dtype; SHARE consecutive seeds take all cases.
    """
    cases = _take_turns(suite.cases, lambda case: case)
    rows = _take_turns([row for row, _ in suite.invariants], lambda row: row.case)
    for seed in seeds:
        checks = [_run_clean_case(case, seed, suite.implementations) for case in cases(seed)]
        checks += [_run_clean_invariant(row, seed, suite.implementations) for row in rows(seed)]
        results = sum(check.results for check in checks)
        yield CleanRun(
            seed, len(checks), results, tuple(check for check in checks if check.message or not check.results)
        )


def _take_turns(items: Sequence[T], case_of: Callable[[T], KernelCase]) -> Callable[[int], Iterator[T]]:
    """Make a function from a number to the items whose turn it is, at least one of every operation and dtype."""
    groups: dict[tuple[str, str], list[T]] = {}
    for item in items:
        groups.setdefault((case_of(item).op, case_of(item).dtype), []).append(item)

    def turn(number: int) -> Iterator[T]:
        for group in groups.values():
            yield from group[number % min(SHARE, len(group)) :: SHARE]

    return turn


def _run_clean_case(case: KernelCase, seed: int, implementations: Implementations) -> CheckResult:
    return check_numerics(
        replace(case, seed=seed),
        implementations.call(operation_table.find_operation(case.op), seed),
        implementations.device,
    )


def _run_clean_invariant(row: InvariantCase, seed: int, implementations: Implementations) -> CheckResult:
    fresh = replace(row, case=replace(row.case, seed=seed))
    return check_invariant(
        fresh, lambda name: implementations.call(operation_table.find_operation(name), seed), implementations.device
    )

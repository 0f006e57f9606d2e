"""Reads the table of latency cases, `latency.yaml`: one for each combination of a row and each direction.

Imports no torch, because pytest reads the table while it collects tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scanproof.kernels import cases
from scanproof.kernels.cases import CaseError, KernelCase

TABLE = Path(__file__).parent / "latency.yaml"
PLACES = ("gpu", "cpu")
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True, repr=False)
class LatencyCase:
    """One call to time."""

    case: KernelCase
    direction: str
    place: str
    """`gpu`: the installed operation is timed; `cpu`: its PyTorch form."""
    check: KernelCase
    """The same call at sizes that are small enough for the references; it must be correct before the call is timed."""
    quick: bool = False
    """Selected by `-m quick`: the first case of each operation without an autotuner; together they take minutes."""

    @property
    def id(self) -> str:
        return f"{self.case.id}-{self.direction}"

    def __repr__(self) -> str:
        # pytest-benchmark writes the repr of a test's parameters into its JSON.
        return self.id


def load(path: Path = TABLE, models: Path = cases.TABLE) -> tuple[LatencyCase, ...]:
    """Read all latency cases of a table.

    Args:
        models: the table of kernel cases, which defines the models.

    Raises:
        CaseError: a row is wrong; the message names it.
    """
    rows = cases.read_table(path)
    for place, ops in rows.items():
        if place not in PLACES or not isinstance(ops, dict):
            raise CaseError(f"{path.name}: {place}: write one of {', '.join(PLACES)}, and its operations under it")
        for op, listed in ops.items():
            cases.check_row_list(listed, f"{path.name}: {place}: {op}")
    numerics = cases.read_table(models, "models")
    table = {"models": numerics["models"], "triton": ()}
    latency_cases = tuple(
        timed
        for place, ops in rows.items()
        for op, listed in ops.items()
        for row in listed
        for timed in _expand(op, row, place, table, cases.describe_row(path, f"{place}: {op}", row))
    )
    cases.check_ids([timed.id for timed in latency_cases], path)
    first = {(timed.case.op, timed.place): timed.case for timed in reversed(latency_cases)}
    return tuple(
        replace(
            timed,
            quick=replace(timed.case, backward=False) == replace(first[timed.case.op, timed.place], backward=False),
        )
        if timed.place == "gpu" and timed.case.op not in numerics.get("tuned", {})
        else timed
        for timed in latency_cases
    )


def _expand(op: str, row: Mapping[str, Any], place: str, table: Mapping[str, Any], where: str) -> Iterator[LatencyCase]:
    if not isinstance(row, dict):
        raise CaseError(f"{where}: is not a row; write name: and sizes: under it")
    directions, check = row.get("directions", ["forward"]), row.get("check", {})
    if not isinstance(directions, list) or not directions:
        raise CaseError(f"{where}: directions: write a list of {', '.join(DIRECTIONS)}")
    if not isinstance(check, dict) or not all(type(size) is int and size > 0 for size in check.values()):
        raise CaseError(f"{where}: check: write a size for some of the row's letters, {{l: 300}} say")
    wrong = sorted(set(directions) - set(DIRECTIONS))
    if wrong:
        raise CaseError(f"{where}: directions: {', '.join(wrong)} is not known; write some of {', '.join(DIRECTIONS)}")
    refused = sorted(row.keys() & {"backward", "rows", "where", "alone", "known", "raises"})
    if refused:
        raise CaseError(f"{where}: {', '.join(refused)} is not for latencies; a backward pass is a direction")
    rest = cases.validate_row({key: value for key, value in row.items() if key not in ("directions", "check")}, where)
    unknown = sorted(check.keys() - rest["sizes"].keys())
    if unknown:
        raise CaseError(f"{where}: check: {', '.join(unknown)} is not among the row's sizes")
    for case in cases.expand_row(op, rest, table, where):
        for direction in directions:
            one = replace(case, backward=direction == "backward", where=(place,))
            sizes = {letter: min(size, check.get(letter, size)) for letter, size in case.sizes.items()}
            yield LatencyCase(one, direction, place, replace(one, sizes=MappingProxyType(sizes)))

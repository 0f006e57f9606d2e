"""The table of latency cases: read from `latency.yaml`, one per combination and direction.  Imports no torch."""

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
    """`gpu`: the installed operation; `cpu`: its PyTorch form."""
    check: KernelCase
    """The same call at sizes that the references can take; it has to be right before anything is timed."""
    quick: bool = False
    """Among those that together take minutes on a GPU: the first case of each operation that tunes nothing."""

    @property
    def id(self) -> str:
        return f"{self.case.id}-{self.direction}"

    def __repr__(self) -> str:
        # pytest-benchmark writes the parameters of a test into its JSON.
        return self.id


def load(path: Path = TABLE, models: Path = cases.TABLE) -> tuple[LatencyCase, ...]:
    """All latency cases of a table, with the models of the numerics' table; CaseError names a row that is wrong."""
    rows = cases.read_table(path)
    for place, ops in rows.items():
        if place not in PLACES or not isinstance(ops, dict):
            raise CaseError(f"{path.name}: {place}: write one of {', '.join(PLACES)}, and its operations under it")
        for op, listed in ops.items():
            cases.check_row_list(listed, f"{path.name}: {place}: {op}")
    numerics = cases.read_table(models, "models")
    table = {"models": numerics["models"], "triton": ()}
    found = tuple(
        each
        for place, ops in rows.items()
        for op, listed in ops.items()
        for row in listed
        for each in _expand(op, row, place, table, cases.describe_row(path, f"{place}: {op}", row))
    )
    cases.check_ids([each.id for each in found], path)
    first = {(each.case.op, each.place): each.case for each in reversed(found)}
    return tuple(
        replace(
            each, quick=replace(each.case, backward=False) == replace(first[each.case.op, each.place], backward=False)
        )
        if each.place == "gpu" and each.case.op not in numerics.get("tuned", {})
        else each
        for each in found
    )


def _expand(op: str, row: Mapping[str, Any], place: str, table: Mapping[str, Any], where: str) -> Iterator[LatencyCase]:
    if not isinstance(row, dict):
        raise CaseError(f"{where}: is no row; write name: and sizes: under it")
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
    rest = cases.validate_row({key: each for key, each in row.items() if key not in ("directions", "check")}, where)
    unknown = sorted(check.keys() - rest["sizes"].keys())
    if unknown:
        raise CaseError(f"{where}: check: {', '.join(unknown)} is not among the row's sizes")
    for case in cases.expand_row(op, rest, table, where):
        for direction in directions:
            one = replace(case, backward=direction == "backward", where=(place,))
            sizes = {letter: min(size, check.get(letter, size)) for letter, size in case.sizes.items()}
            yield LatencyCase(one, direction, place, replace(one, sizes=MappingProxyType(sizes)))

"""The table of kernel cases: read from `cases.yaml`, one KernelCase per combination.  Imports no torch."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

TABLE = Path(__file__).parent / "cases.yaml"
PLACES = ("interpreter", "gpu")
DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = ("transposed", "padded", "tied")
QUICK_DTYPE = "bfloat16"
"""Of operations whose kernels are tuned first, `-m quick` takes this dtype only: each has tunings of its own."""


class CaseError(ValueError):
    """The table of cases cannot be used; the message says which row, what is wrong and what to write instead."""


@dataclass(frozen=True)
class KernelCase:
    """One call of one operation: everything that decides its inputs, as data."""

    op: str
    name: str
    sizes: Mapping[str, int]
    """Letter of the operation's axes -> size."""
    dtype: str
    given: frozenset[str] = frozenset()
    """Optional arguments that are passed."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are not tensors."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Argument -> how its values are drawn, where the operation's own way is not meant."""
    layouts: Mapping[str, str] = field(default_factory=dict)
    """Argument -> `transposed` (its last two axes change places in memory), `padded` (rows of a wider tensor) or
    `tied` (one number per head, repeated by strides of 0).  Of an output it is the layout of its gradient."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """Argument or output -> its axes, where the operation takes it in more than one form."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Argument or output -> its dtype, where the operation takes it in more than one."""
    segments: tuple[int, ...] = ()
    """Lengths of the sequences that are packed into one row."""
    backward: bool = False
    rows: bool = False
    """Compare the first and the last row of the batch only: the operation runs on all, the references on two."""
    where: tuple[str, ...] = PLACES
    alone: bool = False
    """It has a tensor of 2^31 elements or more: an offset that wraps writes outside of it, after which a process cannot
    use the GPU any more, so it has one of its own."""
    known: str | None = None
    """Why the operation is known to miss the criterion here; when it no longer does, the row is out of date."""
    raises: str | None = None
    """Text of the error that the operation is known to raise here; None: what is known is a wrong result."""
    tuned: bool = False
    """Triton's autotuner times the configurations of its kernels, which takes most of its time the first time."""
    quick: bool = False
    """Among those that together take minutes on a GPU, nothing tuned before."""
    seed: int = 0
    place: str = ""
    """File, operation and name of its row, for messages."""

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}-{self.dtype}"


def load(path: Path = TABLE) -> tuple[KernelCase, ...]:
    """All cases of a table; CaseError names the row that cannot be used."""
    table = read_table(path, "cases", "models", "triton")
    check_tuned(table, path)
    cases = tuple(
        case
        for op, rows in table["cases"].items()
        for row in rows
        for case in expand_row(op, validate_row(row, describe_row(path, op, row)), table, describe_row(path, op, row))
    )
    ids = [case.id for case in cases]
    check_ids(ids, path)
    return cases


def read_table(path: Path, *parts: str) -> dict[str, Any]:
    """A table as it is in its file; raises CaseError where it cannot be read, or lacks a part."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise CaseError(f"{path}: is not YAML: {error}") from error
    if not isinstance(table, dict):
        raise CaseError(f"{path.name}: has no parts; write {', '.join(parts) or 'a place and its operations'}")
    for part in parts:
        wanted = list if part == "triton" else dict
        if not isinstance(table.get(part), wanted):
            raise CaseError(f"{path.name}: {part}: is missing or no {'list' if wanted is list else 'table'}")
    for op, rows in table.get("cases", {}).items():
        check_row_list(rows, f"{path.name}: {op}")
    return table


def check_row_list(rows: Any, place: str) -> None:
    """Raise CaseError unless the rows of an operation are a list that is not empty."""
    if not isinstance(rows, list) or not rows:
        raise CaseError(f"{place}: write a list of rows, one at least")


def check_tuned(table: Mapping[str, Any], path: Path) -> None:
    """Raise CaseError where `tuned` names an operation or a row that is not there."""
    for op, names in table.get("tuned", {}).items():
        there = {row.get("name") for row in table["cases"].get(op, []) if isinstance(row, dict)}
        missing = sorted(set(names) - there)
        if missing or not there:
            raise CaseError(f"{path.name}: tuned: {op} has no row {', '.join(missing) or 'at all'}")


def describe_row(path: Path, op: str, row: Any) -> str:
    """Where a row is, for messages."""
    name = row.get("name", "(no name)") if isinstance(row, dict) else f"row {row!r}"
    return f"{path.name}: {op}: {name}"


def check_ids(ids: list[str], path: Path) -> None:
    """Raise CaseError where two cases of a table have the same id."""
    twice = sorted(each for each, count in Counter(ids).items() if count > 1)
    if twice:
        raise CaseError(f"{path.name}: two cases have the same id: {', '.join(twice)}; give one another name")


def not_interpreted(path: Path = TABLE) -> tuple[str, ...]:
    """Operations of a table that Triton's interpreter cannot run."""
    table = read_table(path, "cases", "triton")
    return tuple(op for op in table["cases"] if op not in table["triton"])


@dataclass(frozen=True)
class InvariantCase:
    """An invariant of an operation, and the case whose inputs it takes."""

    invariant: str
    case: KernelCase

    @property
    def id(self) -> str:
        return f"{self.case.op}-{self.invariant}-{self.case.dtype}"

    @property
    def quick(self) -> bool:
        """Every family of invariants, in one dtype where kernels are tuned first."""
        return not self.case.tuned or self.case.dtype == QUICK_DTYPE


def load_invariants(path: Path = TABLE) -> tuple[InvariantCase, ...]:
    """All invariants of a table, for each dtype of the case they take; CaseError names one whose case is missing."""
    table = read_table(path, "invariants")["invariants"]
    found: dict[tuple[str, str], list[KernelCase]] = {}
    for case in load(path):
        found.setdefault((case.op, case.name), []).append(case)
    wanted = [(invariant, op, name) for invariant, ops in table.items() for op, name in ops.items()]
    missing = [f"{op}: {name}" for _, op, name in wanted if (op, name) not in found]
    if missing:
        raise CaseError(f"{path.name}: invariants take cases that are not there: {', '.join(missing)}")
    return tuple(InvariantCase(invariant, case) for invariant, op, name in wanted for case in found[op, name])


KEYS = {
    "name", "sizes", "model", "with", "options", "values", "layouts", "axes", "types", "segments", "dtypes", "backward",
    "rows", "where", "alone", "known", "raises",
}  # fmt: skip


class CaseRow(BaseModel):
    """What kind of thing each key of a row is."""

    model_config = ConfigDict(strict=True)

    name: str
    sizes: dict[str, PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)]]
    model: Annotated[list[str], Field(min_length=1)] = []
    given: list[str] = Field(default=[], alias="with")
    options: dict[str, Any] = {}
    values: dict[str, str] = {}
    layouts: dict[str, str] = {}
    axes: dict[str, str] = {}
    types: dict[str, Literal["float32", "float16", "bfloat16", "complex64"]] = {}
    segments: list[PositiveInt] = []
    dtypes: Annotated[list[str], Field(min_length=1)] = []
    backward: bool = False
    rows: bool = False
    where: Annotated[list[str], Field(min_length=1)] = []
    alone: bool = False
    known: dict[Literal["float32", "float16", "bfloat16"], str] = {}
    raises: str = ""


def validate_row(row: Any, place: str) -> dict[str, Any]:
    """The row, if its keys are known and hold what they should; raises CaseError beginning with `place`."""
    if not isinstance(row, dict):
        raise CaseError(f"{place}: is no row; write name: and sizes: under it")
    unknown = sorted(row.keys() - KEYS)
    if unknown:
        raise CaseError(f"{place}: {', '.join(unknown)} is not known; write one of {', '.join(sorted(KEYS))}")
    for key in ("name", "sizes"):
        if key not in row:
            raise CaseError(f"{place}: {key} is missing")
    try:
        CaseRow.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][:2]))
        raise CaseError(f"{place}: {key}: {first['msg'].lower()}, not {first['input']!r}") from None
    if not re.fullmatch(r"[a-z0-9_.]+(-[a-z0-9_.]+)*", str(row["name"])):
        raise CaseError(f"{place}: a name has lower case letters, digits, '_', '.' and '-' between words")
    for key, known in (("dtypes", DTYPES), ("where", PLACES)):
        wrong = sorted(set(row.get(key, ())) - set(known))
        if wrong:
            raise CaseError(f"{place}: {key}: {', '.join(wrong)} is not known; write some of {', '.join(known)}")
    if row.get("rows") and row.get("backward"):
        raise CaseError(f"{place}: rows compares two rows, and gradients of weights need all: leave one of the two out")
    if row.get("raises") and not row.get("known"):
        raise CaseError(f"{place}: raises is the error of what is known: write known: as well")
    wrong = sorted(set(row.get("layouts", {}).values()) - set(LAYOUTS))
    if wrong:
        raise CaseError(f"{place}: layouts: {', '.join(wrong)} is not known; write one of {', '.join(LAYOUTS)}")
    return row


def expand_row(op: str, row: dict[str, Any], table: Mapping[str, Any], place: str) -> Iterator[KernelCase]:
    """A list in `sizes`, and each model, is one case per entry; the varying part becomes part of the name."""
    models: Mapping[str, Mapping[str, int]] = table["models"]
    chosen_rows: list[str] | None = table.get("tuned", {}).get(op)
    where = PLACES if op in table["triton"] else ("gpu",)
    lists = {letter: each if isinstance(each, list) else [each] for letter, each in row["sizes"].items()}
    names: list[str | None] = list(row.get("model", [])) or [None]
    for model, sizes, dtype in itertools.product(
        names, itertools.product(*lists.values()), row.get("dtypes", list(DTYPES))
    ):
        if model is not None and model not in models:
            raise CaseError(f"{place}: model {model} is not in the table of models{suggest_nearest(model, models)}")
        chosen = dict(zip(lists, sizes, strict=True))
        varying = [f"{letter}{chosen[letter]}" for letter, each in lists.items() if len(each) > 1]
        yield KernelCase(
            op=op,
            name="-".join([row["name"], *([model] if model else []), *varying]),
            sizes=MappingProxyType({**(models[model] if model else {}), **chosen}),
            dtype=dtype,
            given=frozenset(row.get("with", ())),
            options=MappingProxyType({key: _option(each) for key, each in row.get("options", {}).items()}),
            values=MappingProxyType(dict(row.get("values", {}))),
            layouts=MappingProxyType(dict(row.get("layouts", {}))),
            axes=MappingProxyType(dict(row.get("axes", {}))),
            types=MappingProxyType(dict(row.get("types", {}))),
            segments=tuple(row.get("segments", ())),
            backward=bool(row.get("backward", False)),
            rows=bool(row.get("rows", False)),
            where=tuple(row.get("where", where)),
            alone=bool(row.get("alone", False)),
            known=row.get("known", {}).get(dtype),
            raises=row.get("raises"),
            tuned=chosen_rows is not None,
            quick="where" not in row if chosen_rows is None else row["name"] in chosen_rows and dtype == QUICK_DTYPE,
            place=place,
        )


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or all names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; write one of {', '.join(names)}"


def _option(value: Any) -> Any:
    """Pairs are tuples in the operations' signatures; YAML has no infinity that reads well."""
    if isinstance(value, list):
        return tuple(float("inf") if each == "inf" else each for each in value)
    return value

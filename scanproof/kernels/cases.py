"""Reads the table of kernel cases, `cases.yaml`: one KernelCase for each combination of row, size, model and dtype.

Imports no torch, because pytest reads the table while it collects tests.
"""

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
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from scanproof.files import parse_yaml
from scanproof.kernels.known import KnownDefect, KnownForm, split_error

TABLE = Path(__file__).parent / "cases.yaml"
PLACES = ("interpreter", "gpu")
DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = ("transposed", "padded", "tied", "heads_first")
QUICK_DTYPE = "bfloat16"
"""The only dtype that `-m quick` runs for operations with an autotuner: each dtype has to be tuned separately."""


class CaseError(ValueError):
    """The table of cases is wrong; the message says which row, what is wrong and what to write instead."""


@dataclass(frozen=True)
class KernelCase:
    """One call of one operation: everything that determines its inputs."""

    op: str
    name: str
    sizes: Mapping[str, int]
    """Letter of an axis (see `cases.yaml`) -> its size."""
    dtype: str
    given: frozenset[str] = frozenset()
    """Names of the optional arguments that the call passes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are not tensors."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Argument -> key of `inputs.DRAWS`, where its values are not drawn in the way that the operation's row names."""
    layouts: Mapping[str, str] = field(default_factory=dict)
    """Argument -> `transposed` (its last two axes are swapped in memory), `padded` (rows of a wider tensor), `tied`
    (one number per head, repeated with strides of 0) or `heads_first` (its second and third axis, positions and heads,
    are swapped in memory).  For an output it is the layout of the output's gradient."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """Argument or output -> its axes, for operations that accept more than one form."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Argument or output -> its dtype, for operations that accept more than one; `input`: the dtype of the case."""
    segments: tuple[int, ...] = ()
    """Lengths of the sequences that are packed into one row of the batch, the same in every row."""
    segments_of_rows: tuple[tuple[int, ...], ...] = ()
    """Lengths of the sequences in each row of the batch, where rows differ."""
    key_segments: tuple[int, ...] = ()
    """Lengths of the packed sequences of keys, in attention whose keys are more or fewer than its queries."""
    backward: bool = False
    """Compare gradients as well."""
    rows: bool = False
    """Compare only a few rows of the batch: the operation runs on all of them, the references on these
    (`batch_rows.choose_rows`)."""
    where: tuple[str, ...] = PLACES
    alone: bool = False
    """Run in a process of its own: the operation may write outside of its tensors, as it does where an offset past 2^31
    elements overflows.  After that nothing else in the process can be trusted."""
    known: KnownDefect | None = None
    """Why and how far the operation is known to fail this case.  When it passes, the row is out of date."""
    raises: str | None = None
    """Type and text of the error that the operation is known to raise, as `known.split_error` reads them; None: the
    known failure is a wrong result."""
    tuned: bool = False
    """Its kernels have a Triton autotuner, whose measurements take most of the time of a first run."""
    quick: bool = False
    """Selected by `-m quick`: all selected cases together take minutes on a GPU where nothing has been tuned before."""
    on_cpu: bool = True
    """Small enough for a CPU, whatever its operation's own kernels need."""
    seed: int = 0
    place: str = ""
    """File, operation and name of the case's row, for messages."""

    @property
    def id(self) -> str:
        return f"{self.op}-{self.short_id}"

    @property
    def short_id(self) -> str:
        """Its id among the cases of its operation."""
        return f"{self.name}-{self.dtype}"

    @property
    def places(self) -> tuple[str, ...]:
        """Where a provider may run it: `cpu`, `gpu`."""
        return (*(("cpu",) if self.on_cpu else ()), *(("gpu",) if "gpu" in self.where else ()))


def load(path: Path = TABLE) -> tuple[KernelCase, ...]:
    """Read all cases of a table.

    Raises:
        CaseError: a row is wrong, or two cases have the same id.
    """
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
    """Read a YAML table without interpreting its rows.

    Raises:
        CaseError: the file cannot be read, is not YAML, or lacks one of `parts`.
    """
    try:
        table = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise CaseError(f"{path}: is not YAML: {error}") from error
    if not isinstance(table, dict):
        raise CaseError(f"{path.name}: has no parts; write {', '.join(parts) or 'a place and its operations'}")
    for part in parts:
        wanted = list if part == "triton" else dict
        if not isinstance(table.get(part), wanted):
            raise CaseError(f"{path.name}: {part}: is missing or not a {'list' if wanted is list else 'table'}")
    for op, rows in table.get("cases", {}).items():
        check_row_list(rows, f"{path.name}: {op}")
    return table


def check_row_list(rows: Any, place: str) -> None:
    """Raise CaseError unless `rows` is a list with at least one row."""
    if not isinstance(rows, list) or not rows:
        raise CaseError(f"{place}: write a list of rows, one at least")


def check_tuned(table: Mapping[str, Any], path: Path) -> None:
    """Raise CaseError if the table's `tuned` names an operation or a row that does not exist."""
    for op, names in table.get("tuned", {}).items():
        there = {row.get("name") for row in table["cases"].get(op, []) if isinstance(row, dict)}
        missing = sorted(set(names) - there)
        if missing or not there:
            raise CaseError(f"{path.name}: tuned: {op} has no row {', '.join(missing) or 'at all'}")


def describe_row(path: Path, op: str, row: Any) -> str:
    """File, operation and name of a row, for messages."""
    name = row.get("name", "(no name)") if isinstance(row, dict) else f"row {row!r}"
    return f"{path.name}: {op}: {name}"


def check_ids(ids: list[str], path: Path) -> None:
    """Raise CaseError if two cases of a table have the same id."""
    repeated = sorted(case_id for case_id, count in Counter(ids).items() if count > 1)
    if repeated:
        raise CaseError(f"{path.name}: two cases have the same id: {', '.join(repeated)}; give one another name")


def not_interpreted(path: Path = TABLE) -> tuple[str, ...]:
    """List the operations of a table that Triton's interpreter cannot run."""
    table = read_table(path, "cases", "triton")
    return tuple(op for op in table["cases"] if op not in table["triton"])


@dataclass(frozen=True)
class InvariantCase:
    """An invariant of an operation, and the case that gives its inputs."""

    invariant: str
    case: KernelCase

    @property
    def id(self) -> str:
        return f"{self.case.op}-{self.invariant}-{self.case.dtype}"

    @property
    def quick(self) -> bool:
        """Selected by `-m quick`: every invariant, but in one dtype only where the kernels have an autotuner."""
        return not self.case.tuned or self.case.dtype == QUICK_DTYPE


def load_invariants(path: Path = TABLE) -> tuple[InvariantCase, ...]:
    """Read all invariants of a table, one for each dtype of the case that gives the inputs.

    Raises:
        CaseError: the case of an invariant does not exist.
    """
    table = read_table(path, "invariants")["invariants"]
    by_name: dict[tuple[str, str], list[KernelCase]] = {}
    for case in load(path):
        by_name.setdefault((case.op, case.name), []).append(case)
    wanted = [(invariant, op, name) for invariant, ops in table.items() for op, name in ops.items()]
    missing = [f"{op}: {name}" for _, op, name in wanted if (op, name) not in by_name]
    if missing:
        raise CaseError(f"{path.name}: invariants take cases that are not there: {', '.join(missing)}")
    return tuple(InvariantCase(invariant, case) for invariant, op, name in wanted for case in by_name[op, name])


KEYS = {
    "name", "sizes", "model", "with", "options", "values", "layouts", "axes", "types", "segments", "dtypes", "backward",
    "rows", "where", "alone", "known", "raises", "key_segments",
}  # fmt: skip


MAY_BE_EMPTY = ("b", "l")
"""Axes that a call may have no element of: a batch without rows, a sequence without positions."""


class CaseRow(BaseModel):
    """The type of each key of a row."""

    model_config = ConfigDict(strict=True)

    name: str
    sizes: dict[str, NonNegativeInt | Annotated[list[NonNegativeInt], Field(min_length=1)]]
    model: Annotated[list[str], Field(min_length=1)] = []
    given: list[str] = Field(default=[], alias="with")
    options: dict[str, Any] = {}
    values: dict[str, str] = {}
    layouts: dict[str, str] = {}
    axes: dict[str, str] = {}
    types: dict[str, Literal["input", "float32", "float16", "bfloat16", "complex64"]] = {}
    segments: list[NonNegativeInt] | list[list[NonNegativeInt]] = []
    key_segments: list[NonNegativeInt] = []
    dtypes: Annotated[list[str], Field(min_length=1)] = []
    backward: bool = False
    rows: bool = False
    where: Annotated[list[str], Field(min_length=1)] = []
    alone: bool = False
    known: dict[Literal["float32", "float16", "bfloat16"], KnownForm] = {}
    raises: str = ""


def validate_row(row: Any, place: str) -> dict[str, Any]:
    """Return the row if its keys are known and their values have the right type.

    Raises:
        CaseError: something is wrong; the message begins with `place`.
    """
    if not isinstance(row, dict):
        raise CaseError(f"{place}: is not a row; write name: and sizes: under it")
    unknown = sorted(row.keys() - KEYS)
    if unknown:
        raise CaseError(f"{place}: {', '.join(unknown)} is not known; write one of {', '.join(sorted(KEYS))}")
    for key in ("name", "sizes"):
        if key not in row:
            raise CaseError(f"{place}: {key} is missing")
    try:
        read = CaseRow.model_validate(row)
    except ValidationError as error:
        raise CaseError(f"{place}: {describe_mistake(error)}") from None
    for letter, size in row["sizes"].items():
        if letter not in MAY_BE_EMPTY and 0 in (size if isinstance(size, list) else [size]):
            raise CaseError(f"{place}: sizes.{letter}: only {' and '.join(MAY_BE_EMPTY)} may be 0")
    if row.get("segments") and isinstance(row["segments"][0], list) and "cu_seqlens" in row.get("with", ()):
        raise CaseError(f"{place}: cu_seqlens is of one row: write segments: as one list of lengths")
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
    if row.get("raises"):
        try:
            split_error(row["raises"])
        except ValueError as error:
            raise CaseError(f"{place}: raises: {error}") from None
    for dtype, known_of_dtype in read.known.items():
        if mistake := known_of_dtype.find_mistake(raises=bool(read.raises), alone=read.alone):
            raise CaseError(f"{place}: known.{dtype}: {mistake}")
    wrong = sorted(set(row.get("layouts", {}).values()) - set(LAYOUTS))
    if wrong:
        raise CaseError(f"{place}: layouts: {', '.join(wrong)} is not known; write one of {', '.join(LAYOUTS)}")
    return row


def describe_mistake(error: ValidationError) -> str:
    """The key of the first mistake in a row, what is wrong with it, and what was written."""
    first = error.errors()[0]
    parts = [part for part in map(str, first["loc"]) if part != "[key]"]
    key = ".".join(parts if parts[0] == "known" else parts[:2])
    if first["type"] == "model_type":
        return f"{key}: write because: and the bounds of what is wrong, rms: or times:, not {first['input']!r}"
    return f"{key}: {first['msg'].lower()}, not {first['input']!r}"


def expand_row(op: str, row: dict[str, Any], table: Mapping[str, Any], place: str) -> Iterator[KernelCase]:
    """Make the cases of a row: one per combination of dtype, model and of the lists in `sizes`.

    The model, and each size that varies, become part of the case's name.
    """
    models: Mapping[str, Mapping[str, int]] = table["models"]
    chosen_rows: list[str] | None = table.get("tuned", {}).get(op)
    where = PLACES if op in table["triton"] else ("gpu",)
    lists = {letter: size if isinstance(size, list) else [size] for letter, size in row["sizes"].items()}
    names: list[str | None] = list(row.get("model", [])) or [None]
    segments: list[Any] = row.get("segments", [])
    apart = bool(segments) and isinstance(segments[0], list)
    known = {str(dtype): form.build() for dtype, form in CaseRow.model_validate(row).known.items()}
    for model, sizes, dtype in itertools.product(
        names, itertools.product(*lists.values()), row.get("dtypes", list(DTYPES))
    ):
        if model is not None and model not in models:
            raise CaseError(f"{place}: model {model} is not in the table of models{suggest_nearest(model, models)}")
        chosen = dict(zip(lists, sizes, strict=True))
        varying = [f"{letter}{chosen[letter]}" for letter, choices in lists.items() if len(choices) > 1]
        yield KernelCase(
            op=op,
            name="-".join([row["name"], *([model] if model else []), *varying]),
            sizes=MappingProxyType({**(models[model] if model else {}), **chosen}),
            dtype=dtype,
            given=frozenset(row.get("with", ())),
            options=MappingProxyType({key: _option(value) for key, value in row.get("options", {}).items()}),
            values=MappingProxyType(dict(row.get("values", {}))),
            layouts=MappingProxyType(dict(row.get("layouts", {}))),
            axes=MappingProxyType(dict(row.get("axes", {}))),
            types=MappingProxyType(dict(row.get("types", {}))),
            segments=() if apart else tuple(segments),
            segments_of_rows=tuple(map(tuple, segments)) if apart else (),
            key_segments=tuple(row.get("key_segments", ())),
            backward=bool(row.get("backward", False)),
            rows=bool(row.get("rows", False)),
            where=tuple(row.get("where", where)),
            on_cpu="where" not in row or "interpreter" in row["where"],
            alone=bool(row.get("alone", False)),
            known=known.get(dtype),
            raises=row.get("raises"),
            tuned=chosen_rows is not None,
            quick=not row.get("alone")
            and ("where" not in row if chosen_rows is None else row["name"] in chosen_rows and dtype == QUICK_DTYPE),
            place=place,
        )


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: `; did you mean ...?`, or all known names if none is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; write one of {', '.join(names)}"


def _option(value: Any) -> Any:
    """Convert an option from YAML: the operations expect pairs as tuples, and the table writes infinity as `inf`."""
    if isinstance(value, list):
        return tuple(float("inf") if item == "inf" else item for item in value)
    return value

"""What a session measured: runs and their records, to and from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from scanproof.tolerance import Verdict
from scanproof.values import EvalJob

SCHEMA_VERSION = 1
RUN_FILE = "run.json"

T = TypeVar("T")


class RecordError(Exception):
    """A run cannot be read; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number that an evaluation produced."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="strings")
    # JSON has no NaN; a number that is none must come back as one, or a broken run would look like a missing value.

    task: str
    metric: str
    value: float
    """Natural unit: accuracies as fractions, perplexities raw."""
    stderr: float | None
    n_samples: int
    """Documents scored."""
    num_fewshot: int | None = None
    task_version: str | None = None
    prompts_hash: str | None = None
    """Digest of the prompt hashes of all documents, in order."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished job."""

    job: EvalJob
    key: str
    """Digest of everything that can move the numbers."""
    measurements: tuple[Measurement, ...]
    samples: str
    """Folder of the per-sample logs, one `<task>.jsonl` each."""
    command: str
    """Plain `lm_eval` command line that runs the job by hand."""
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    reused: bool = False
    """The numbers come from the store: nothing that can move them has changed."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of one session: what was printed, what came out, and the verdict."""

    id: str
    nodeid: str
    document: str
    line: int
    model: str
    hub_id: str
    task: str
    metric: str
    origin: str
    printed: str
    unit: str
    job: str
    outcome: str
    """An `Outcome`, or `NOT_RUN` when the test was skipped before anything was measured."""
    because: str
    verdict: Verdict | None = None
    evaluation_key: str | None = None
    reused: bool | None = None
    samples: str | None = None
    command: str | None = None
    widened: str | None = None
    """Reason of a tolerance that was widened by hand."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One session."""

    id: str
    started: str
    """ISO 8601, UTC."""
    finished: str | None
    """None in a partial run: the session was killed or interrupted, or still goes on."""
    strict: bool
    limit: int | None
    environment: dict[str, Any]
    records: tuple[Record, ...]
    selected: int | None = None
    """Numbers that were to be compared; more than there are records in a session that was stopped."""
    evaluations: tuple[Evaluation, ...] = ()
    schema_version: int = SCHEMA_VERSION


def to_json(value: object) -> bytes:
    """JSON of a dataclass instance, indented."""
    return TypeAdapter(type(value)).dump_json(value, indent=1)


def from_json(kind: type[T], text: bytes | str) -> T:
    """The inverse of `to_json`; raises pydantic.ValidationError."""
    return TypeAdapter(kind).validate_json(text)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Path of a temporary neighbour that replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_run(folder: Path, run: Run) -> Path:
    """Write `run` to `folder/<run.id>/run.json` in one step; returns the file."""
    path = folder / run.id / RUN_FILE
    with atomic(path) as temporary:
        temporary.write_bytes(to_json(run))
    return path


def find_run(folder: Path, name: str) -> Path:
    """File of a run given by path, by id below `folder`, or as `latest`.

    Raises RecordError when there is none.
    """
    given = Path(name)
    for candidate in (given, given / RUN_FILE, folder / name / RUN_FILE):
        if candidate.is_file():
            return candidate
    known = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}"))
    if name == "latest" and known:
        return folder / known[-1] / RUN_FILE
    listed = ", ".join(known[-5:]) or "none yet"
    raise RecordError(f"there is no run {name!r} in {folder} (newest runs: {listed})")


def read_run(path: Path) -> Run:
    """Read one run; raises RecordError naming the file when it is not a run of a known schema."""
    try:
        run = from_json(Run, path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecordError(f"{path}: not a run record: {where}: {first['msg']}") from error
    if run.schema_version > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema_version {run.schema_version} is newer than this scanproof reads "
            f"({SCHEMA_VERSION}); update scanproof"
        )
    return run

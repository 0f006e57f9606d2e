"""Runs and their records: what a session measured, and how it is written and read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scanproof.errors import FailureKind
from scanproof.files import from_json, is_file, is_folder, parse_json, read_bytes, to_json, write_atomically
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.engines import EngineName, Scoring
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import PairedComparison
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.printable import LONGEST, make_printable

SCHEMA_VERSION = 4
"""1: until November 2026.  2: comparisons with a baseline, and the outcome CHANGED.
3: the engine of an evaluation, and the outcome ENGINES_DISAGREE.  4: comparisons that are due, and the outcome
COMPARISON_MISSING; a latency of wrong results is WRONG, no longer NOT_MEASURED.

A new field that may be absent is no new version; a new meaning is.  Every version stays readable: `tests/data/runs`.
"""
RUN_FILE = "run.json"
DIGEST = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n\}\Z')
"""The last key of a run file: the SHA-256 of the file without it.  Runs until November 2026 have none."""


class RecordError(Exception):
    """A run cannot be read; the message names the file and what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(make_printable(message, LONGEST, lines=True))


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """The shared engine's evaluation of a job that plain then measured again."""

    because: dict[str, str]
    """Why plain measured again: number id -> shared's verdict on it.

    Empty where the engine broke, and where `scoring.spot` alone differs, or memory did not suffice for it.
    """
    error: str | None = None
    """How the engine broke; None where it measured."""
    key: str | None = None
    measurements: tuple[Measurement, ...] = ()
    samples: str | None = None
    """Folder of the per-sample logs."""
    kept: dict[str, str] = field(default_factory=dict)
    """As of an evaluation."""
    seconds: float = 0.0
    scoring: Scoring | None = None


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """Why a task of a job was left out."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished job."""

    job: EvalJob
    key: str
    """Digest of everything that can move the numbers."""
    measurements: tuple[Measurement, ...]
    samples: str
    """Folder of the per-sample logs, one `<task>.jsonl` each."""
    kept: dict[str, str] = field(default_factory=dict)
    """Path of each file of that folder, from there -> its SHA-256; empty in runs until November 2026."""
    command: str
    """Plain `lm_eval` command line that runs the job by hand."""
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    reused: bool = False
    """The numbers come from the store: nothing that can move them has changed."""
    session: str | None = None
    """Name of the session that measured it; None where that is not known."""
    measured: str | None = None
    """When it was measured: ISO 8601, UTC; None where that is not known."""
    kernels: Launches | None = None
    """What was launched; a job that names kernels is an error without it."""
    kernel_changes: tuple[str, ...] = ()
    """How the autotuner chose differently than in the evaluation of this job before this one."""
    engine: EngineName = "plain"
    """What scored it."""
    engine_because: str | None = None
    """Why plain, where shared was asked for."""
    scoring: Scoring | None = None
    """What the shared engine ran; None for plain."""
    replaced: Replaced | None = None
    """The evaluation by the shared engine that this one replaces."""
    asked: tuple[str, ...] = ()
    """Ids of the numbers that its session selected of this job; empty in runs until November 2026."""
    unmeasured: dict[str, Unmeasured] = field(default_factory=dict)
    """Single task of the job that could not be loaded -> why; the others were measured."""


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
    gate: PairedComparison | None = None
    """The comparison document by document with the baseline; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class KnownBaselines:
    """What a session knew of the baselines in its history before anything ran."""

    newest: str | None
    """Id of the newest declaration; None: there was none."""
    first: str | None = None
    """Id of the first one, which tells histories apart."""
    numbers: tuple[str, ...]
    """Ids of the selected numbers that have a declared baseline on this GPU."""


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A number that had a baseline in another run of the store, and has none in this session's history."""

    number: str
    run: str
    """Id of the run in which it had one."""
    newest: str | None
    """As in that run's `KnownBaselines`."""
    first: str | None = None


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
    selected_ids: tuple[str, ...] = ()
    """Ids of these numbers; empty in runs until November 2026."""
    due: tuple[str, ...] = ()
    """Ids of the numbers whose comparison with a baseline was due, known before anything ran."""
    baselines: KnownBaselines | None = None
    """None where they are not known: without strict or a history, where not all of the history can be read, and in runs
    until November 2026."""
    owed: tuple[Owed, ...] = ()
    """Selected numbers whose baseline is lost: the run in which they had one may be deleted as the oldest."""
    providers: dict[str, str] = field(default_factory=dict)
    """Operation -> what was named to run its kernel cases in place of the installed one."""
    evaluations: tuple[Evaluation, ...] = ()
    latencies: tuple[Latency, ...] = ()
    failed_tests: tuple[str, ...] = ()
    """Node ids of all tests of the session that failed, whatever they recorded, and under strict of those that others
    kept from failing; empty in older runs."""
    unkept: tuple[str, ...] = ()
    """Why its session was not green although no test said so, in words; empty in runs until November 2026."""
    exit_code: int | None = None
    """What its session decided to end with; None where it came to no end, and in runs until November 2026."""
    joint: tuple[PairedComparison, ...] = ()
    """What no single number shows: each model and the whole night against the baseline, each model against what was
    printed (`joint_print.PRINT`), and jobs that read a fixed text as other tokens than the baseline did."""
    schema_version: int = SCHEMA_VERSION


def write_run(folder: Path, run: Run) -> Path:
    """Write `run` to `folder/<run.id>/run.json` in one step, with its digest; returns the file."""
    path = folder / run.id / RUN_FILE
    content = to_json(run)
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, content.removesuffix(b"\n}") + f',\n "sha256": "{digest}"\n}}'.encode())
    return path


def find_run(folder: Path, name: str) -> Path:
    """File of a run given by path, by id below `folder`, or as `latest`.

    Raises RecordError when there is none.
    """
    given = Path(name)
    # A folder that happens to be called so is not the latest run.
    for candidate in () if name == "latest" else (given, given / RUN_FILE, folder / name / RUN_FILE):
        if is_file(candidate):
            return candidate
    known = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}")) if is_folder(folder) else []
    if name == "latest":
        newest = next((run for run in reversed(known) if can_be_latest(folder / run / RUN_FILE)), None)
        if newest is not None:
            return folder / newest / RUN_FILE
    listed = ", ".join(known[-5:]) or "none yet"
    raise RecordError(f"there is no run {name!r} in {folder} (newest runs: {listed})")


def passed_over(latest: Path) -> list[str]:
    """The runs beside the `latest` one that may be newer, each with the reason why it is not the latest; sorted by id.

    Ids begin with the time of the clock.  A clock that went back shows in the times of the files.

    Args:
        latest: file of the latest run.
    """
    lines = []
    for folder in sorted(path for path in latest.parents[1].iterdir() if is_folder(path)):
        path = folder / RUN_FILE
        if folder.name > latest.parent.name:
            lines.append(f"{folder.name} is newer, and {_why_no_latest(path)}")
        elif folder.name < latest.parent.name and is_file(path) and path.stat().st_mtime > latest.stat().st_mtime:
            lines.append(
                f"{folder.name} was written later, although its name is earlier: a clock was set, or it ran longer"
            )
    return lines


def _why_no_latest(path: Path) -> str:
    """Why a run that tried to measure nothing is none to speak of."""
    if not is_file(path):
        return f"has no {RUN_FILE}"
    return "measured nothing" if read_run(path).finished is not None else "measured nothing and did not finish"


def can_be_latest(path: Path) -> bool:
    """Whether a run is one to speak of as `latest`: it tried to measure something, or had to and did not end well.

    A session that selected nothing, or skipped all that it selected and was green, is none.  An unreadable file is one:
    whoever asks for the latest run has to hear of it.
    """
    try:
        run = read_run(path)
    except RecordError:
        return True
    measured = run.latencies or run.failed_tests or any(kept.outcome != Outcome.NOT_RUN for kept in run.records)
    return bool(measured or (run.selected and run.exit_code != 0))


def read_run(path: Path) -> Run:
    """Read one run; raises RecordError naming the file when it is not a run of a known schema."""
    try:
        content = read_bytes(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_run(content, str(path))


def parse_run(content: bytes, name: str) -> Run:
    """A run from the content of its file; raises RecordError naming the file."""
    newer = schema_version(content)
    if newer is not None and newer > SCHEMA_VERSION:
        # Before anything else: a newer schema may well look like a broken one.
        raise RecordError(
            f"{name}: schema_version {newer} is newer than this scanproof reads ({SCHEMA_VERSION}); update scanproof"
        )
    if has_other_digest(content):
        raise RecordError(
            f"{name}: it is not as its session wrote it: edited or damaged since then; put an untouched copy in its "
            "place, or measure again"
        )
    try:
        return from_json(Run, content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecordError(f"{name}: not a run record: {where}: {first['msg']}") from error


def has_other_digest(content: bytes) -> bool:
    """Whether a run file names a digest that is not its own; one that names none was written before there was any."""
    named = DIGEST.search(content)
    if named is not None:
        return hashlib.sha256(content[: named.start()] + b"\n}").hexdigest() != named[1].decode()
    if b'"sha256"' not in content:
        return False
    try:
        # With other spaces it is another file: whoever formats it can have changed it as well.
        return "sha256" in parse_json(content)
    except (ValueError, TypeError):
        return False


def schema_version(content: bytes) -> int | None:
    """The schema version that a file names; None where it names none."""
    try:
        claimed = parse_json(content)["schema_version"]
    except (ValueError, KeyError, TypeError):
        return None
    return claimed if isinstance(claimed, int) else None

"""Runs and their records: what a session measured, and how it is written and read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scanproof.files import from_json, to_json, write_atomically
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.engines import Engine, Scoring
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.paired_tests import PairedComparison
from scanproof.numbers.verdict.tolerance import Verdict

SCHEMA_VERSION = 3
"""1: until November 2026.  2: comparisons with a baseline, and the outcome CHANGED.
3: the engine of an evaluation, and the outcome ENGINES_DISAGREE.

A new field that may be absent is no new version; a new meaning is.  Every version stays readable: `tests/data/runs`.
"""
RUN_FILE = "run.json"


class RecordError(Exception):
    """A run cannot be read; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """The shared engine's evaluation of a job that plain then measured again."""

    because: dict[str, str]
    """Why plain measured again: number id -> shared's verdict on it.

    Empty where the engine broke, and where `scoring.spot` alone differs.
    """
    error: str | None = None
    """How the engine broke; None where it measured."""
    key: str | None = None
    measurements: tuple[Measurement, ...] = ()
    samples: str | None = None
    """Folder of the per-sample logs."""
    seconds: float = 0.0
    scoring: Scoring | None = None


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
    kernels: Launches | None = None
    """What was launched; a job that names kernels is an error without it."""
    kernel_changes: tuple[str, ...] = ()
    """How the autotuner chose differently than in the evaluation of this job before this one."""
    engine: Engine = "plain"
    """What scored it."""
    engine_because: str | None = None
    """Why plain, where shared was asked for."""
    scoring: Scoring | None = None
    """What the shared engine ran; None for plain."""
    replaced: Replaced | None = None
    """The evaluation by the shared engine that this one replaces."""


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
    latencies: tuple[Latency, ...] = ()
    joint: tuple[PairedComparison, ...] = ()
    """Each model, and the whole night, against the baseline: what is spread over many numbers."""
    schema_version: int = SCHEMA_VERSION


def write_run(folder: Path, run: Run) -> Path:
    """Write `run` to `folder/<run.id>/run.json` in one step; returns the file."""
    path = folder / run.id / RUN_FILE
    write_atomically(path, to_json(run))
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
        content = path.read_bytes()
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
    try:
        return from_json(Run, content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecordError(f"{name}: not a run record: {where}: {first['msg']}") from error


def schema_version(content: bytes) -> int | None:
    """The schema version that a file names; None where it names none."""
    try:
        claimed = json.loads(content)["schema_version"]
    except (ValueError, KeyError, TypeError):
        return None
    return claimed if isinstance(claimed, int) else None

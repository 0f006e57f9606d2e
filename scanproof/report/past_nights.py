"""Read the runs before the reported one, from a history or from a local store, for its trends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from scanproof import record
from scanproof.history import baseline, compare, queries, run_failures
from scanproof.history.compare import Whole
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, Published, gpu_name
from scanproof.numbers.verdict.outcome import fails, meaning_of
from scanproof.record import RecordError, Run

MOST = 100
"""Nights of a trend by default, the reported run included."""
Since = int | date
"""A number of nights, or the first day."""


@dataclass(frozen=True, kw_only=True)
class PastNight:
    """One earlier run."""

    run: str
    started: str
    finished: bool
    environment: Mapping[str, Any]
    measured: Mapping[str, tuple[float | None, str]]
    """Id of a number -> measured value in the natural unit, and outcome."""
    timed: Mapping[str, tuple[float | None, float | None]]
    """Id of a kernel case -> median seconds per call, and share of the roofline."""
    failed_cases: frozenset[str] = frozenset()
    """Ids of the kernel cases that failed."""
    failures: tuple[str, ...] = ()
    """Why it is not green, beside its numbers: see `scanproof.history.run_failures`."""
    whole: Callable[[], Whole] = field(repr=False)
    """Reads the run with its samples; raises HistoryError."""

    @property
    def good(self) -> bool:
        """Whether it was finished and nothing in it failed."""
        outcomes = {outcome for _, outcome in self.measured.values()}
        bad = self.failed_cases or self.failures or any(meaning_of(outcome).is_bad for outcome in outcomes)
        return self.finished and not bad


def parse_since(text: str) -> Since:
    """Parse a number of nights such as `30`, or the first day such as `2026-11-01`; raises ValueError."""
    if re.fullmatch(r"[1-9][0-9]{0,5}", text):
        return int(text)
    return date.fromisoformat(text)


def keep_newest(nights: Sequence[PastNight], since: Since | None) -> list[PastNight]:
    """The nights that `since` selects, oldest first; a number of nights includes the reported run."""
    ordered = sorted(nights, key=lambda night: (night.started, night.run))
    if isinstance(since, date):
        return [night for night in ordered if datetime.fromisoformat(night.started).date() >= since]
    keep = (since or MOST) - 1
    return ordered[-keep:] if keep else []


def from_history(history: History, run: Run, since: Since | None) -> list[PastNight]:
    """Published runs before `run`, on the same GPU and without a limit of documents.  Raises HistoryError."""
    earlier = [
        published
        for published in history.runs()
        if is_comparable(run, published.id, published.started, published.manifest["limit"])
        and published.gpu == gpu_of(run.environment)
    ]
    rows: dict[str, dict[str, tuple[float | None, str]]] = {}
    sql = "SELECT run, id, measured, outcome FROM numbers"
    for row in queries.ask(sql, {"numbers": queries.numbers(history, earlier)}):
        rows.setdefault(row["run"], {})[row["id"]] = (row["measured"], row["outcome"])
    timed: dict[str, dict[str, tuple[float | None, float | None]]] = {}
    failed_cases: dict[str, set[str]] = {}
    for row in queries.latency_trend(history, earlier):
        timed.setdefault(row["run"], {})[row["id"]] = (row.get("timing_median"), roofline_share(row))
        if fails(row["outcome"]):
            failed_cases.setdefault(row["run"], set()).add(row["id"])
    nights = [
        PastNight(
            run=published.id,
            started=published.started,
            finished=published.manifest["finished"] is not None,
            environment=published.manifest["environment"],
            measured=rows.get(published.id, {}),
            timed=timed.get(published.id, {}),
            failed_cases=frozenset(failed_cases.get(published.id, ())),
            failures=tuple(run_failures.list_published_failures(published.manifest) or ()),
            whole=make_reader(history, published),
        )
        for published in earlier
    ]
    return keep_newest(nights, since)


def make_reader(history: History, published: Published) -> Callable[[], Whole]:
    """A function that reads a published run with its samples."""
    return lambda: compare.from_history(history, published)


def roofline_share(row: Mapping[str, Any]) -> float | None:
    """Share of the roofline, computed from a row of the table `latencies` as `Latency.share` computes it."""
    bytes_per_s, flop_per_s = row.get("limits_bytes_per_s"), row.get(f"limits_flop_per_s_{row.get('rate')}")
    if not (bytes_per_s and flop_per_s and row.get("timing_median")):
        return None
    floor = max(float(row["bytes"]) / bytes_per_s, float(row["flop"]) / flop_per_s)
    return float(floor / row["timing_median"])


def from_store(folder: Path, run: Run, since: Since | None) -> tuple[list[PastNight], list[str]]:
    """Earlier runs of a local store, and why some of them could not be read."""
    nights, problems = [], []
    for path in sorted(folder.glob(f"*/{record.RUN_FILE}")):
        try:
            earlier = record.read_run(path)
        except RecordError as error:
            problems.append(str(error))
            continue
        same_gpu = gpu_of(earlier.environment) == gpu_of(run.environment)
        comparable = is_comparable(run, earlier.id, earlier.started, earlier.limit)
        if same_gpu and comparable and (earlier.records or earlier.latencies):
            nights.append(summarise_run(earlier, path.parent))
    return keep_newest(nights, since), problems


def is_comparable(run: Run, name: str, started: str, limit: int | None) -> bool:
    """Whether a run is earlier than `run`, and was not limited to the first documents of each task."""
    return name != run.id and (started, name) < (run.started, run.id) and limit is None


def summarise_run(run: Run, folder: Path) -> PastNight:
    """A run of a local store as a night."""
    return PastNight(
        run=run.id,
        started=run.started,
        finished=run.finished is not None,
        environment=run.environment,
        measured={number.id: (compare.measured(number), number.outcome) for number in run.records},
        timed={case.id: (case.timing.median if case.timing else None, case.share) for case in run.latencies},
        failed_cases=frozenset(case.id for case in run.latencies if fails(case.outcome)),
        failures=tuple(run_failures.list_failures(run)),
        whole=lambda: compare.from_store(run, folder),
    )


def gpu_of(environment: Mapping[str, Any]) -> str:
    """Name of an environment's GPUs, or `cpu`."""
    return gpu_name(environment.get("gpus"))


def last_night_with(nights: Sequence[PastNight], number: str) -> PastNight | None:
    """The last night that contains a number."""
    return next((night for night in reversed(nights) if number in night.measured), None)


def version_changes(nights: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """For each environment, the versions that differ from the environment before it; nothing for the first."""
    before: Mapping[str, Any] | None = None
    for now in nights:
        rows = queries.environment_changes(versions(before), versions(now)) if before is not None else []
        yield tuple(f"{short_name(row['what'])} {row['before'] or 'none'} -> {row['now'] or 'none'}" for row in rows)
        before = now


def versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The versions in an environment, without the commit: it changes every night, and `Night` has a field for it."""
    gpus = [{key: gpu.get(key) for key in ("name", "driver_version")} for gpu in environment.get("gpus") or ()]
    return {"python": environment.get("python"), "packages": environment.get("packages") or {}, "gpus": gpus[:1]}


def short_name(key: str) -> str:
    """`packages.torch` -> `torch`, `gpus.0.driver_version` -> `driver`."""
    last = key.rpartition(".")[2]
    return {"driver_version": "driver", "name": "GPU"}.get(last, last)


def find_run(run: str, folder: Path, history: History | None) -> tuple[Run, Path | None]:
    """Find a run by name: in a local store, else in the history.

    Returns:
        The run, and its folder in the local store; None for a run of the history.

    Raises:
        RecordError: there is no history, and the store does not hold the run.
        HistoryError: the history does not hold the run, or it cannot be read.
    """
    try:
        path = record.find_run(folder, run)
        return record.read_run(path), path.parent
    except RecordError:
        if history is None:
            raise
    published = history.find(run)
    try:
        return baseline.read_run(history, published), None
    except RecordError as error:
        raise HistoryError(str(error)) from None

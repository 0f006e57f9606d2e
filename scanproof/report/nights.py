"""The runs before the one that is reported, from a history or from a local store: what trends need of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from scanproof import record
from scanproof.history import baseline, compare, queries
from scanproof.history.compare import Whole
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, Published, gpu_name
from scanproof.numbers.verdict.outcome import fails, meaning_of
from scanproof.record import RecordError, Run

MOST = 100
"""Nights of a trend where nothing else is asked for."""
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
    """Number -> measured, natural unit, and outcome."""
    timed: Mapping[str, tuple[float | None, float | None]]
    """Latency -> seconds and share of the roofline."""
    slower: frozenset[str] = frozenset()
    whole: Callable[[], Whole] = field(repr=False)
    """Reads the run with its samples; raises HistoryError."""

    @property
    def good(self) -> bool:
        """Whole, and nothing in it failed."""
        outcomes = {outcome for _, outcome in self.measured.values()}
        return self.finished and not self.slower and not any(meaning_of(outcome).is_bad for outcome in outcomes)


def parse_since(text: str) -> Since:
    """`30` nights, or the first day as `2026-11-01`; raises ValueError."""
    if re.fullmatch(r"[1-9][0-9]{0,5}", text):
        return int(text)
    return date.fromisoformat(text)


def newest(nights: Sequence[PastNight], since: Since | None) -> list[PastNight]:
    """The nights that are asked for, oldest first; one place is the reported run's own."""
    ordered = sorted(nights, key=lambda night: (night.started, night.run))
    if isinstance(since, date):
        return [night for night in ordered if datetime.fromisoformat(night.started).date() >= since]
    keep = (since or MOST) - 1
    return ordered[-keep:] if keep else []


def from_history(history: History, run: Run, since: Since | None) -> list[PastNight]:
    """Published runs before `run` on the same GPU, whose numbers were not cut short.  Raises HistoryError."""
    earlier = [
        each
        for each in history.runs()
        if comparable(run, each.id, each.started, each.manifest["limit"]) and each.gpu == gpu(run.environment)
    ]
    rows: dict[str, dict[str, tuple[float | None, str]]] = {}
    sql = "SELECT run, id, measured, outcome FROM numbers"
    for row in queries.ask(sql, {"numbers": queries.numbers(history, earlier)}):
        rows.setdefault(row["run"], {})[row["id"]] = (row["measured"], row["outcome"])
    timed: dict[str, dict[str, tuple[float | None, float | None]]] = {}
    slower: dict[str, set[str]] = {}
    for row in queries.latency_trend(history, earlier):
        timed.setdefault(row["run"], {})[row["id"]] = (row.get("timing_median"), share(row))
        if fails(row["outcome"]):
            slower.setdefault(row["run"], set()).add(row["id"])
    nights = [
        PastNight(
            run=each.id,
            started=each.started,
            finished=each.manifest["finished"] is not None,
            environment=each.manifest["environment"],
            measured=rows.get(each.id, {}),
            timed=timed.get(each.id, {}),
            slower=frozenset(slower.get(each.id, ())),
            whole=reader(history, each),
        )
        for each in earlier
    ]
    return newest(nights, since)


def reader(history: History, published: Published) -> Callable[[], Whole]:
    """Reads a published run when it is needed."""
    return lambda: compare.from_history(history, published)


def share(row: Mapping[str, Any]) -> float | None:
    """Share of the roofline from a row of `latencies`, as `Latency.share` has it."""
    moving, computing = row.get("limits_bytes_per_s"), row.get(f"limits_flop_per_s_{row.get('rate')}")
    if not (moving and computing and row.get("timing_median")):
        return None
    floor = max(float(row["bytes"]) / moving, float(row["flop"]) / computing)
    return float(floor / row["timing_median"])


def from_store(folder: Path, run: Run, since: Since | None) -> tuple[list[PastNight], list[str]]:
    """Earlier runs of a local store, and what could not be read of it."""
    nights, problems = [], []
    for path in sorted(folder.glob(f"*/{record.RUN_FILE}")):
        try:
            found = record.read_run(path)
        except RecordError as error:
            problems.append(str(error))
            continue
        same = gpu(found.environment) == gpu(run.environment)
        if same and comparable(run, found.id, found.started, found.limit) and (found.records or found.latencies):
            nights.append(of_run(found, path.parent))
    return newest(nights, since), problems


def comparable(run: Run, name: str, started: str, limit: int | None) -> bool:
    """Whether a run is an earlier one that says something about the numbers of `run`."""
    return name != run.id and (started, name) < (run.started, run.id) and limit is None


def of_run(run: Run, folder: Path) -> PastNight:
    """A run of a local store."""
    return PastNight(
        run=run.id,
        started=run.started,
        finished=run.finished is not None,
        environment=run.environment,
        measured={kept.id: (compare.measured(kept), kept.outcome) for kept in run.records},
        timed={each.id: (each.timing.median if each.timing else None, each.share) for each in run.latencies},
        slower=frozenset(each.id for each in run.latencies if fails(each.outcome)),
        whole=lambda: compare.from_store(run, folder),
    )


def gpu(environment: Mapping[str, Any]) -> str:
    return gpu_name(environment.get("gpus"))


def last_holding(nights: Sequence[PastNight], number: str) -> PastNight | None:
    """The last night that says anything about a number."""
    return next((night for night in reversed(nights) if number in night.measured), None)


def version_changes(nights: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """What each environment changed in versions, against the one before it; nothing for the first."""
    before: Mapping[str, Any] | None = None
    for now in nights:
        rows = queries.environment_changes(versions(before), versions(now)) if before is not None else []
        yield tuple(f"{name(row['what'])} {row['before'] or 'none'} -> {row['now'] or 'none'}" for row in rows)
        before = now


def versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an environment that has versions; a commit changes every night and is a night's own field."""
    gpus = [{key: each.get(key) for key in ("name", "driver_version")} for each in environment.get("gpus") or ()]
    return {"python": environment.get("python"), "packages": environment.get("packages") or {}, "gpus": gpus[:1]}


def name(key: str) -> str:
    """`packages.torch` -> `torch`, `gpus.0.driver_version` -> `driver`."""
    last = key.rpartition(".")[2]
    return {"driver_version": "driver", "name": "GPU"}.get(last, last)


def shown(run: str, folder: Path, history: History | None) -> tuple[Run, Path | None]:
    """The run of that name in a local store, with its folder, else in the history.

    Raises RecordError or HistoryError.
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

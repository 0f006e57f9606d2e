"""Series of nights out of a history, on each of its GPUs, and the drifts in them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from scanproof.history import declarations, drift, queries
from scanproof.history.store import History, Published
from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.verdict.outcome import Meaning, names

SERIES = """
    SELECT gpu, id, any_value(hub_id) AS model, any_value(metric) AS metric, any_value(task) AS task,
           any_value(newest_job) AS job, list(place) FILTER (usable AND documents = newest) AS places,
           list(measured) FILTER (usable AND documents = newest) AS measured, any_value(newest) AS documents,
           count(*) AS judged, count(*) FILTER (usable) AS usable, max(started) AS last
    FROM (
        SELECT *, arg_max(documents, place) FILTER (usable) OVER (PARTITION BY gpu, id) AS newest
        FROM (
            SELECT *, arg_max(job, place) OVER (PARTITION BY gpu, id) AS newest_job,
                   measured IS NOT NULL AND documents IS NOT NULL AND NOT list_contains(?, outcome) AS usable
            FROM numbers JOIN (
                SELECT run, gpu, started, row_number() OVER (ORDER BY started, run) - 1 AS place FROM runs
            ) USING (run)
        ) AS judged LEFT JOIN starts ON starts.on_gpu = judged.gpu AND starts.of_job = judged.newest_job
        WHERE judged.started >= coalesce(starts.since, '')
    )
    GROUP BY gpu, id
    ORDER BY gpu, id
"""
"""Nights in any order: DuckDB takes longer to order lists than to read them.

Of each number on each GPU the nights since its job's baseline, of as many documents as its newest: one night of others
in between does not end its series.
"""

OVER = timedelta(days=30)
"""A number is measured no more, or its GPU is gone, when ten nights were so much later than its last."""

Starts = Mapping[tuple[str, str], str]
"""GPU and job -> when the run that is the baseline of the job there began."""


@dataclass(frozen=True)
class Series:
    """A number, or all accuracies of a model together, night after night on one GPU."""

    name: str
    gpu: str
    kind: str
    """`number` or `model`."""
    nights: tuple[str, ...]
    """Runs, oldest first."""
    values: tuple[float, ...]
    """A share of the documents; of a perplexity its logarithm."""
    documents: int
    logarithm: bool = False


@dataclass(frozen=True)
class OnGpu:
    """How much was looked at on one GPU."""

    gpu: str
    nights: int
    """Nights of the number that has the most of them since its job's baseline, measured or not."""
    series: int
    """Series of enough nights."""


@dataclass(frozen=True)
class Drifts:
    """What was found in the nights of a history, and how much was looked at."""

    rows: list[dict[str, Any]]
    """One for each drift."""
    gpus: tuple[OnGpu, ...]
    """Every GPU with a whole night; that of the newest night first."""
    declared: bool
    """Whether a run on the GPU of the newest night is a declared baseline."""
    other_documents: tuple[str, ...]
    """Numbers with enough nights, but too few of as many documents as their newest: no drift in these."""
    over: tuple[str, ...] = ()
    """Numbers that are measured no more: nothing is looked at."""


def list_whole(runs: Sequence[Published]) -> list[Published]:
    """The runs that are nights: those that finished, without a limit of documents."""
    return [run for run in runs if run.manifest["finished"] is not None and run.manifest["limit"] is None]


def find_starts(history: History, runs: Sequence[Published]) -> Starts:
    """Where the series of each job begin: declaring a baseline accepts what came before it, for its jobs alone."""
    declared = declarations.list_declarations(history)
    current = declarations.find_current(declared)
    by_id = {run.id: run for run in runs}
    # A job that was defined anew has a key for each definition; the one declared last counts.
    return {
        (by_id[each.run].gpu, job): by_id[each.run].started
        for each in declared
        if each.run in by_id
        for key, job in each.evaluations.items()
        if current[key] is each
    }


def starts_table(starts: Starts) -> str:
    """A query over where the series of each job begin."""
    rows = json.dumps([{"on_gpu": gpu, "of_job": job, "since": since} for (gpu, job), since in starts.items()])
    kinds = json.dumps([dict.fromkeys(("on_gpu", "of_job", "since"), "VARCHAR")])
    return f"SELECT unnest(from_json({queries.quoted(rows)}, {queries.quoted(kinds)}), recursive := true)"


def read_numbers(history: History, runs: Sequence[Published], starts: Starts) -> list[dict[str, Any]]:
    """Every number on every GPU: what `SERIES` selects, with the runs of its nights, oldest first."""
    tables = {
        "numbers": queries.numbers(history, runs),
        "runs": queries.runs_table(runs),
        "starts": starts_table(starts),
    }
    rows = queries.ask(SERIES, tables, [sorted(names(Meaning.BROKEN))])
    in_order = [run.id for run in sorted(runs, key=lambda run: (run.started, run.id))]
    for row in rows:
        pairs = sorted(zip(row["places"] or (), row["measured"] or (), strict=True))
        row |= {"nights": [in_order[place] for place, _ in pairs], "measured": [value for _, value in pairs]}
    return rows


def is_long_enough(row: dict[str, Any]) -> bool:
    """Whether a number has enough nights of as many documents as its newest."""
    return len(row["nights"]) >= 2 * drift.SHORTEST


def make_series(rows: Sequence[dict[str, Any]]) -> list[Series]:
    """Every number with enough nights of equal documents, and every model over the numbers that its nights share.

    On each GPU for itself.
    """
    whole = [row for row in rows if is_long_enough(row)]
    return [*map(of_number, whole), *of_models(whole)]


def of_number(row: dict[str, Any]) -> Series:
    """One number."""
    logarithm = row["metric"] == "perplexity"
    values = tuple(math.log(value) if logarithm else value for value in row["measured"])
    return Series(row["id"], row["gpu"], "number", tuple(row["nights"]), values, row["documents"], logarithm)


def of_models(rows: Sequence[dict[str, Any]]) -> Iterator[Series]:
    """All accuracies of a model, a document once: a change too small for any of its numbers."""
    by_model: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        if row["metric"] == "acc" and not row["task"].startswith(("mmlu_", "average")):
            by_model.setdefault((row["gpu"], row["model"]), {})[row["job"], row["task"]] = row
    for (gpu, model), by_task in sorted(by_model.items()):
        kept = list(by_task.values())
        by_night = [dict(zip(row["nights"], row["measured"], strict=True)) for row in kept]
        shared = [night for night in kept[0]["nights"] if all(night in each for each in by_night)]
        if len(kept) > 1 and len(shared) >= 2 * drift.SHORTEST:
            documents = sum(row["documents"] for row in kept)
            right = [
                math.fsum(each[night] * row["documents"] for each, row in zip(by_night, kept, strict=True))
                for night in shared
            ]
            yield Series(model, gpu, "model", tuple(shared), tuple(value / documents for value in right), documents)


def drifts(history: History, constants: Constants) -> Drifts:
    """Every drift up to the newest night of each GPU, with the night on which it began."""
    published = history.runs()
    runs = list_whole(published)
    newest = runs[-1].gpu if runs else None
    starts = find_starts(history, published)
    read = read_numbers(history, runs, starts)
    numbers = [number for number in read if not is_over(number, runs)]
    every_series = make_series(numbers)
    started = {run.id: run.started for run in runs}
    # One false alarm in so many nights, of all GPUs together.
    level = constants.drift_level(len(every_series))
    rows = []
    for one_series in every_series:
        change = drift.find(one_series.values, allowed(one_series, constants, level))
        if change is not None:
            rows.append(row(one_series, change, started))
    return Drifts(
        rows,
        tuple(
            OnGpu(gpu, count_nights(gpu, runs, numbers), sum(each.gpu == gpu for each in every_series))
            for gpu in sorted({run.gpu for run in runs}, key=lambda gpu: (gpu != newest, gpu))
        ),
        any(gpu == newest for gpu, _ in starts),
        tuple(name_number(number, newest) for number in numbers if has_other_documents(number)),
        tuple(name_number(number, newest) for number in read if is_over(number, runs)),
    )


def is_over(row: dict[str, Any], runs: Sequence[Published]) -> bool:
    """Whether enough nights were later than a number's last by `OVER`; one whose clock is ahead is one."""
    last = datetime.fromisoformat(row["last"])
    later = sum(datetime.fromisoformat(run.started) - last > OVER for run in runs)
    return later >= 2 * drift.SHORTEST


def count_nights(gpu: str, runs: Sequence[Published], numbers: Sequence[dict[str, Any]]) -> int:
    """Nights of a GPU that can be strung together: those of the newest night's number with the most, else all."""
    newest = max(run.started for run in runs if run.gpu == gpu)
    judged = (number["judged"] for number in numbers if (number["gpu"], number["last"]) == (gpu, newest))
    return max(judged, default=sum(run.gpu == gpu for run in runs))


def has_other_documents(row: dict[str, Any]) -> bool:
    """Whether a number has enough nights, but too few of as many documents as its newest."""
    return int(row["usable"]) >= 2 * drift.SHORTEST and not is_long_enough(row)


def name_number(row: dict[str, Any], newest: str | None) -> str:
    """A number by its id, with its GPU where that is not the one of the newest night."""
    return str(row["id"]) if row["gpu"] == newest else f"{row['id']} on {row['gpu']}"


def allowed(series: Series, constants: Constants, level: float) -> float:
    """By how much two stretches of correct nights of a series may differ."""
    nights = len(series.values)
    if series.logarithm:
        sd = constants.perplexity_sd * math.sqrt(constants.perplexity_documents / series.documents)
        return drift.allowed_log(sd, level, nights)
    return drift.allowed_share(series.documents, constants.flip_rate_same, level, nights)


def row(series: Series, change: drift.Drift, started: dict[str, str]) -> dict[str, Any]:
    """A drift as it is listed."""
    began = series.nights[change.began]
    back = math.exp if series.logarithm else float
    return {
        "series": series.name,
        "gpu": series.gpu,
        "kind": series.kind,
        "began": started[began],
        "run": began,
        "shape": change.shape,
        "before": round(back(change.before), 6),
        "now": round(back(change.now), 6),
        "allowed": round(change.allowed, 6),
        "documents": series.documents,
        "nights": len(series.nights),
    }


def sentence(drifted: dict[str, Any]) -> str:
    """A drift in words."""
    how = "changed on" if drifted["shape"] == "step" else "has been drifting since"
    return (
        f"{drifted['series']} {how} {drifted['began'][:10]} (run {drifted['run']}): {drifted['before']:.4f} before, "
        f"{drifted['now']:.4f} now, {drifted['allowed']:.4f} explained by noise"
    )

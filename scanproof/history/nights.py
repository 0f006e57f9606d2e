"""Series of nights out of a history, and the drifts in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scanproof.history import declarations, drift, queries
from scanproof.history.store import History, Published
from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.verdict.outcome import Meaning, names

SERIES = """
    SELECT id, any_value(hub_id) AS model, any_value(metric) AS metric, any_value(task) AS task, any_value(job) AS job,
           list(place) FILTER (documents = newest) AS places, list(measured) FILTER (documents = newest) AS measured,
           any_value(newest) AS documents
    FROM (
        SELECT *, arg_max(documents, place) OVER (PARTITION BY id) AS newest
        FROM numbers JOIN (SELECT run, row_number() OVER (ORDER BY started, run) - 1 AS place FROM runs) USING (run)
        WHERE measured IS NOT NULL AND documents IS NOT NULL AND NOT list_contains(?, outcome)
    )
    GROUP BY id
    HAVING count(*) >= ?
    ORDER BY id
"""
"""Nights in any order: DuckDB takes longer to order lists than to read them.

Of each number the nights of as many documents as its newest: one night of others in between does not end its series.
"""


@dataclass(frozen=True)
class Series:
    """A number, or all accuracies of a model together, night after night."""

    name: str
    kind: str
    """`number` or `model`."""
    nights: tuple[str, ...]
    """Runs, oldest first."""
    values: tuple[float, ...]
    """A share of the documents; of a perplexity its logarithm."""
    documents: int
    logarithm: bool = False


@dataclass(frozen=True)
class Drifts:
    """What was found in the nights of a history, and how much was looked at."""

    rows: list[dict[str, Any]]
    """One for each drift."""
    nights: int
    """Nights that can be strung together, up to the newest."""
    series: int
    """Series of enough of these nights."""
    declared: bool
    """Whether a run on the GPU of the newest night is a declared baseline."""
    other_documents: tuple[str, ...]
    """Numbers with enough nights, but too few of as many documents as their newest: no drift in these."""


def comparable(history: History, runs: Sequence[Published]) -> list[Published]:
    """The nights that can be strung together: whole runs on the newest one's GPU, since the baseline they have.

    Declaring a baseline accepts what came before it.
    """
    whole = [run for run in runs if run.manifest["finished"] is not None and run.manifest["limit"] is None]
    if not whole:
        return []
    same = [run for run in whole if run.gpu == whole[-1].gpu]
    starts = [run.started for run in list_declared(history, same)]
    return [run for run in same if not starts or run.started >= max(starts)]


def list_declared(history: History, runs: Sequence[Published]) -> list[Published]:
    """Those of the runs that are the baseline of something."""
    declared = {each.run for each in declarations.find_current(declarations.list_declarations(history)).values()}
    return [run for run in runs if run.id in declared]


def read_numbers(history: History, runs: Sequence[Published]) -> list[dict[str, Any]]:
    """Every number with enough nights: what `SERIES` selects, with the runs of its nights, oldest first."""
    tables = {"numbers": queries.numbers(history, runs), "runs": queries.runs_table(runs)}
    rows = queries.ask(SERIES, tables, [sorted(names(Meaning.BROKEN)), 2 * drift.SHORTEST])
    in_order = [run.id for run in sorted(runs, key=lambda run: (run.started, run.id))]
    for row in rows:
        places, measured = zip(*sorted(zip(row["places"], row["measured"], strict=True)), strict=True)
        row |= {"nights": [in_order[place] for place in places], "measured": measured}
    return rows


def is_long_enough(row: dict[str, Any]) -> bool:
    """Whether a number has enough nights of as many documents as its newest."""
    return len(row["nights"]) >= 2 * drift.SHORTEST


def make_series(rows: Sequence[dict[str, Any]]) -> list[Series]:
    """Every number with enough nights of equal documents, and every model over the numbers that its nights share."""
    whole = [row for row in rows if is_long_enough(row)]
    return [*map(of_number, whole), *of_models(whole)]


def of_number(row: dict[str, Any]) -> Series:
    """One number."""
    logarithm = row["metric"] == "perplexity"
    values = tuple(math.log(value) if logarithm else value for value in row["measured"])
    return Series(row["id"], "number", tuple(row["nights"]), values, row["documents"], logarithm)


def of_models(rows: Sequence[dict[str, Any]]) -> Iterator[Series]:
    """All accuracies of a model, a document once: a change too small for any of its numbers."""
    by_model: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        if row["metric"] == "acc" and not row["task"].startswith(("mmlu_", "average")):
            by_model.setdefault(row["model"], {})[row["job"], row["task"]] = row
    for model, by_task in sorted(by_model.items()):
        kept = list(by_task.values())
        by_night = [dict(zip(row["nights"], row["measured"], strict=True)) for row in kept]
        shared = [night for night in kept[0]["nights"] if all(night in each for each in by_night)]
        if len(kept) > 1 and len(shared) >= 2 * drift.SHORTEST:
            documents = sum(row["documents"] for row in kept)
            right = [
                math.fsum(each[night] * row["documents"] for each, row in zip(by_night, kept, strict=True))
                for night in shared
            ]
            yield Series(model, "model", tuple(shared), tuple(value / documents for value in right), documents)


def drifts(history: History, constants: Constants) -> Drifts:
    """Every drift up to the newest night, with the night on which it began."""
    published = history.runs()
    runs = comparable(history, published)
    declared = list_declared(history, [run for run in published if runs and run.gpu == runs[-1].gpu])
    numbers = read_numbers(history, runs)
    every_series = make_series(numbers)
    started = {run.id: run.started for run in runs}
    level = constants.drift_level(len(every_series))
    rows = []
    for one_series in every_series:
        change = drift.find(one_series.values, allowed(one_series, constants, level))
        if change is not None:
            rows.append(row(one_series, change, started))
    others = tuple(number["id"] for number in numbers if not is_long_enough(number))
    return Drifts(rows, len(runs), len(every_series), bool(declared), others)


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

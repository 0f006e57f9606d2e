"""Rows about published numbers, for tables, JSON and CSV.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import joint_print
from scanproof.numbers.verdict.tolerance import Allowance, Constants, allowance, list_blind_sides
from scanproof.record import Record, Run
from scanproof.report import terminal

COLUMNS = ("id", "document", "line", "printed", "allowed", "detectable", "cannot_be_too", "n", "status")


def describe_status(value: PublishedValue) -> tuple[str, str | None]:
    """Whether a number is compared with what is measured, and why not."""
    if value.unrecorded:
        return "not_comparable", "no number is recorded yet"
    if value.not_comparable:
        return "not_comparable", value.not_comparable
    if value.job.limit is not None:
        return "not_comparable", f"its job scores the first {value.job.limit} documents of each task only"
    if value.known_discrepancy:
        return "known_discrepancy", value.known_discrepancy.reason
    return "comparable", None


def describe_blind_sides(value: PublishedValue, allowed: Allowance | None) -> str:
    """`low`, `high` or both: the directions in which the number cannot fail; empty where it can in both."""
    if allowed is None:
        return ""
    return " or ".join(list_blind_sides(value.metric, value.expected, allowed.total))


def make_value_row(value: PublishedValue, constants: Constants) -> dict[str, Any]:
    """Everything about one number; `allowed` and `detectable` in the unit of print."""
    allowed = None if value.unrecorded else allowance(value, constants)
    state, reason = describe_status(value)
    digits = terminal.decimals(value.printed) + 2
    return {
        "id": value.id,
        "document": value.document,
        "line": value.line,
        "model": value.model,
        "hub_id": value.hub_id,
        "task": value.task,
        "metric": value.metric,
        "num_fewshot": value.job.num_fewshot,
        "num_fewshot_printed": value.num_fewshot_printed,
        "origin": value.origin,
        "printed": value.printed,
        "unit": value.unit,
        "stderr": value.stderr,
        "batch_size": value.job.batch_size,
        "batch_size_printed": value.batch_size_printed,
        "allowed": None if allowed is None else round(allowed.total * value.scale, digits),
        "allowed_because": [
            {"part": part.name, "size": round(part.size * value.scale, 6), "because": part.because}
            for part in (allowed.parts if allowed else ())
        ],
        "detectable": None if allowed is None else round(allowed.detectable * value.scale, digits),
        "cannot_be_too": describe_blind_sides(value, allowed),
        "n": value.documents,
        "status": state,
        "reason": reason,
        "harness": value.harness,
        "job": value.job.name,
        "model_class": value.job.model,
        "derived_from": [f"{part.task}/{part.metric}" for part in value.parts],
        "assumed": dict(value.assumed),
        "widened": {"by": value.widened.by, "reason": value.widened.reason} if value.widened else None,
        "source": f"{value.file}:{value.file_line}",
    }


def describe_together(values: Iterable[PublishedValue], constants: Constants) -> list[str]:
    """A line for each model whose numbers are also compared all together: the common shift that is caught."""
    groups = joint_print.group_printed(values, constants)
    level = constants.joint_level(len(groups))
    power = round(100 * constants.power)
    return [
        f"{model}: a common shift of {100 * numbers.detectable(level, constants.power):.2f} points of "
        f"{len(numbers.values)} numbers is caught with {power}% power; by the best of them alone "
        f"{100 * min(allowance(value, constants).detectable for value in numbers.values):.2f}"
        for model, numbers in groups.items()
    ]


def add_verdict(row: dict[str, Any], record: Record) -> dict[str, Any]:
    """The row as a run ended for it: its printed number and allowance are the run's, the status its outcome.

    The expected values may have been edited since; the reason says so then.
    """
    scale = terminal.scale_of(record.unit)
    verdict = record.verdict
    measured = verdict.measured if verdict else None
    difference = verdict.difference if verdict else None
    allowed = verdict.allowance.total if verdict and verdict.allowance else None
    edited = (record.printed, record.unit) != (row["printed"], row["unit"])
    since = f"; since then the expected value was changed to {row['printed']} {row['unit']}" if edited else ""
    return {
        **row,
        "printed": record.printed,
        "unit": record.unit,
        "measured": None if measured is None else round(measured * scale, 6),
        "difference": None if difference is None else round(difference * scale, 6),
        "allowed": None if allowed is None else round(allowed * scale, 6),
        "status": record.outcome,
        "reason": record.because + since,
    }


def make_value_rows(
    values: Iterable[PublishedValue], constants: Constants, run: Run | None = None
) -> list[dict[str, Any]]:
    """A row per number; with `run`, only the numbers of that run and with its verdicts."""
    if run is None:
        return [make_value_row(value, constants) for value in values]
    records = {record.id: record for record in run.records}
    return [add_verdict(make_value_row(value, constants), records[value.id]) for value in values if value.id in records]


def matches(value: PublishedValue, documents: list[str], models: list[str]) -> bool:
    """Whether a number was asked for: document by number, model by a part of its name or hub id."""
    of_document = not documents or value.document in documents
    names = f"{value.model} {value.hub_id}".lower()
    return of_document and (not models or any(model.lower() in names for model in models))

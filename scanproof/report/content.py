"""The content of a report: plain records, the same for HTML, Markdown and JSON.  Pure.

`docs/report.schema.json` is the JSON Schema of `Report`; a test fails when the two differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from scanproof.numbers.verdict.tolerance import AllowancePart

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or is removed; a new field does not raise it."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The run that is reported."""

    id: str
    started: str
    finished: str | None
    """None when the run was stopped or is still going on."""
    strict: bool
    limit: int | None
    selected: int | None
    """How many numbers the session was asked to compare."""
    gpu: str
    """Names of the GPUs, or `cpu`."""
    scanproof: str | None
    """Version of scanproof."""


@dataclass(frozen=True, kw_only=True)
class ChangedDocument:
    """One document whose score differs from the run it is compared with."""

    task: str
    doc_id: int
    target: int | None
    """Index of the right choice; None where the task has no numbered choices."""
    before: float | None
    """Score in the run it is compared with."""
    now: float | None
    loglikelihoods_before: tuple[float, ...]
    loglikelihoods_now: tuple[float, ...]
    prompt: str | None
    """What the model was given; the beginning of a long prompt is left out.  None where the texts were not kept."""
    choices: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class ChangedDocuments:
    """The documents of a number whose scores changed."""

    compared_with: str | None
    """Name of the run or baseline; None where there is none."""
    changed: int
    """How many documents have another score."""
    gained: int
    """How many have a higher score."""
    lost: int
    """How many have a lower score."""
    shown: tuple[ChangedDocument, ...]
    """The documents whose score changed most."""
    because: str | None
    """Why nothing could be compared; None where it was compared."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One published number.  Values are in the natural unit: accuracies are fractions, perplexities are raw."""

    id: str
    document: str
    line: int
    """Line of the document on which it is printed."""
    source: str | None
    """File and line below `expected/`; None where no expected file contains it any more."""
    model: str
    """Short name with its variant."""
    hub_id: str
    task: str
    metric: str
    origin: str
    num_fewshot: int | None
    job: str
    unit: str
    printed: str
    expected: float | None
    measured: float | None
    difference: float | None
    allowed: float | None
    detectable: float | None
    parts: tuple[AllowancePart, ...]
    """The parts that add up to `allowed`, in the natural unit."""
    sigmas: float | None
    """The difference, in standard deviations of the difference between two correct runs."""
    documents: int | None
    documents_moved: float | None
    """The difference expressed as a number of documents."""
    outcome: str
    because: str
    gate: str | None
    """Outcome of the document-by-document comparison with a baseline; None without a baseline."""
    gate_because: tuple[str, ...]
    engine: str | None
    """Engine that measured it, `plain` or `shared`; None where nothing was measured."""
    engines_because: tuple[str, ...]
    """The results of both engines, where plain measured again."""
    before: str | None
    """Outcome in the last run that contains this number; None where no earlier run does."""
    new: bool
    """It failed or could not run, and that was different in the last run."""
    fixed: bool
    """It failed in the last run, and does not now that it is compared again."""
    command: str | None
    """Shell command that repeats the measurement."""
    triage: str | None
    """Shell command that looks for the reason; None where it did not fail, or where the run is in no local store."""
    widened: str | None
    """Reason why the tolerance was widened by hand; None where it was not."""
    series: tuple[float | None, ...]
    """Measured values with six digits, one entry per night."""
    failed_nights: tuple[int, ...]
    """Indices of the nights in which it failed."""
    samples: ChangedDocuments | None


@dataclass(frozen=True, kw_only=True)
class TimedCase:
    """One timed kernel case."""

    id: str
    op: str
    direction: str
    device: str
    outcome: str
    because: str
    median: float | None
    """Seconds per call."""
    baseline: float | None
    """Seconds per call."""
    ratio: float | None
    """Measured median divided by the baseline."""
    share: float | None
    """Share of the roofline that was reached; 1 is the limit."""
    bound_by: str | None
    """`memory` or `arithmetic`."""
    new: bool
    """It failed, and did not in the last run that holds it."""
    series: tuple[float | None, ...]
    """Seconds per call with six digits, one entry per night."""
    shares: tuple[float | None, ...]
    """Shares of the roofline with six digits, one entry per night."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """One night: an entry of every series."""

    run: str
    started: str
    commit: str | None
    changes: tuple[str, ...]
    """Versions that differ from the night before: `torch 2.12.1 -> 2.13.0`."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A difference between two environments."""

    what: str
    before: str | None
    now: str | None


@dataclass(frozen=True, kw_only=True)
class PrintedDocument:
    """A document that prints numbers."""

    number: str
    title: str


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """The verdict of the whole run, which a reader should see first."""

    state: str
    """`failed`, `incomplete` (nothing failed, but not everything was measured, or nothing compared) or `passed`."""
    sentence: str
    """The verdict in one or two sentences."""
    outcomes: dict[str, int]
    """How many numbers and kernel cases have each outcome."""
    failed: tuple[str, ...]
    """Ids; new failures come first."""
    new: tuple[str, ...]
    """Ids that failed or could not run, other than in the last run."""
    fixed: tuple[str, ...]
    """Ids that failed in the last run, were compared again and do not fail now."""
    known: tuple[str, ...]
    """Ids of known discrepancies."""
    not_run: dict[str, tuple[str, ...]]
    """Reason -> ids that could not run."""
    not_compared: dict[str, tuple[str, ...]]
    """Reason -> ids that were measured but are not comparable with the printed number."""
    together: tuple[str, ...]
    """Changes that only many numbers together, or many nights, show."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page shows."""

    run: RunInfo
    last_run: str | None
    last_good: str | None
    """The last run in which nothing failed."""
    verdict: RunVerdict
    documents: tuple[PrintedDocument, ...]
    numbers: tuple[Number, ...]
    latencies: tuple[TimedCase, ...]
    nights: tuple[Night, ...]
    """Oldest first; the last one is this run."""
    environment: dict[str, str]
    changes: tuple[Change, ...]
    """What differs from the environment of the last good run."""
    remarks: tuple[str, ...]
    """What a reader has to know, for example what was skipped or left out."""
    schema_version: int = SCHEMA_VERSION


def with_remarks(report: Report, remarks: Iterable[str]) -> Report:
    """The report with its remarks replaced by these, without duplicates."""
    return replace(report, remarks=tuple(dict.fromkeys(remarks)))


def json_schema() -> dict[str, Any]:
    """JSON Schema of the report."""
    schema = TypeAdapter(Report).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Report of a scanproof run"}

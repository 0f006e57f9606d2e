"""What the page says: plain records, the same in HTML, Markdown and JSON.  Pure.

`docs/report.schema.json` is the JSON Schema of `Report`; a test keeps it as it is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; a new field is no new version."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The run that is reported."""

    id: str
    started: str
    finished: str | None
    """None: stopped, or still going on."""
    strict: bool
    limit: int | None
    selected: int | None
    """Numbers that were to be compared."""
    gpu: str
    """Names of the GPUs, or `cpu`."""
    scanproof: str | None
    """Version of scanproof."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One reason to allow a difference."""

    name: str
    size: float
    """Natural unit."""
    because: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One document that is scored otherwise than in the run it is compared with."""

    task: str
    doc_id: int
    target: int | None
    """Index of the right choice, where the task counts its choices."""
    before: float | None
    """Score in the run that is compared with."""
    now: float | None
    loglikelihoods_before: tuple[float, ...]
    loglikelihoods_now: tuple[float, ...]
    prompt: str | None
    """What the model was given, its beginning left out where it is long; None where the texts were not kept."""
    choices: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The documents of a number that changed."""

    compared_with: str | None
    changed: int
    """Documents whose score differs."""
    gained: int
    lost: int
    shown: tuple[Sample, ...]
    """Those that moved most."""
    because: str | None
    """Why nothing could be compared; None where it was."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One published number.  Sizes are in the natural unit: accuracies as fractions, perplexities raw."""

    id: str
    document: str
    line: int
    """Line of the document on which it is printed."""
    source: str | None
    """File and line below `expected/`; None where no expected file holds it any more."""
    model: str
    """Short name, with its variant."""
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
    parts: tuple[Part, ...]
    """What `allowed` is made of."""
    sigmas: float | None
    """The difference in standard deviations of the difference of two correct runs."""
    documents: int | None
    documents_moved: float | None
    outcome: str
    because: str
    gate: str | None
    """Outcome of the comparison document by document; None where there was no baseline."""
    gate_because: tuple[str, ...]
    engine: str | None
    """`plain` or `shared`, whose measurement this is; None where there is none."""
    engines_because: tuple[str, ...]
    """What both engines said, where plain measured again."""
    before: str | None
    """Outcome in the last run that held this number; None where none did."""
    new: bool
    """It failed, or could not run, and was otherwise in the last run."""
    fixed: bool
    """It failed in the last run, and does not any more."""
    command: str | None
    """Repeats the measurement by hand."""
    triage: str | None
    """Looks for the reason; None where nothing failed, or where the run is in no local store."""
    widened: str | None
    series: tuple[float | None, ...]
    """Measured, six digits, a place per night."""
    failed_nights: tuple[int, ...]
    """Places of the nights on which it failed."""
    samples: Samples | None


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One kernel case."""

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
    """Measured over baseline."""
    share: float | None
    """Share of the roofline: 1 is the limit."""
    bound_by: str | None
    """`memory` or `arithmetic`."""
    new: bool
    """It is slower, and was not in the last run that timed it."""
    series: tuple[float | None, ...]
    """Seconds per call, six digits, a place per night."""
    shares: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Night:
    """A place of every series."""

    run: str
    started: str
    commit: str | None
    changes: tuple[str, ...]
    """Versions that are not those of the night before: `torch 2.12.1 -> 2.13.0`."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that is not as it was."""

    what: str
    before: str | None
    now: str | None


@dataclass(frozen=True, kw_only=True)
class Document:
    """Where numbers were printed."""

    number: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What there is to say first."""

    state: str
    """`failed`, `incomplete` (nothing failed, and not everything was measured) or `passed`."""
    sentence: str
    outcomes: dict[str, int]
    """Numbers and latencies by outcome."""
    failed: tuple[str, ...]
    """Ids, those that are new first."""
    new: tuple[str, ...]
    fixed: tuple[str, ...]
    known: tuple[str, ...]
    not_run: dict[str, tuple[str, ...]]
    """Reason -> ids."""
    not_compared: dict[str, tuple[str, ...]]
    """Reason -> ids: measured, and not comparable with what was printed."""
    together: tuple[str, ...]
    """What only many numbers together, or many nights, show."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page says."""

    run: RunInfo
    last_run: str | None
    last_good: str | None
    """The last run in which nothing failed."""
    verdict: Verdict
    documents: tuple[Document, ...]
    numbers: tuple[Number, ...]
    latencies: tuple[Timed, ...]
    nights: tuple[Night, ...]
    """Oldest first; the last one is this run."""
    environment: dict[str, str]
    changes: tuple[Change, ...]
    """What differs from the environment of the last good run."""
    remarks: tuple[str, ...]
    """What a reader has to know: what was skipped, what was left out."""
    schema_version: int = SCHEMA_VERSION


def with_remarks(report: Report, remarks: Iterable[str]) -> Report:
    """The report with these remarks in place of its own."""
    return replace(report, remarks=tuple(dict.fromkeys(remarks)))


def json_schema() -> dict[str, Any]:
    """JSON Schema of the report."""
    found = TypeAdapter(Report).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "Report of a scanproof run"}

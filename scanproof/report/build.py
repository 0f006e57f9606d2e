"""Build a Report from one run, the nights before it and the expected values.  Pure, except for `Material.samples`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scanproof.history import compare, queries, run_failures
from scanproof.history.errors import HistoryError
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.outcome import fails, meaning_of, number_outcome
from scanproof.record import Record, Run
from scanproof.report import past_nights, run_verdict
from scanproof.report.content import (
    Change,
    ChangedDocuments,
    Night,
    Number,
    PrintedDocument,
    Report,
    RunInfo,
    TimedCase,
)
from scanproof.report.past_nights import PastNight

DocumentFinder = Callable[[PublishedValue], ChangedDocuments]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that a report is built from."""

    run: Run
    past: Sequence[PastNight] = ()
    """Earlier runs, oldest first."""
    expected: Expected | None = None
    """None where the run compared no published number."""
    store: str | None = None
    """Folder of the local store that holds the run; None where no store does."""
    find_documents: DocumentFinder | None = None
    """Finds the changed documents of a number; None to leave them out."""
    drifts: tuple[str, ...] = ()
    """Drifts over the nights, in words."""
    remarks: list[str] = field(default_factory=list)
    """Remarks for the reader; `find_documents` may add to them."""

    @property
    def last_good(self) -> PastNight | None:
        """The last night in which nothing failed and that measured something of this run."""
        ids = {record.id for record in self.run.records} | {case.id for case in self.run.latencies}
        related = (night for night in reversed(self.past) if ids & (night.measured.keys() | night.timed.keys()))
        return next((night for night in related if night.good), None)


def build_report(material: Material) -> Report:
    """Build the report."""
    run = material.run
    numbers = number_rows(material)
    latencies = tuple(describe_case(latency, material.past) for latency in keep_last_repeats(run.latencies))
    good = material.last_good
    measured = {record.document for record in run.records}
    known = material.expected.documents if material.expected else ()
    return Report(
        run=describe_run(run),
        last_run=material.past[-1].run if material.past else None,
        last_good=good.run if good else None,
        verdict=run_verdict.conclude(run, numbers, latencies, material.drifts, earlier=bool(material.past)),
        documents=tuple(
            PrintedDocument(number=document.number, title=document.title)
            for document in known
            if document.number in measured
        ),
        numbers=numbers,
        latencies=latencies,
        nights=list_nights(run, material.past),
        environment=queries.flat(run.environment),
        changes=list_changes(run, good, material.remarks),
        remarks=tuple(dict.fromkeys(material.remarks)),
    )


def describe_run(run: Run) -> RunInfo:
    """The fields that identify the run."""
    packages = run.environment.get("packages") or {}
    return RunInfo(
        id=run.id, started=run.started, finished=run.finished, strict=run.strict, limit=run.limit,
        selected=run.selected, gpu=past_nights.gpu_of(run.environment), scanproof=packages.get("scanproof"),
    )  # fmt: skip


def list_nights(run: Run, past: Sequence[PastNight]) -> tuple[Night, ...]:
    """The nights before and this run: the horizontal axis of every trend."""
    environments = [*(night.environment for night in past), run.environment]
    names = [*((night.run, night.started) for night in past), (run.id, run.started)]
    return tuple(
        Night(run=name, started=started, commit=(environment.get("source") or {}).get("commit"), changes=changes)
        for (name, started), environment, changes in zip(
            names, environments, past_nights.version_changes(environments), strict=True
        )
    )


def list_changes(run: Run, good: PastNight | None, remarks: list[str]) -> tuple[Change, ...]:
    """What differs from the last good run: in the machine, and in the environment of each evaluation."""
    if good is None:
        return ()
    try:
        rows = compare.environments(good.whole().run, run)
    except HistoryError as error:
        remarks.append(f"the evaluations of {good.run} cannot be read, only the machines are compared: {error}")
        rows = queries.environment_changes(good.environment, run.environment)
    return tuple(Change(what=row["what"], before=row["before"], now=row["now"]) for row in rows)


def number_rows(material: Material) -> tuple[Number, ...]:
    """One entry per number, in the order of the run.

    Failed numbers are handled first, so that the page has room for the texts of their documents.
    """
    values = {value.id: value for value in material.expected.numbers} if material.expected else {}
    scored = {
        (evaluation.job.name, measurement.task, measurement.metric): measurement.n_samples
        for evaluation in material.run.evaluations
        for measurement in evaluation.measurements
    }
    by_id = {record.id: record for record in material.run.records}
    rows: dict[str, Number] = {}
    for record in sorted(by_id.values(), key=lambda record: not fails(record.outcome)):
        value = values.get(record.id)
        documents = scored.get((record.job, record.task, record.metric)) or (value.documents if value else None)
        rows[record.id] = describe_number(record, value, documents, material)
    return tuple(rows[name] for name in by_id)


def describe_number(record: Record, value: PublishedValue | None, documents: int | None, material: Material) -> Number:
    """One number with its nights and its changed documents; `documents` is how many were scored."""
    judged = record.verdict
    allowance = judged.allowance if judged else None
    measured = judged.measured if judged else None
    last = past_nights.last_night_with(material.past, record.id)
    before = last.measured[record.id][1] if last else None
    nights = [night.measured.get(record.id, (None, "")) for night in material.past]
    outcomes = [*(outcome for _, outcome in nights), record.outcome]
    bad = meaning_of(record.outcome).is_bad
    engine = next((done.engine for done in material.run.evaluations if done.job.name == record.job), None)
    find = material.find_documents if measured is not None and value is not None else None
    return Number(
        id=record.id,
        document=record.document,
        line=record.line,
        source=f"{value.file}:{value.file_line}" if value else None,
        model=short_name(record),
        hub_id=record.hub_id,
        task=record.task,
        metric=record.metric,
        origin=record.origin,
        num_fewshot=value.job.num_fewshot if value else None,
        job=record.job,
        unit=record.unit,
        printed=record.printed,
        expected=judged.expected if judged else value.expected if value and not value.unrecorded else None,
        measured=measured,
        difference=judged.difference if judged else None,
        allowed=allowance.total if allowance else None,
        detectable=allowance.detectable if allowance else None,
        parts=allowance.parts if allowance else (),
        sigmas=judged.sigmas if judged else None,
        documents=documents,
        documents_moved=judged.documents_moved if judged else None,
        outcome=record.outcome,
        because=record.because,
        gate=record.gate.outcome.value if record.gate else None,
        gate_because=tuple(test.because for test in record.gate.tests) or (record.gate.because,) if record.gate else (),
        engine=engine,
        engines_because=judged.engines.lines() if judged and judged.engines else (),
        before=before,
        new=bad and before is not None and failure_kind(before) != failure_kind(record.outcome),
        fixed=fails(before) and not bad and run_failures.is_compared(record),
        command=record.command,
        triage=triage_command(material, record.id) if number_outcome(record.outcome).needs_triage else None,
        widened=record.widened,
        series=round_series([*(value for value, _ in nights), measured]) if material.past else (),
        failed_nights=tuple(index for index, outcome in enumerate(outcomes) if fails(outcome)) if material.past else (),
        samples=find(value) if find is not None and value is not None else None,
    )


def triage_command(material: Material, number: str) -> str | None:
    """The command that looks for the reason why a number failed; None where no local store holds the run."""
    if material.store is None:
        return None
    return shlex.join(["scanproof", "triage", material.run.id, number, "--store", material.store])


def failure_kind(outcome: str) -> str:
    """`failed`, `broken`, or an empty string."""
    meaning = meaning_of(outcome)
    return meaning.value if meaning.is_bad else ""


def short_name(record: Record) -> str:
    """Name of the model with its variant: the beginning of the number's id, or else the name on the hub."""
    start, separator, _ = record.id.partition(f"-{record.task}-{record.metric}-")
    return start if separator and start else record.hub_id.rpartition("/")[2] or record.model


def round_series(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Round the values of a plot to six digits."""
    return tuple(None if value is None else float(f"{value:.6g}") for value in values)


def keep_last_repeats(latencies: Sequence[Latency]) -> list[Latency]:
    """The last repeat of each case, in the order of the run."""
    ordered = sorted(latencies, key=lambda latency: latency.repeat)
    by_id: Mapping[str, Latency] = {latency.id: latency for latency in ordered}
    return [by_id[name] for name in dict.fromkeys(latency.id for latency in latencies)]


def describe_case(latency: Latency, past: Sequence[PastNight]) -> TimedCase:
    """One kernel case with its nights."""
    median = latency.timing.median if latency.timing else None
    nights = [night.timed.get(latency.id, (None, None)) for night in past]
    last = next((night for night in reversed(past) if latency.id in night.timed), None)
    return TimedCase(
        id=latency.id,
        op=latency.op,
        direction=latency.direction,
        device=latency.device,
        outcome=latency.outcome,
        because=latency.because,
        median=median,
        baseline=latency.baseline.typical if latency.baseline else None,
        ratio=latency.verdict.ratio if latency.verdict else None,
        share=latency.share,
        bound_by=latency.bound_by if latency.limits else None,
        new=fails(latency.outcome) and last is not None and latency.id not in last.failed_cases,
        series=round_series([*(seconds for seconds, _ in nights), median]) if past else (),
        shares=round_series([*(share for _, share in nights), latency.share]) if past else (),
    )

"""One run, the nights before it and the expected values -> Report.  Pure, but for the samples that it is handed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scanproof.history import compare, queries
from scanproof.history.errors import HistoryError
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.outcome import fails, meaning_of, number_outcome
from scanproof.record import Record, Run
from scanproof.report import content, nights, verdict
from scanproof.report.content import Change, Document, Night, Number, Part, Report, RunInfo, Timed
from scanproof.report.nights import PastNight

SampleFinder = Callable[[PublishedValue], content.Samples]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report is made of."""

    run: Run
    past: Sequence[PastNight] = ()
    """Earlier runs, oldest first."""
    expected: Expected | None = None
    """None where no published number was asked for."""
    store: str | None = None
    """Folder of the local store that holds the run; None where none does."""
    samples: SampleFinder | None = None
    """Finds the documents of a number that changed; None to leave them out."""
    drifts: tuple[str, ...] = ()
    """Drifts over the nights, in words."""
    remarks: list[str] = field(default_factory=list)
    """What has to be said; the samples may add to it."""

    @property
    def last_good(self) -> PastNight | None:
        """The last night in which nothing failed, of what this run measured."""
        ours = {kept.id for kept in self.run.records} | {each.id for each in self.run.latencies}
        shared = (night for night in reversed(self.past) if ours & (night.measured.keys() | night.timed.keys()))
        return next((night for night in shared if night.good), None)


def build(material: Material) -> Report:
    """Everything that the page says."""
    run = material.run
    numbers = number_rows(material)
    latencies = tuple(timed(each, material.past) for each in last_repeat(run.latencies))
    good = material.last_good
    held = {kept.document for kept in run.records}
    known = material.expected.documents if material.expected else ()
    return Report(
        run=run_info(run),
        last_run=material.past[-1].run if material.past else None,
        last_good=good.run if good else None,
        verdict=verdict.conclude(run, numbers, latencies, material.drifts, earlier=bool(material.past)),
        documents=tuple(Document(number=each.number, title=each.title) for each in known if each.number in held),
        numbers=numbers,
        latencies=latencies,
        nights=places(run, material.past),
        environment=queries.flat(run.environment),
        changes=changes(run, good, material.remarks),
        remarks=tuple(dict.fromkeys(material.remarks)),
    )


def run_info(run: Run) -> RunInfo:
    """What identifies the run."""
    packages = run.environment.get("packages") or {}
    return RunInfo(
        id=run.id, started=run.started, finished=run.finished, strict=run.strict, limit=run.limit,
        selected=run.selected, gpu=nights.gpu(run.environment), scanproof=packages.get("scanproof"),
    )  # fmt: skip


def places(run: Run, past: Sequence[PastNight]) -> tuple[Night, ...]:
    """The axis of every trend: the nights before, and this run."""
    environments = [*(night.environment for night in past), run.environment]
    names = [*((night.run, night.started) for night in past), (run.id, run.started)]
    return tuple(
        Night(run=name, started=started, commit=(environment.get("source") or {}).get("commit"), changes=changed)
        for (name, started), environment, changed in zip(
            names, environments, nights.version_changes(environments), strict=True
        )
    )


def changes(run: Run, good: PastNight | None, remarks: list[str]) -> tuple[Change, ...]:
    """What differs from the environment of the last good run, of the machine and of each evaluation."""
    if good is None:
        return ()
    try:
        rows = compare.environments(good.whole().run, run)
    except HistoryError as error:
        remarks.append(f"the evaluations of {good.run} cannot be read, only the machines are compared: {error}")
        rows = queries.environment_changes(good.environment, run.environment)
    return tuple(Change(what=row["what"], before=row["before"], now=row["now"]) for row in rows)


def number_rows(material: Material) -> tuple[Number, ...]:
    """A row per number in the order of the run; the samples of what failed are found first, while there is room."""
    values = {value.id: value for value in material.expected.numbers} if material.expected else {}
    scored = {
        (each.job.name, found.task, found.metric): found.n_samples
        for each in material.run.evaluations
        for found in each.measurements
    }
    by_id = {kept.id: kept for kept in material.run.records}
    rows: dict[str, Number] = {}
    for kept in sorted(by_id.values(), key=lambda kept: not fails(kept.outcome)):
        value = values.get(kept.id)
        documents = scored.get((kept.job, kept.task, kept.metric)) or (value.documents if value else None)
        rows[kept.id] = number(kept, value, documents, material)
    return tuple(rows[name] for name in by_id)


def number(kept: Record, value: PublishedValue | None, documents: int | None, material: Material) -> Number:
    """One number with its nights and the documents that changed."""
    judged = kept.verdict
    allowance = judged.allowance if judged else None
    measured = judged.measured if judged else None
    last = nights.last_holding(material.past, kept.id)
    before = last.measured[kept.id][1] if last else None
    held = [night.measured.get(kept.id, (None, "")) for night in material.past]
    outcomes = [*(outcome for _, outcome in held), kept.outcome]
    bad = meaning_of(kept.outcome).is_bad
    engine = next((each.engine for each in material.run.evaluations if each.job.name == kept.job), None)
    find = material.samples if measured is not None and value is not None else None
    return Number(
        id=kept.id,
        document=kept.document,
        line=kept.line,
        source=f"{value.file}:{value.file_line}" if value else None,
        model=short_name(kept),
        hub_id=kept.hub_id,
        task=kept.task,
        metric=kept.metric,
        origin=kept.origin,
        num_fewshot=value.job.num_fewshot if value else None,
        job=kept.job,
        unit=kept.unit,
        printed=kept.printed,
        expected=judged.expected if judged else value.expected if value and not value.unrecorded else None,
        measured=measured,
        difference=judged.difference if judged else None,
        allowed=allowance.total if allowance else None,
        detectable=allowance.detectable if allowance else None,
        parts=tuple(Part(name=part.name, size=part.size, because=part.because) for part in allowance.parts)
        if allowance
        else (),
        sigmas=judged.sigmas if judged else None,
        documents=documents,
        documents_moved=judged.documents_moved if judged else None,
        outcome=kept.outcome,
        because=kept.because,
        gate=kept.gate.outcome.value if kept.gate else None,
        gate_because=tuple(test.because for test in kept.gate.tests) or (kept.gate.because,) if kept.gate else (),
        engine=engine,
        engines_because=judged.engines.lines() if judged and judged.engines else (),
        before=before,
        new=bad and before is not None and kind(before) != kind(kept.outcome),
        fixed=fails(before) and kind(kept.outcome) == "",
        command=kept.command,
        triage=triage(material, kept.id) if number_outcome(kept.outcome).needs_triage else None,
        widened=kept.widened,
        series=six_digits([*(value for value, _ in held), measured]) if material.past else (),
        failed_nights=tuple(place for place, outcome in enumerate(outcomes) if fails(outcome)) if material.past else (),
        samples=find(value) if find is not None and value is not None else None,
    )


def triage(material: Material, number: str) -> str | None:
    """The command that looks for the reason why a number failed."""
    if material.store is None:
        return None
    return shlex.join(["scanproof", "triage", material.run.id, number, "--store", material.store])


def kind(outcome: str) -> str:
    """`failed`, `broken`, or nothing of the kind."""
    meaning = meaning_of(outcome)
    return meaning.value if meaning.is_bad else ""


def short_name(kept: Record) -> str:
    """The model with its variant, as it begins the number's id; the hub's name where the id is no such name."""
    start, found, _ = kept.id.partition(f"-{kept.task}-{kept.metric}-")
    return start if found and start else kept.hub_id.rpartition("/")[2] or kept.model


def six_digits(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Numbers as a plot needs them."""
    return tuple(None if value is None else float(f"{value:.6g}") for value in values)


def last_repeat(found: Sequence[Latency]) -> list[Latency]:
    """A latency per case: of a recording, the last repeat."""
    by_id: Mapping[str, Latency] = {each.id: each for each in sorted(found, key=lambda each: each.repeat)}
    return [by_id[name] for name in dict.fromkeys(each.id for each in found)]


def timed(each: Latency, past: Sequence[PastNight]) -> Timed:
    """One kernel case with its nights."""
    median = each.timing.median if each.timing else None
    held = [night.timed.get(each.id, (None, None)) for night in past]
    last = next((night for night in reversed(past) if each.id in night.timed), None)
    return Timed(
        id=each.id,
        op=each.op,
        direction=each.direction,
        device=each.device,
        outcome=each.outcome,
        because=each.because,
        median=median,
        baseline=each.baseline.typical if each.baseline else None,
        ratio=each.verdict.ratio if each.verdict else None,
        share=each.share,
        bound_by=each.bound_by if each.limits else None,
        new=fails(each.outcome) and last is not None and each.id not in last.slower,
        series=six_digits([*(seconds for seconds, _ in held), median]) if past else (),
        shares=six_digits([*(share for _, share in held), each.share]) if past else (),
    )

"""What a session says at its end: the table, what was widened by hand, what did not run, where it is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from scanproof.evaluation import auto_engine
from scanproof.history.run_failures import name_some
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from scanproof.numbers.verdict.tolerance import list_blind_sides
from scanproof.plugin.run_recorder import Recorder
from scanproof.record import Evaluation, Record, Run
from scanproof.report import terminal

JOBS_SHOWN = 4
"""Jobs in one line."""
BOUNDS = ("plain_tokens", "distinct_tokens")


def not_run_lines(records: list[Record]) -> list[str]:
    """One line per reason."""
    reasons = Counter(kept.because for kept in records)
    return [f"{count} numbers not run: {reason}" for reason, count in reasons.most_common()]


def discrepancy_lines(records: list[Record]) -> list[str]:
    """Why each number that cannot come out cannot."""
    known = [kept for kept in records if kept.outcome == Outcome.KNOWN_DISCREPANCY.value]
    return [f"known discrepancy: {kept.id}: {kept.because}" for kept in known]


def blind_lines(records: list[Record]) -> list[str]:
    """How many numbers cannot fail in a direction, because all that can be measured there is within what is allowed."""
    names: dict[str, list[str]] = {}
    for kept in records:
        verdict = kept.verdict
        if verdict is not None and verdict.allowance is not None and verdict.expected is not None:
            for side in list_blind_sides(kept.metric, verdict.expected, verdict.allowance.total):
                names.setdefault(side, []).append(kept.id)
    return [
        f"cannot be too {side}: {len(ids)} of {len(records)} numbers, such as {ids[0]} (`scanproof list` marks them)"
        for side, ids in names.items()
    ]


def widened_lines(expected: Expected) -> list[str]:
    """Every tolerance widened by hand, whether it ran or not: nobody forgets one."""
    return [
        f"widened by hand: {value.id} by {value.widened.by:g}: {value.widened.reason} ({value.file}:{value.file_line})"
        for value in expected.values
        if value.widened
    ]


def job_lines(recorder: Recorder) -> list[str]:
    """How many jobs were evaluated, and which were not because nothing that can move their numbers changed."""
    ran, reused = recorder.jobs()
    if not ran and not reused:
        return []
    again = "; --scanproof-fresh evaluates again" if reused else ""
    return [f"{ran + reused} jobs: {ran} evaluated, {reused} reused{again}", *reused_lines(recorder.run)]


def reused_lines(run: Run) -> list[str]:
    """What was not measured in this session, and when it was: one line per session that measured."""
    by_session: dict[str, list[Evaluation]] = {}
    for evaluation in run.evaluations:
        if evaluation.reused:
            by_session.setdefault(evaluation.session or "an unknown session", []).append(evaluation)
    lines = []
    for session, evaluations in sorted(by_session.items()):
        times = sorted({evaluation.measured or "at an unknown time" for evaluation in evaluations})
        until = f" to {times[-1]}" if len(times) > 1 else ""
        names = name_some(sorted(evaluation.job.name for evaluation in evaluations), JOBS_SHOWN)
        lines.append(f"reused from {session}, measured {times[0]}{until}: {names}")
    return lines


def engine_lines(run: Run) -> list[str]:
    """What the shared engine saved, what it could not do, and what plain measured again."""
    lines = []
    shared = [each.scoring for each in run.evaluations if each.scoring is not None]
    if shared:
        ran, plain, least = (sum(getattr(each, name) for each in shared) for name in ("tokens", *BOUNDS))
        lines.append(f"shared engine: {ran:,} tokens run, {plain:,} by plain, {least:,} are distinct")
    reasons = Counter(each.engine_because for each in run.evaluations if each.engine_because is not None)
    lines += [f"scored plain: {because} ({count} jobs)" for because, count in reasons.most_common()]
    lines += [f"{each.job.name}: {note}" for each in run.evaluations if each.scoring for note in each.scoring.notes]
    spots = [(each.job.name, each.scoring.spot) for each in run.evaluations if each.scoring and each.scoring.spot]
    lines += [f"{name}: {spot}" for name, spot in spots if spot.differs]
    return [*lines, *(again_line(each, run.records) for each in run.evaluations if each.replaced is not None)]


def again_line(evaluation: Evaluation, records: Iterable[Record]) -> str:
    """What became of a job that plain measured again."""
    assert evaluation.replaced is not None
    job = evaluation.job.name
    both = [kept.verdict.engines for kept in records if kept.job == job and kept.verdict and kept.verdict.engines]
    agree, disagree = (sum(getattr(each, name) for each in both) for name in ("agree", "disagree"))
    said = "nothing of the two can be compared"
    if agree or disagree:
        said = f"the engines disagree on {disagree} of {agree + disagree} numbers" if disagree else "the engines agree"
    why = auto_engine.explain_replacement(evaluation.replaced)
    return f"{job} measured again by plain, whose verdict counts: {why}; {said}"


def gate_lines(records: list[Record]) -> list[str]:
    """How many numbers were compared document by document, and why the others were not."""
    comparisons = [kept.gate for kept in records if kept.gate is not None]
    counts = Counter(gate.outcome.value for gate in comparisons)
    if not comparisons:
        return []
    if set(counts) == {ComparisonOutcome.SAME.value}:
        return [f"document by document: {len(comparisons)} numbers as in their baseline"]
    total = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    refused = Counter(gate.because for gate in comparisons if gate.outcome is ComparisonOutcome.REFUSED)
    reasons = [f"{count} numbers {reason}" for reason, count in refused.most_common()]
    return [f"document by document with the baseline: {total}", *reasons]


def no_baseline_lines(records: list[Record], history: str | None) -> list[str]:
    """How many numbers were measured and have no baseline, and where it was looked for: a misspelt history has none."""
    measured = [kept for kept in records if kept.verdict is not None and kept.verdict.measured is not None]
    alone = [kept for kept in measured if kept.gate is None]
    if history is None or not alone:
        return []
    return [
        f"no declared baseline in {history}: {len(alone)} of {len(measured)} measured numbers; "
        "`scanproof baseline set RUN --reason WHY` declares one"
    ]


def not_made_again_lines(records: list[Record]) -> list[str]:
    """How many numbers could not be made again from their answers, a line per reason."""
    reasons = Counter(kept.verdict.not_made_again for kept in records if kept.verdict and kept.verdict.not_made_again)
    return [f"not made again from their answers: {n} numbers: {reason}" for reason, n in reasons.most_common()]


def joint_lines(recorder: Recorder) -> list[str]:
    """What shows only in many numbers together."""
    changed = [comparison for comparison in recorder.run.joint if comparison.changed]
    by_shared = any(each.engine == "shared" for each in recorder.run.evaluations)
    hint = "; scored by the shared engine, --scanproof-engine=plain does without it" if changed and by_shared else ""
    return [f"{comparison.sentence}{hint}" for comparison in changed]


def write(
    reporter: pytest.TerminalReporter,
    recorder: Recorder,
    expected: Expected | None,
    not_written: str | None,
    published: str | None = None,
    history: str | None = None,
) -> None:
    """Write the summary section of a session.

    `not_written` says why the run could not be recorded, `published` what became of its publication to `history`.
    `expected` is None where no published number was asked for.
    """
    records = list(recorder.records.values())
    ran = [kept for kept in records if kept.outcome != Outcome.NOT_RUN]
    reporter.section("scanproof", sep="=", bold=True)
    if ran:
        width = reporter._tw.fullwidth if reporter.isatty else None
        reporter.write_line(terminal.verdict_table(ran, width, reporter._tw.hasmarkup))
    not_run = [kept for kept in records if kept.outcome == Outcome.NOT_RUN]
    for line in [
        *not_run_lines(not_run),
        *discrepancy_lines(records),
        *blind_lines(records),
        *(widened_lines(expected) if expected else ()),
        *gate_lines(records),
        *not_made_again_lines(records),
        *no_baseline_lines(records, history),
        *job_lines(recorder),
        *engine_lines(recorder.run),
    ]:
        reporter.write_line(line)
    for line in joint_lines(recorder):
        reporter.write_line(line, red=True, bold=True)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(recorder.outcomes().items()))
    missing = (recorder.run.selected or len(records)) - len(records)
    stopped = f"; {missing} more were selected and not reached: this run is partial" if missing > 0 else ""
    if records or recorder.run.selected:
        reporter.write_line(f"{len(records)} numbers{counts and f': {counts}'}{stopped}", bold=True)
    if not_written is None:
        reporter.write_line(f"recorded in {recorder.path}")
    else:
        reporter.write_line(f"NOT recorded: {not_written}", red=True, bold=True)
    if published is not None:
        reporter.write_line(published, red=published.startswith("NOT"))

"""Shows the results of the exam: as rows for a table or a program, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scanproof.faults.exam import CheckResult, CleanRun, ExamAnswer
from scanproof.faults.fault import NotPlanted

COLUMNS = ("fault", "operation", "numerics", "first", "invariants", "seconds", "evaluation")

UNJUDGED = "cannot be judged: fails without the fault"


def make_row(answer: ExamAnswer) -> dict[str, Any]:
    """Make the row of one fault: which checks detected it, and how long that took."""
    by_numerics, by_invariants = answer.seen_by(numerics=True), answer.seen_by(numerics=False)
    numerics = [check for check in answer.checks if check.kind == "numerics"]
    first = next((check for check in (*by_numerics, *by_invariants)), None)
    return {
        "fault": answer.fault.id,
        "operation": answer.fault.op,
        "what": answer.fault.what,
        "links": list(answer.fault.links),
        "note": answer.fault.note,
        "caught": answer.caught,
        "numerics": f"{len(by_numerics)} of {len(numerics)}",
        "first": short_id(first) if first else UNJUDGED if answer.not_judged else "NOT CAUGHT",
        "fails_without": [check.without for check in answer.not_judged],
        "message": first.message if first else None,
        "invariants": sorted({check.kind for check in by_invariants}),
        "seconds": round(first.seconds, 3) if first else None,
        "seconds_of_all": round(sum(check.seconds for check in answer.checks), 1),
        "evaluation": str(answer.evaluation) if answer.evaluation else None,
    }


def short_id(check: CheckResult) -> str:
    """The id of a check without its operation, which has a column of its own."""
    return check.id.partition("-")[2]


def summarize(answers: Sequence[ExamAnswer]) -> str:
    """Say how many faults were caught, by which kind of check, and which checks fail without any fault."""
    numerics = sum(bool(answer.seen_by(numerics=True)) for answer in answers)
    invariants = sum(bool(answer.seen_by(numerics=False)) for answer in answers)
    uncaught = [answer for answer in answers if not answer.caught]
    missed = [answer.fault.id for answer in uncaught if not answer.not_judged]
    unjudged = [answer.fault.id for answer in uncaught if answer.not_judged]
    failing = sorted({f"{check.kind} {check.id}" for answer in answers for check in answer.not_judged})
    caught = len(answers) - len(uncaught)
    text = f"{len(answers)} faults: {caught} caught, {numerics} by numerics, {invariants} by invariants"
    text += f"; NOT CAUGHT: {', '.join(missed)}" if missed else ""
    text += f"; {UNJUDGED}: {', '.join(unjudged)}" if unjudged else ""
    return text + (f"; checks that fail without a fault: {', '.join(failing)}" if failing else "")


def summarize_clean(runs: Sequence[CleanRun]) -> str:
    """Say how many alarms the clean runs raised."""
    checks, results = sum(run.checks for run in runs), sum(run.results for run in runs)
    alarms = sum(len(run.alarms) for run in runs)
    return f"{len(runs)} clean runs, {checks} checks, {results} results compared: {alarms} alarms"


def to_markdown(rows: Iterable[dict[str, Any]], left_out: Iterable[NotPlanted]) -> str:
    """The documentation's tables of reported and of generic faults, and the list of faults that cannot be planted."""
    rows = list(rows)
    lines = ["## Reported faults", ""]
    lines += _make_table([row for row in rows if row["links"]])
    lines += ["", "## Generic faults", ""]
    lines += _make_table([row for row in rows if not row["links"]])
    lines += ["", "## Not planted", ""]
    lines += [f"- {fault.what} ({format_links(fault.links)}): {fault.because}." for fault in left_out]
    return "\n".join(lines)


def _make_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    evaluated = any(row["evaluation"] for row in rows)
    lines = [
        "| fault | operation | what it does | reported | rows | invariants | first seen by | s |",
        "|---|---|---|---|---:|---|---|---:|",
    ]
    if evaluated:
        lines = [f"{lines[0]} evaluation |", f"{lines[1]}---|"]
    for row in rows:
        what = row["what"] + (f" ({row['note']})" if row["note"] else "")
        cells = [
            f"`{row['fault']}`", row["operation"], what, format_links(row["links"]), row["numerics"],
            ", ".join(row["invariants"]), row["first"], f"{row['seconds']:.3f}" if row["seconds"] else "",
            *([row["evaluation"] or ""] if evaluated else []),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def format_links(links: Iterable[str]) -> str:
    """Markdown links, each named after the project and the number of the issue or pull request."""
    return ", ".join(f"[{_name_link(link)}]({link})" for link in links)


def _name_link(link: str) -> str:
    parts = link.partition("github.com/")[2].split("/")
    return f"{parts[1]} {parts[3]}" if len(parts) > 3 else parts[1].partition("#")[0]

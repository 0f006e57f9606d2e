"""Shows the results of the exam: as rows for a table or a program, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scanproof.faults.exam import Check, CleanRun, ExamAnswer
from scanproof.faults.fault import NotPlanted

COLUMNS = ("fault", "operation", "numerics", "first", "invariants", "seconds", "evaluation")


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
        "first": short_id(first) if first else "NOT CAUGHT",
        "message": first.message if first else None,
        "invariants": sorted({check.kind for check in by_invariants}),
        "seconds": round(first.seconds, 3) if first else None,
        "seconds_of_all": round(sum(check.seconds for check in answer.checks), 1),
        "evaluation": str(answer.evaluation) if answer.evaluation else None,
    }


def short_id(check: Check) -> str:
    """The id of a check without its operation, which has a column of its own."""
    return check.id.partition("-")[2]


def summarize(answers: Sequence[ExamAnswer]) -> str:
    """Say how many faults were caught, and by which kind of check."""
    numerics = sum(bool(answer.seen_by(numerics=True)) for answer in answers)
    invariants = sum(bool(answer.seen_by(numerics=False)) for answer in answers)
    missed = [answer.fault.id for answer in answers if not answer.caught]
    caught = len(answers) - len(missed)
    text = f"{len(answers)} faults: {caught} caught, {numerics} by numerics, {invariants} by invariants"
    return f"{text}; NOT CAUGHT: {', '.join(missed)}" if missed else text


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
    lines = [
        "| fault | operation | what it does | reported | rows | invariants | first seen by | s | evaluation |",
        "|---|---|---|---|---:|---|---|---:|---|",
    ]
    for row in rows:
        what = row["what"] + (f" ({row['note']})" if row["note"] else "")
        cells = [
            f"`{row['fault']}`", row["operation"], what, format_links(row["links"]), row["numerics"],
            ", ".join(row["invariants"]), row["first"], f"{row['seconds']:.3f}" if row["seconds"] else "",
            row["evaluation"] or "",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def format_links(links: Iterable[str]) -> str:
    """Markdown links, each named after the project and the number of the issue or pull request."""
    return ", ".join(f"[{_name_link(link)}]({link})" for link in links)


def _name_link(link: str) -> str:
    parts = link.partition("github.com/")[2].split("/")
    return f"{parts[1]} {parts[3]}" if len(parts) > 3 else parts[1].partition("#")[0]

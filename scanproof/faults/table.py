"""The answers of the exam as rows, for a table, for programs and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scanproof.faults.exam import Check, CleanRun, ExamAnswer
from scanproof.faults.fault import NotPlanted

COLUMNS = ("fault", "operation", "numerics", "first", "invariants", "seconds", "evaluation")


def make_row(answer: ExamAnswer) -> dict[str, Any]:
    """One fault: which checks saw it, and what that cost."""
    seen, broken = answer.found(numerics=True), answer.found(numerics=False)
    rows = [each for each in answer.checks if each.kind == "numerics"]
    first = next((each for each in (*seen, *broken)), None)
    return {
        "fault": answer.fault.id,
        "operation": answer.fault.op,
        "what": answer.fault.what,
        "links": list(answer.fault.links),
        "note": answer.fault.note,
        "caught": answer.caught,
        "numerics": f"{len(seen)} of {len(rows)}",
        "first": short_id(first) if first else "NOT CAUGHT",
        "message": first.message if first else None,
        "invariants": sorted({each.kind for each in broken}),
        "seconds": round(first.seconds, 3) if first else None,
        "seconds_of_all": round(sum(each.seconds for each in answer.checks), 1),
        "evaluation": str(answer.evaluation) if answer.evaluation else None,
    }


def short_id(check: Check) -> str:
    """A check without its operation, which has a column of its own."""
    return check.id.partition("-")[2]


def summarize(answers: Sequence[ExamAnswer]) -> str:
    """How many faults were caught, and by what."""
    numerics = sum(bool(each.found(numerics=True)) for each in answers)
    invariants = sum(bool(each.found(numerics=False)) for each in answers)
    lost = [each.fault.id for each in answers if not each.caught]
    said = (
        f"{len(answers)} faults: {len(answers) - len(lost)} caught, {numerics} by numerics, {invariants} by invariants"
    )
    return f"{said}; NOT CAUGHT: {', '.join(lost)}" if lost else said


def summarize_clean(runs: Sequence[CleanRun]) -> str:
    """How many clean runs raised how many alarms."""
    checks, results = sum(each.checks for each in runs), sum(each.results for each in runs)
    alarms = sum(len(each.alarms) for each in runs)
    return f"{len(runs)} clean runs, {checks} checks, {results} results compared: {alarms} alarms"


def to_markdown(rows: Iterable[dict[str, Any]], left_out: Iterable[NotPlanted]) -> str:
    """Two tables, and what could not be planted."""
    rows = list(rows)
    lines = ["## Reported faults", ""]
    lines += _table([each for each in rows if each["links"]])
    lines += ["", "## Generic faults", ""]
    lines += _table([each for each in rows if not each["links"]])
    lines += ["", "## Not planted", ""]
    lines += [f"- {each.what} ({format_links(each.links)}): {each.because}." for each in left_out]
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| fault | operation | what it does | reported | rows | invariants | first seen by | s | evaluation |",
        "|---|---|---|---|---:|---|---|---:|---|",
    ]
    for each in rows:
        what = each["what"] + (f" ({each['note']})" if each["note"] else "")
        cells = [
            f"`{each['fault']}`", each["operation"], what, format_links(each["links"]), each["numerics"],
            ", ".join(each["invariants"]), each["first"], f"{each['seconds']:.3f}" if each["seconds"] else "",
            each["evaluation"] or "",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def format_links(links: Iterable[str]) -> str:
    """Links as the project and the number."""
    return ", ".join(f"[{_name(link)}]({link})" for link in links)


def _name(link: str) -> str:
    parts = link.partition("github.com/")[2].split("/")
    return f"{parts[1]} {parts[3]}" if len(parts) > 3 else parts[1].partition("#")[0]

"""Shows how the sessions with a fault ended: as rows, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scanproof.faults.gates.clean_settings import CleanAnswer
from scanproof.faults.gates.gate_exam import GateAnswer

COLUMNS = ("fault", "area", "planted", "ending", "caught", "seconds")
LONGEST = 220
"""Characters of what a session said."""


def make_row(answer: GateAnswer) -> dict[str, Any]:
    """The row of one fault."""
    return {
        "fault": answer.fault.id,
        "area": answer.fault.area,
        "what": answer.fault.what,
        "planted": answer.fault.planted_by,
        "ending": str(answer.result),
        "said": answer.result.reason,
        "caught": answer.caught,
        "missed because": answer.missed_because or "",
        "seconds": round(answer.result.seconds, 1),
    }


def make_clean_row(answer: CleanAnswer) -> dict[str, Any]:
    """The row of one session without a fault."""
    return {
        "setting": str(answer.setting),
        "ending": str(answer.result),
        "alarm": answer.alarm,
        "seconds": round(answer.result.seconds, 1),
    }


def shorten(text: str) -> str:
    """The first line, cut where it is long."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def summarize(answers: Sequence[GateAnswer]) -> str:
    """How many faults were caught, and which were not."""
    missed = [answer.fault.id for answer in answers if not answer.caught]
    seconds = sum(answer.result.seconds for answer in answers)
    caught = f"{len(answers)} faults of the gates: {len(answers) - len(missed)} caught"
    text = f"{caught}, {seconds:.0f} s of processor time without forked workers"
    return f"{text}; NOT CAUGHT: {', '.join(missed)}" if missed else text


def summarize_clean(answers: Sequence[CleanAnswer]) -> str:
    """How many clean sessions raised an alarm."""
    numbers = sum(sum(answer.result.outcomes.values()) for answer in answers)
    alarms = [str(answer.setting) for answer in answers if answer.alarm]
    text = f"{len(answers)} clean sessions, {numbers} numbers: {len(alarms)} alarms"
    return f"{text}: {'; '.join(alarms)}" if alarms else text


def to_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """The documentation's table: one row per fault, in the order of the catalogue."""
    lines = ["| fault | area | what is wrong | planted by | ending | it says |", "|---|---|---|---|---|---|"]
    for row in rows:
        said = shorten(row["said"]).replace("|", "\\|").replace("<", "&lt;")
        ending = row["ending"] if row["caught"] else f"NOT CAUGHT: {row['ending']}: {row['missed because']}"
        cells = [f"`{row['fault']}`", row["area"], row["what"], row["planted"], ending, said]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

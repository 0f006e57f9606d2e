"""The report as one HTML file: no network, no other file.  Pure.

Jinja escapes every string.  The data for the details of a number are JSON in a script element that is never run, with
`<`, `>` and `&` escaped.  The page's Content-Security-Policy forbids every request, and every script except those whose
digest it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scanproof import files
from scanproof.numbers.verdict import outcome
from scanproof.numbers.verdict.outcome import Meaning, Outcome, fails, meaning_of
from scanproof.report import latency_text, terminal
from scanproof.report.content import Number, Report

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "templates/page.js")
STEPS = (1.0, 2.0, 3.0, 4.5)
"""Sigmas at which the heat map's colour changes."""


@dataclass(frozen=True)
class HeatRow:
    """One row: a task, metric and origin of a document, with one cell per model."""

    task: str
    metric: str
    origin: str
    cells: tuple[tuple[Number, ...], ...]


@dataclass(frozen=True)
class HeatMap:
    """The heat map of one document, or of the subjects of a task in it."""

    number: str
    title: str
    models: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    subjects: bool = False
    """Whether the rows are the subjects of MMLU."""

    @cached_property
    def failed(self) -> bool:
        """Whether one of its numbers failed."""
        return any(fails(number.outcome) for row in self.rows for cell in row.cells for number in cell)


def render(report: Report) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("scanproof.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        natural=format_value, duration=format_duration, tone=cell_class, signed=format_signed, breakable=breakable
    )
    environment.filters.update(badge=badge_class, sign=outcome.sign_of)
    scripts = [read_file(name) for name in SCRIPTS]
    return environment.get_template("page.html").render(
        report=report,
        by_id={number.id: number for number in report.numbers},
        timed={case.id: case for case in report.latencies},
        documents=list_documents(report),
        maps=[heat_map for document in list_documents(report) for heat_map in make_heat_maps(report, *document)],
        models=sorted({number.model for number in report.numbers}),
        steps=STEPS,
        outcomes=escape_json(json.dumps({known.value: known.meaning.value for known in outcome.ALL})),
        bar=tolerance_position,
        deviation=cell_text,
        css=Markup(read_file("templates/page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=security_policy(scripts),
        data=report_data(report),
    )


def read_file(name: str) -> str:
    """A file of this package."""
    return resources.files("scanproof.report").joinpath(name).read_text(encoding="utf-8")


def security_policy(scripts: Sequence[str]) -> str:
    """Content-Security-Policy: only these scripts may run, and no request of any kind is allowed.

    All styles are allowed, because Plot writes styles into its charts, which cannot be named by digest.
    """
    digests = (b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def report_data(report: Report) -> Markup:
    """The report as JSON for a script element."""
    return escape_json(files.to_json(report, indent=None).decode())


def escape_json(text: str) -> Markup:
    """Escape JSON so that it cannot end the script element that contains it."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def list_documents(report: Report) -> list[tuple[str, str]]:
    """Number and title of each document, in the order of the numbers."""
    titles = {document.number: document.title for document in report.documents}
    numbers = dict.fromkeys(number.document for number in report.numbers)
    return [(number, titles.get(number, "")) for number in numbers]


def make_heat_maps(report: Report, number: str, title: str) -> list[HeatMap]:
    """The heat map of a document, and a second one for the subjects of MMLU, which a reader can close."""
    numbers = [entry for entry in report.numbers if entry.document == number]
    subjects = [entry for entry in numbers if entry.task.startswith("mmlu_")]
    others = [entry for entry in numbers if not entry.task.startswith("mmlu_")]
    groups = ((others, False), (subjects, True))
    return [
        HeatMap(number, title, list_models(group), make_heat_rows(group), subjects=closed)
        for group, closed in groups
        if group
    ]


def list_models(numbers: Sequence[Number]) -> tuple[str, ...]:
    """The models of these numbers, in their order."""
    return tuple(dict.fromkeys(number.model for number in numbers))


def make_heat_rows(numbers: Sequence[Number]) -> tuple[HeatRow, ...]:
    """One row per task, metric and origin."""
    columns = list_models(numbers)
    cells: dict[tuple[str, str, str], dict[str, list[Number]]] = {}
    for number in numbers:
        row = cells.setdefault((number.task, number.metric, number.origin), {})
        row.setdefault(number.model, []).append(number)
    return tuple(
        HeatRow(*key, tuple(tuple(row.get(model, ())) for model in columns)) for key, row in sorted(cells.items())
    )


def format_value(value: float | None, number: Number, *, sign: bool = False) -> str:
    """A value in the printed unit, with one digit more than was printed; a dash for None."""
    if value is None:
        return "–"
    scale = terminal.scale_of(number.unit)
    shown = terminal.format_as_printed(value, scale, number.printed, sign=sign).replace("-", "−")
    return f"{shown} %" if number.unit == "percent" else shown


def format_signed(value: float, digits: int = 1) -> str:
    """`+0.3`, `−12.0`; never a negative zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def breakable(name: str) -> Markup:
    """A name that a browser may break after an underscore or a slash."""
    parts = re.split(r"(?<=[_/])", name)
    return Markup("<wbr>").join(parts)


def format_duration(seconds: float) -> str:
    """Seconds in s, ms or µs."""
    return latency_text.format_seconds(seconds).replace(" us", " µs")


def badge_class(name: str) -> str:
    """CSS class of an outcome's badge."""
    if name == Outcome.KNOWN_DISCREPANCY:
        return "known"
    return {Meaning.FAILED: "bad", Meaning.BROKEN: "broken", Meaning.OPEN: "plain", Meaning.GOOD: "good"}[
        meaning_of(name)
    ]


def cell_text(number: Number) -> str:
    """Text of a cell of the heat map: the deviation in sigmas, or the sign of the outcome."""
    if number.sigmas is None:
        return outcome.sign_of(number.outcome)
    return format_signed(number.sigmas, 1 if abs(number.sigmas) < 10 else 0)


def cell_class(number: Number) -> str:
    """CSS class of a cell: direction and size of the deviation."""
    if number.sigmas is None:
        return "none"
    step = sum(abs(number.sigmas) >= limit for limit in STEPS)
    return "even" if step == 0 else f"{'up' if number.sigmas > 0 else 'down'}{step}"


def tolerance_position(number: Number) -> float | None:
    """Position of the measured number in its tolerance: -1 and 1 are the ends; limited to 1.45 either way."""
    if number.difference is None or not number.allowed:
        return None
    return round(max(-1.45, min(1.45, number.difference / number.allowed)), 3)

"""The report as one HTML file: no network, no other file.  Pure.

Jinja escapes every string; the data for the drill-down are JSON in a script element that is never run, with `<`, `>`
and `&` as escapes.  The page's own policy forbids every script but those whose digest it names, and every request.
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
    """One task and metric of a document, a place per model."""

    task: str
    metric: str
    origin: str
    cells: tuple[tuple[Number, ...], ...]


@dataclass(frozen=True)
class Heat:
    """The heat map of one document, or of the subjects of a task in it."""

    number: str
    title: str
    models: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    subjects: bool = False

    @cached_property
    def failed(self) -> bool:
        return any(fails(each.outcome) for row in self.rows for cell in row.cells for each in cell)


def render(report: Report) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("scanproof.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(natural=natural, duration=duration, tone=tone, signed=signed, breakable=breakable)
    environment.filters.update(badge=badge, sign=outcome.sign_of)
    scripts = [text(name) for name in SCRIPTS]
    return environment.get_template("page.html").render(
        report=report,
        by_id={each.id: each for each in report.numbers},
        timed={each.id: each for each in report.latencies},
        documents=documents(report),
        maps=[each for document in documents(report) for each in heat_maps(report, *document)],
        models=sorted({each.model for each in report.numbers}),
        steps=STEPS,
        outcomes=escaped(json.dumps({each.value: each.meaning.value for each in outcome.ALL})),
        bar=bar,
        deviation=deviation,
        css=Markup(text("templates/page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
        data=data(report),
    )


def text(name: str) -> str:
    """A file of this package."""
    return resources.files("scanproof.report").joinpath(name).read_text(encoding="utf-8")


def policy(scripts: Sequence[str]) -> str:
    """Content-Security-Policy: these scripts and nothing else; no request of any kind.

    Plot writes its styles into the charts, so that styles cannot be named by digest.
    """
    digests = (b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def data(report: Report) -> Markup:
    """The report as JSON."""
    return escaped(files.to_json(report, indent=None).decode())


def escaped(plain: str) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def documents(report: Report) -> list[tuple[str, str]]:
    """Number and title of each document, in the order of the numbers."""
    titles = {each.number: each.title for each in report.documents}
    return [(number, titles.get(number, "")) for number in dict.fromkeys(each.document for each in report.numbers)]


def heat_maps(report: Report, number: str, title: str) -> list[Heat]:
    """The heat map of a document; the subjects of MMLU have one of their own, which may be closed."""
    mine = [each for each in report.numbers if each.document == number]
    subjects = [each for each in mine if each.task.startswith("mmlu_")]
    others = [each for each in mine if not each.task.startswith("mmlu_")]
    kinds = ((others, False), (subjects, True))
    return [Heat(number, title, models(kept), heat_rows(kept), subjects=closed) for kept, closed in kinds if kept]


def models(numbers: Sequence[Number]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.model for each in numbers))


def heat_rows(numbers: Sequence[Number]) -> tuple[HeatRow, ...]:
    """A row per task, metric and origin."""
    columns = models(numbers)
    cells: dict[tuple[str, str, str], dict[str, list[Number]]] = {}
    for each in numbers:
        cells.setdefault((each.task, each.metric, each.origin), {}).setdefault(each.model, []).append(each)
    return tuple(
        HeatRow(*key, tuple(tuple(found.get(model, ())) for model in columns)) for key, found in sorted(cells.items())
    )


def natural(value: float | None, number: Number, *, sign: bool = False) -> str:
    """A size in the unit of print, with one digit more than was printed."""
    if value is None:
        return "–"
    scale = terminal.scale_of(number.unit)
    shown = terminal.in_print(value, scale, number.printed, sign=sign).replace("-", "−")
    return f"{shown} %" if number.unit == "percent" else shown


def signed(value: float, digits: int = 1) -> str:
    """`+0.3`, `−12.0`; never a negative zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def breakable(name: str) -> Markup:
    """A name that may be broken behind an underscore or a slash."""
    parts = re.split(r"(?<=[_/])", name)
    return Markup("<wbr>").join(parts)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    return latency_text.in_words(seconds).replace(" us", " µs")


def badge(name: str) -> str:
    """Class of an outcome's badge."""
    if name == Outcome.KNOWN_DISCREPANCY:
        return "known"
    return {Meaning.FAILED: "bad", Meaning.BROKEN: "broken", Meaning.OPEN: "plain", Meaning.GOOD: "good"}[
        meaning_of(name)
    ]


def deviation(number: Number) -> str:
    """What a cell of the heat map says."""
    if number.sigmas is None:
        return outcome.sign_of(number.outcome)
    return signed(number.sigmas, 1 if abs(number.sigmas) < 10 else 0)


def tone(number: Number) -> str:
    """Class of a cell: side and size of the deviation."""
    if number.sigmas is None:
        return "none"
    step = sum(abs(number.sigmas) >= each for each in STEPS)
    return "even" if step == 0 else f"{'up' if number.sigmas > 0 else 'down'}{step}"


def bar(number: Number) -> float | None:
    """Where the measured number lies in its tolerance: -1 and 1 are its ends; cut at 1.45."""
    if number.difference is None or not number.allowed:
        return None
    return round(max(-1.45, min(1.45, number.difference / number.allowed)), 3)

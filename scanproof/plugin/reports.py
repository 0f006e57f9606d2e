"""What a session makes of its finished run: the page, the job summary, the properties of a JUnit file.

None of it changes a result: what cannot be made is said.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin.session import Session

if TYPE_CHECKING:
    from scanproof.report.content import Report

SUMMARY = "GITHUB_STEP_SUMMARY"
"""GitHub's variable with the file that a job's summary is appended to."""


def write(session: Session, run_file: Path) -> list[str]:
    """Make what was asked for; returns a line for each."""
    page, summary = session.settings.report, os.environ.get(SUMMARY)
    junit = junit_file(session.config)
    if page is None and not summary and junit is None:
        return []
    try:
        made = report(session, run_file, with_samples=page is not None)
    except Exception as error:
        # Whatever is wrong with stored runs must not take a night's results with it.
        return [f"NO report: {type(error).__name__}: {error}\n  again: scanproof report {run_file.parent}"]
    if junit is not None:
        add_properties(junit, made)
    lines = [write_page(page, made)] if page is not None else []
    return [*lines, *([append_summary(Path(summary), made)] if summary else [])]


def report(session: Session, run_file: Path, *, with_samples: bool) -> Report:
    """The report of the run as it lies on disk."""
    from scanproof import record
    from scanproof.report.gather import Reporter

    reporter = Reporter(
        run=record.read_run(run_file),
        folder=run_file.parent,
        store=session.settings.store,
        expected=session.expected_if_read,
        history=session.settings.history,
    )
    return reporter.report(with_samples=with_samples)


def write_page(path: Path, made: Report) -> str:
    """Write the page in one step; says where it is, or why it is not."""
    from scanproof import files
    from scanproof.report import page

    try:
        with files.replace_atomically(path) as temporary:
            temporary.write_text(page.render(made), encoding="utf-8")
    except OSError as error:
        return f"NO page: {path} cannot be written: {error.strerror}"
    return f"page: {path}"


def append_summary(path: Path, made: Report) -> str:
    """Append Markdown to the summary of a job."""
    from scanproof.report import markdown

    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(markdown.render(made))
    except OSError as error:
        return f"NO job summary: {path} cannot be written: {error.strerror}"
    return f"summary: {path}"


def junit_file(config: pytest.Config) -> Any:
    """pytest's writer of the JUnit file of this session; None without --junitxml."""
    return next((each for each in config.pluginmanager.get_plugins() if hasattr(each, "add_global_property")), None)


def add_properties(junit: Any, made: Report) -> None:
    """The verdict as properties of the suite."""
    from scanproof.report.junit import suite_properties

    for name, value in suite_properties(made):
        junit.add_global_property(name, value)

"""What a session makes of its finished run: the page, the job summary, the properties of a JUnit file.

None of it changes a result: what cannot be made is said.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin import listing, options
from scanproof.plugin.session import Session

if TYPE_CHECKING:
    from scanproof.plugin.strict_session import Unkept
    from scanproof.report.content import Report

SUMMARY = "GITHUB_STEP_SUMMARY"
"""GitHub's variable with the file that a job's summary is appended to."""


NO_REPORT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>scanproof: no report</title>
<h1>No report</h1>
<p>A session began at {began} and has left no report: it still runs, was stopped, or measured nothing that a page
shows. What its tests said is in its own output. The page of the session before it was here and has been removed.</p>
</html>
"""


def retire_page(config: pytest.Config) -> None:
    """Where this session is to write its page, replace that of an earlier one: nobody is to read it as this session's.

    Not where no test is to run.  Raises pytest.UsageError where it cannot be replaced.
    """
    page = options.read_option(config, options.REPORT)
    if page is None or listing.lists_only(config):
        return
    from scanproof import files
    from scanproof.plugin import run_recorder

    if not files.is_file(page):
        return
    began = run_recorder.utc_now().isoformat(sep=" ", timespec="seconds")
    try:
        files.write_atomically(page, NO_REPORT.format(began=began).encode())
    except OSError as error:
        raise pytest.UsageError(
            f"scanproof: --scanproof-report: the page of an earlier session cannot be replaced: {page}: "
            f"{error.strerror}; remove it, or name another file"
        ) from None


def retire_junit(config: pytest.Config) -> None:
    """Remove the JUnit file of an earlier session where this one is to write its own.

    pytest writes it when a session ends; one that is killed, or ended by its options, would leave the green of before.
    Raises pytest.UsageError where it cannot be removed.
    """
    given = config.getoption("xmlpath", None)
    if not given or listing.lists_only(config):
        return
    from scanproof import files

    # As pytest's own writer reads it.
    path = Path(os.path.abspath(os.path.expandvars(Path(given).expanduser())))  # noqa: PTH100
    try:
        if files.is_file(path):
            path.unlink()
    except OSError as error:
        raise pytest.UsageError(
            f"scanproof: --junitxml: the file of an earlier session cannot be removed: {path}: {error.strerror}; "
            "remove it, or name another file"
        ) from None


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


def add_failures(config: pytest.Config, unkept: Sequence[Unkept], code: int) -> None:
    """A test case that failed in the JUnit file for what fails a session and is no test: most readers see cases alone.

    Args:
        unkept: why the session is not green.
        code: its exit code; where it is not 0 and no test case failed, it is a case as well.
    """
    junit = junit_file(config)
    if junit is None:
        return
    reasons: dict[str, list[str]] = {}
    for each in unkept:
        reasons.setdefault(each.promise, []).append(each.because)
    if not reasons and code != pytest.ExitCode.OK and not (junit.stats["failure"] or junit.stats["error"]):
        name = pytest.ExitCode(code).name if code in set(pytest.ExitCode) else "of another plugin"
        reasons["the session ends well"] = [f"it ended with exit code {int(code)} ({name}), and no test failed"]
    for promise, because in reasons.items():
        nodeid, text = f"scanproof::{promise}", "\n".join(because)
        junit.pytest_runtest_logreport(
            pytest.TestReport(nodeid, ("scanproof", None, promise), {}, "failed", text, when="call")
        )


def add_properties(junit: Any, made: Report) -> None:
    """The verdict as properties of the suite."""
    from scanproof.report.junit import suite_properties

    for name, value in suite_properties(made):
        junit.add_global_property(name, value)

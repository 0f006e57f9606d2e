"""Collects the records of a session in the process that owns its files, and writes the run."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scanproof.numbers.values import PublishedValue
from scanproof.plugin import reports
from scanproof.plugin.session import Session

if TYPE_CHECKING:
    from scanproof.numbers.verdict.paired_tests import PairedComparison

PROPERTY = "scanproof"
"""Name of the user property that carries a record from an xdist worker to its controller, and into JUnit."""


def start_run(session: Session, selected: int) -> None:
    """Begin the record of this session; raises pytest.UsageError when it cannot be kept."""
    from scanproof import environment, record
    from scanproof.plugin import run_recorder

    run = record.Run(
        id=session.run_id,
        started=run_recorder.utc_now().isoformat(timespec="seconds"),
        finished=None,
        strict=session.settings.strict,
        limit=session.settings.limit,
        environment=environment.snapshot(session.config.rootpath),
        records=(),
        selected=selected,
    )
    recorder = run_recorder.Recorder(session.runs_folder, run)
    try:
        recorder.write(finished=False)
    except OSError as error:
        raise pytest.UsageError(
            f"scanproof: runs cannot be kept in {recorder.folder}: {error.strerror}; "
            "name another folder with --scanproof-store=DIR"
        ) from None
    session.recorder = recorder


class Controller:
    """The part of the plugin that lives where the session's files are written."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.not_written: str | None = None
        self.published: str | None = None
        """What became of the run's publication; None where no history was named."""
        self.reported: list[str] = []
        """What became of the page and the job summary."""

    @cached_property
    def values(self) -> dict[str, PublishedValue]:
        """The published numbers, by the end of their test's id."""
        loaded = self.session.expected_if_read
        return {f"[{value.id}]": value for value in loaded.numbers} if loaded else {}

    def value(self, nodeid: str) -> PublishedValue | None:
        return self.values.get(nodeid[nodeid.rfind("[") :])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Called by pytest-xdist when a worker has collected; all of them collect the same."""
        selected = sum(self.value(nodeid) is not None for nodeid in ids)
        if selected and self.session.recorder is None and not self.session.config.option.collectonly:
            start_run(self.session, selected)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record that a test left; a test that died without leaving one is an error."""
        recorder = self.session.recorder
        value = self.value(report.nodeid)
        if recorder is None or value is None:
            return
        from scanproof import files, record
        from scanproof.numbers.verdict.outcome import Outcome
        from scanproof.plugin import run_recorder

        found = [str(text) for name, text in report.user_properties if name == PROPERTY]
        try:
            if found and report.when == "teardown":
                recorder.add(files.from_json(record.Record, found[-1]))
            elif report.failed and not found:
                because = f"the test died before it had a verdict: {report.longreprtext.strip()[-300:]}"
                recorder.add(
                    run_recorder.make_record(value, report.nodeid, outcome=Outcome.ERROR.value, because=because)
                )
        except OSError as error:
            self.not_written = str(error)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the run before the summary speaks of it; one that cannot be written fails the session."""
        recorder = self.session.recorder
        if recorder is None:
            return
        from scanproof.plugin import jobs

        jobs.close(self.session)
        try:
            recorder.write(finished=False)
            recorder.add_joint(self.joint())
            recorder.write(finished=len(recorder.records) == recorder.run.selected and not recorder.pending)
            self.not_written = None
        except OSError as error:
            self.not_written = str(error)
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        if any(found.changed for found in recorder.run.joint) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        history = self.session.settings.history
        if history is not None and self.not_written is None:
            self.published = publish(recorder.path, history)
        if self.not_written is None:
            self.reported = reports.write(self.session, recorder.path)

    def joint(self) -> tuple[PairedComparison, ...]:
        """Every model, and the night, against the baseline: what no single number shows."""
        recorder = self.session.recorder
        if recorder is None or not recorder.run.evaluations:
            return ()
        return self.session.second_gate.joint(self.values.values(), recorder.run.evaluations)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        recorder = self.session.recorder
        if recorder is None:
            return
        from scanproof.plugin import summary

        loaded = self.session.expected_if_read
        summary.write(terminalreporter, recorder, loaded, self.not_written, self.published)
        for line in self.reported:
            terminalreporter.write_line(line, red=line.startswith("NO"))


def publish(run_file: Path, history: str) -> str:
    """Publish a run; says what became of it.  A history that is down turns no result red, and none green."""
    from scanproof.history.errors import HistoryError
    from scanproof.history.publish import publish as to_history
    from scanproof.history.storage import open_place
    from scanproof.record import RecordError

    try:
        to_history(run_file, open_place(history))
    except (HistoryError, RecordError) as error:
        return f"NOT published: {error}\n  again: scanproof history add {run_file.parent} --history {history}"
    return f"published to {history}"

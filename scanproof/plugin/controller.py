"""Decides whether the session is green, when its run begins, and what is written at its end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.numbers.values import PublishedValue
from scanproof.plugin import latency, options, own_source, reports, typed_selection
from scanproof.plugin.options import LIMIT
from scanproof.plugin.providers import FLAG, SELECT, ProviderTally, name_providers
from scanproof.plugin.session import Session
from scanproof.plugin.strict_session import LOST, SELECTION, StrictSession, Unkept, why_skipped

if TYPE_CHECKING:
    from scanproof.numbers.verdict.paired_tests import PairedComparison

PROPERTY = "scanproof"
"""Name of the user property that carries a record from an xdist worker to its controller, and into JUnit."""


def start_run(session: Session) -> None:
    """Begin the record of this session, for the numbers that were selected.

    Raises pytest.UsageError when it cannot be kept, or when no number can be measured here.
    """
    from scanproof import environment, record
    from scanproof.plugin import run_recorder

    selected = session.selected
    if selected:
        refuse_unsupported_harness(session)
    machine = environment.snapshot(session.config.rootpath)
    run = record.Run(
        id=session.run_id,
        started=run_recorder.utc_now().isoformat(timespec="seconds"),
        finished=None,
        strict=session.settings.strict,
        limit=session.settings.limit,
        environment=machine,
        records=(),
        selected=len(selected),
        selected_ids=selected,
        due=session.due if selected else (),
        baselines=session.baselines if selected else None,
        owed=session.owed if selected else (),
        providers=name_providers(session.settings.providers, session.providers),
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


def refuse_unsupported_harness(session: Session) -> None:
    """Say once, in place of an error per number, that the installed lm-eval cannot evaluate anything.

    Not where another plugin evaluates: it may do so elsewhere.  Raises pytest.UsageError.
    """
    from scanproof.evaluation import harness_version

    implementations = session.config.hook.pytest_scanproof_evaluate.get_hookimpls()
    problem = harness_version.why_unsupported() if len(implementations) == 1 else None
    if problem is not None:
        raise pytest.UsageError(f"scanproof: {problem}")


class Controller:
    """The part of the plugin that lives where the session's files are written."""

    def __init__(self, session: Session, lists_only: bool = False) -> None:
        self.session = session
        self.not_written: str | None = None
        self.published: str | None = None
        """What became of the run's publication; None where no history was named."""
        self.unkept: list[Unkept] = []
        """Why the session fails although every test passed or was skipped."""
        self.reported: list[str] = []
        """What became of the page and the job summary."""
        self.failed: set[str] = set()
        """Ids of the tests that failed, also before the record began."""
        self.lists_only = lists_only
        """Whether pytest was asked to run nothing, as it was when the session began."""
        self.decided: int = pytest.ExitCode.TESTS_FAILED
        """The exit code once the session was judged; until then nothing has been shown."""
        self.has_decided = False
        """Whether it was judged."""
        self.given = replace(session.settings)
        """The options as they were read; a copy, as nothing keeps others from setting what is frozen."""
        self.watched = StrictSession(by_worker=session.config.getoption("dist", "no") == "each")
        """What would keep it from being green if it is strict."""
        self.tally = ProviderTally(session.settings.providers)

    @cached_property
    def values(self) -> dict[str, PublishedValue]:
        """The published numbers by their ids."""
        loaded = self.session.expected_if_read
        return {value.id: value for value in loaded.numbers} if loaded else {}

    def value(self, nodeid: str) -> PublishedValue | None:
        """The published number of a test; None for other tests, whatever they are called."""
        number = self.session.numbers.get(nodeid)
        return self.values.get(number) if number is not None else None

    def guess_numbers(self, nodeids: Iterable[str]) -> dict[str, str]:
        """Tests of numbers by the ends of their ids: all that is known of a worker that left nothing else here."""
        ends = {nodeid: nodeid[nodeid.rfind("[") :].strip("[]") for nodeid in nodeids if nodeid.endswith("]")}
        return {nodeid: end for nodeid, end in ends.items() if end in self.values}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Begin the record when tests begin: an option that cannot be used ends a session before that.

        A wrapper, because pytest asks nobody else once a plugin has answered this hook.
        """
        broken = session.testsfailed and not session.config.option.continue_on_collection_errors
        if not broken and not session.config.option.collectonly:
            self.watched.begin(item.nodeid for item in session.items)
            if self.session.selected:
                start_run(self.session)
        return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Called by pytest-xdist when a worker has ended."""
        seen = getattr(node, "workeroutput", None)
        if seen is None or LOST not in seen:
            self.watched.dead[node.gateway.id] = str(error or "it said nothing")
        self.watched.take_seen(seen or {})

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Called by pytest-xdist when a worker has collected; all of them collect the same."""
        if self.session.recorder is not None or self.session.config.option.collectonly:
            return
        self.watched.begin(ids)
        told = self.session.handover.read(node)
        guessed = told is None and any(nodeid.endswith("]") for nodeid in ids)
        if self.session.settings.expected is not None and (told or guessed):
            # This process has collected nothing, so that nothing has asked for the expected values yet.
            _ = self.session.expected
        self.session.numbers = self.guess_numbers(ids) if told is None else told
        if self.session.selected:
            start_run(self.session)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected: tests that are not there have not passed."""
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record that a test left; one that died without leaving one is an error, a skipped one not run."""
        self.watched.see(report)
        self.tally.see(report)
        if report.failed:
            # Of any test: numbers beside a kernel whose test failed are not those of a green night.
            self.failed.add(report.nodeid)
        recorder = self.session.recorder
        if recorder is None:
            return
        recorder.failed |= self.failed
        value = self.value(report.nodeid)
        if value is None:
            return
        from scanproof import files, record
        from scanproof.numbers.verdict.outcome import Outcome
        from scanproof.plugin import run_recorder

        records = [str(text) for name, text in report.user_properties if name == PROPERTY]
        try:
            if records and report.when == "teardown":
                recorder.add(files.from_json(record.Record, records[-1]))
            elif report.failed and not records:
                because = f"the test died before it had a verdict: {report.longreprtext.strip()[-300:]}"
                recorder.add(
                    run_recorder.make_record(value, report.nodeid, outcome=Outcome.ERROR.value, because=because)
                )
            elif report.skipped and not records:
                because = f"skipped before it had a verdict: {why_skipped(report)}"
                recorder.add(
                    run_recorder.make_record(value, report.nodeid, outcome=Outcome.NOT_RUN.value, because=because)
                )
        except OSError as error:
            self.not_written = str(error)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Write the run before the summary speaks of it, and keep the exit code of a session that failed.

        Hooks that run inside this one cannot change it.  Those outside, such as a wrapper of a conftest.py in a folder
        of tests, are overruled when pytest has ended (`keep_exit_code`).
        """
        selection = session.config.pluginmanager.getplugin(SELECTION)
        if selection is not None:
            self.watched.take_seen(selection.list_seen())
        watch = session.config.pluginmanager.getplugin(own_source.WATCH)
        if watch is not None and self.watched.began:
            self.watched.changed |= watch.list_changed() | watch.noted
        hidden = self.list_hidden(session)
        self.finish(session, hidden)
        if hidden and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.unkept += hidden
        self.finish_latencies(session)
        self.hand_on(session)
        if self.given.strict or self.session.recorder is not None:
            reports.add_failures(session.config, self.unkept, session.exitstatus)
        self.decided, self.has_decided = session.exitstatus, True
        yield
        session.exitstatus = self.keep_exit_code(session.exitstatus)

    def keep_exit_code(self, code: Any) -> Any:
        """The exit code of the session: what was decided, if others have made 0 of it.

        Without strict they may where nothing was selected, or where the session came to no decision.
        """
        if self.lists_only or not ends_with_zero(code):
            return code
        may = not self.has_decided or self.decided == pytest.ExitCode.NO_TESTS_COLLECTED
        return code if may and not self.given.strict else self.decided

    def finish_latencies(self, session: pytest.Session) -> None:
        """Write baselines of latencies; one that was asked for and is not there fails the session."""
        latencies = session.config.pluginmanager.getplugin(latency.LATENCIES)
        lost = latencies.finish(session.exitstatus == pytest.ExitCode.OK) if latencies is not None else []
        if lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.unkept += lost

    def finish(self, session: pytest.Session, hidden: Sequence[Unkept]) -> None:
        """Write the run, with what only this session knows against it.

        One that cannot be written, or whose records contradict the exit code, fails the session.
        """
        recorder = self.session.recorder
        if recorder is None:
            return
        from scanproof.plugin import jobs

        jobs.close(self.session)
        recorder.failed |= self.failed
        recorder.add_unkept(hidden)
        if self.is_written(session):
            recorder.add_joint(self.joint())
        from scanproof.history import run_failures

        # A mark of another plugin may have made an expected failure of a test; what was measured is wrong all the same.
        strict = self.given.strict
        listed = run_failures.list_failures_so_far if strict else run_failures.list_certain_failures
        failures = listed(recorder.run)
        if session.exitstatus == pytest.ExitCode.OK and failures:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            told = set(run_failures.changed_together(recorder.run))
            own = [line for line in failures if line not in recorder.run.unkept]
            self.unkept += [Unkept("every number is earned", line, told=line in told) for line in own]

    def is_written(self, session: pytest.Session, *, finished: bool = False) -> bool:
        """Write the run; one that cannot be written fails the session."""
        assert self.session.recorder is not None
        try:
            self.session.recorder.write(finished=finished)
            self.not_written = None
        except OSError as error:
            self.not_written = str(error)
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            lost = Unkept("the run is recorded", f"NOT recorded: {error}", told=True)
            self.unkept += [lost] if lost not in self.unkept else []
        return self.not_written is None

    def hand_on(self, session: pytest.Session) -> None:
        """Write the run once more, with how its session ends and why, and give it to the history, the page and others.

        Last: whoever reads the run by itself has to hear of everything that makes its session red.
        """
        recorder = self.session.recorder
        if recorder is None:
            return
        from scanproof.history import run_failures

        told = set(run_failures.list_failures_so_far(replace(recorder.run, unkept=())))
        recorder.add_unkept(unkept for unkept in self.unkept if unkept.because not in told)
        recorder.add_exit_code(int(session.exitstatus or 0))
        complete = len(recorder.records) == recorder.run.selected and not recorder.pending
        if not self.is_written(session, finished=complete):
            return
        history = self.session.settings.history
        if history is not None:
            self.published = publish(recorder.path, history)
        self.reported = reports.write(self.session, recorder.path)

    def list_hidden(self, session: pytest.Session) -> list[Unkept]:
        """Why the session is not green although its exit code says so; what it names has failed for the run as well."""
        hidden = []
        if self.failed:
            what = f"{len(self.failed)} tests failed: {min(self.failed)}"
            because = f"{what}; a plugin or a conftest.py called them otherwise"
            hidden.append(Unkept("a test that failed fails the session", because, frozenset(self.failed)))
        if self.session.settings != self.given:
            hidden.append(Unkept("the options are as given", "a plugin or a conftest.py changed scanproof's options"))
        if (limited := self.explain_limit(session.config)) is not None:
            hidden.append(Unkept("the stand-ins are compared", limited))
        if self.given.strict and not self.lists_only:
            for unkept in self.watched.list_unkept():
                # Numbers that were not reached are counted with the numbers.
                self.failed.update(nodeid for nodeid in unkept.nodeids if self.value(nodeid) is None)
                hidden.append(unkept)
            if unused := self.tally.list_unused():
                because = f"no case ran and was right of what {FLAG} names: {', '.join(unused)}; {SELECT}"
                hidden.append(Unkept("a provider that is named is compared", because))
        return hidden if session.exitstatus == pytest.ExitCode.OK else []

    def explain_limit(self, config: pytest.Config) -> str | None:
        """Why stand-ins were not compared, where a limit that nobody typed was left behind; None where they were."""
        stand_ins = {value.id for value in self.values.values() if value.job.suite == "embedded"}
        limited = stand_ins.intersection(self.session.selected)
        if self.given.limit is None or not limited or options.is_typed(config, LIMIT.flag):
            return None
        what = f"{len(limited)} numbers of stand-ins were measured on the first {self.given.limit} documents only"
        remedy = f"unset {LIMIT.variable} and take {LIMIT.name} and {LIMIT.flag} out of the ini file and PYTEST_ADDOPTS"
        return f"{what}, and compared with nothing; {remedy}, or write {LIMIT.flag} in the call for a quick look"

    def joint(self) -> tuple[PairedComparison, ...]:
        """Every model, and the night, against the baseline and what was printed: what no single number shows."""
        recorder = self.session.recorder
        if recorder is None or not recorder.run.evaluations:
            # A session of kernels may have no expected values.
            return ()
        from scanproof.history.joint_findings import judge_together

        return judge_together(self.session.second_gate, recorder.run, self.values.values())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        recorder = self.session.recorder
        if recorder is not None:
            from scanproof.plugin import summary

            loaded, history = self.session.expected_if_read, self.session.settings.history
            summary.write(terminalreporter, recorder, loaded, self.not_written, self.published, history)
        under = " under --scanproof-strict" if self.session.settings.strict else ""
        if self.session.settings.strict:
            for line in typed_selection.list_other_names(terminalreporter.config):
                terminalreporter.write_line(line)
        for line in self.tally.lines():
            terminalreporter.write_line(line)
        for unkept in self.unkept:
            if not unkept.told:
                terminalreporter.write_line(f"not green{under}: {unkept.because}", red=True, bold=True)
        for line in self.reported:
            terminalreporter.write_line(line, red=line.startswith("NO"))


def ends_with_zero(code: Any) -> bool:
    """Whether a process that ends with this reads as one that succeeded: the system keeps eight bits of a number."""
    return code is None or (isinstance(code, int) and code & 0xFF == 0)


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

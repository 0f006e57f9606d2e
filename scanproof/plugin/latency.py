"""Latencies in a session: which baseline each is compared with, and what the session leaves of them."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.numbers.verdict.outcome import LatencyOutcome
from scanproof.plugin import options, own_process
from scanproof.plugin.session import Session

if TYPE_CHECKING:
    from scanproof.kernels.latency.baseline_files import BaselineFile
    from scanproof.kernels.latency.latency_verdict import Latency

PROPERTY = "scanproof-latency"
"""Name of the user property that carries a latency from an xdist worker to its controller, and into JUnit."""
REPEAT_FIXTURE = "scanproof_repeat"
"""A test with this argument runs once for every repeat while baselines are recorded."""
PACKAGES = ("causal-conv1d", "flash-attn", "mamba-ssm", "scanproof", "torch", "triton")
RECORD = "--scanproof-record-latency"


def why_not_measured(session: Session) -> str | None:
    """Why pytest-benchmark measures nothing in this session; None when it does."""
    config = session.config
    if not config.pluginmanager.hasplugin("benchmark"):
        return "pytest-benchmark is not loaded: install it, or leave out -p no:benchmark"
    if session.is_under_xdist or config.getoption("dist", "no") != "no":
        return "pytest-xdist runs tests beside each other: leave out -n"
    if config.getoption("benchmark_skip"):
        return "--benchmark-skip was given"
    if config.getoption("benchmark_disable") and not config.getoption("benchmark_enable"):
        return "--benchmark-disable was given"
    return None


def check_options(session: Session) -> None:
    """Raise pytest.UsageError where baselines cannot be recorded as asked for."""
    if not session.settings.record_latency:
        return
    reason = why_not_measured(session)
    if reason is not None:
        raise pytest.UsageError(f"scanproof: {RECORD}: nothing would be measured: {reason}")
    if session.settings.expected == options.PACKAGED_EXPECTED:
        raise pytest.UsageError(
            f"scanproof: {RECORD}: baselines are kept beside the expected values; "
            "name a folder of your own with --scanproof-expected=DIR"
        )


def baseline_path(session: Session, kind: str, device: str) -> Path | None:
    """Where the baselines of a device lie; None without a folder of expected values.

    Those of a CPU stay in the store: they are for trying the path, and never lie beside those of a GPU.
    """
    from scanproof.kernels.latency import baseline_files

    given = session.settings
    if kind != "cuda":
        return given.store / baseline_files.FOLDER / "cpu.json"
    return given.expected / baseline_files.FOLDER / baseline_files.file_name(device) if given.expected else None


def judge(session: Session, measured: Latency) -> Latency:
    """A measurement with its verdict; raises baselines.BaselineError for a file that cannot be used."""
    from scanproof.kernels.latency import baseline_files, latency_verdict

    outcomes = LatencyOutcome
    if measured.timing is None:
        return replace(measured, outcome=outcomes.NOT_MEASURED.value)
    if session.settings.record_latency:
        return replace(measured, outcome=outcomes.RECORDED.value)
    path = baseline_path(session, measured.kind, measured.device)
    found = baseline_files.read_for_device(path, measured.kind, measured.device) if path else None
    baseline = found.baseline(measured.id, path) if found and path else None
    if baseline is None:
        because = f"{measured.device} has no baseline of this case; {RECORD} records them"
        return replace(measured, outcome=outcomes.NO_BASELINE.value, because=because)
    verdict = latency_verdict.judge(baseline, measured.timing.median, measured.timing.noise, measured.clock)
    return replace(measured, outcome=verdict.outcome.value, because=verdict.because, baseline=baseline, verdict=verdict)


def repeat_of(item: pytest.Item) -> int:
    """Which repeat of a recording a test belongs to; 0 for all others."""
    callspec = getattr(item, "callspec", None)
    return int(callspec.params.get(REPEAT_FIXTURE, 0)) if callspec else 0


class Latencies:
    """The part of the plugin that keeps latencies, where the session's files are written."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self.recording: bool = session.settings.record_latency
        self.pending: set[str] = set()
        """Latency tests that were selected and not reached yet."""
        self.said: list[tuple[str, bool]] = []
        """Lines for the summary, and whether each is bad news."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Every repeat is a pass over all cases in a process of its own.

        What drifts in between, and what the autotuners of a process happen to choose, is part of their noise then.
        """
        if not self.recording:
            return
        items.sort(key=repeat_of)
        for item in items:
            if repeat := repeat_of(item):
                item.add_marker(getattr(pytest.mark, own_process.MARK)(f"{REPEAT_FIXTURE} {repeat}"))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """A mistake in a file of baselines is a usage error, before anything is measured."""
        chosen = [item.nodeid for item in session.items if item.get_closest_marker("latency")]
        if not chosen or self.config.option.collectonly:
            return
        from scanproof.kernels.latency import baseline_files

        self.pending = set(chosen)
        given = self.session.settings
        wrong = baseline_files.check_folder(given.expected / baseline_files.FOLDER) if given.expected else []
        if wrong:
            raise pytest.UsageError("scanproof: latency baselines cannot be used:\n" + "\n".join(wrong))
        if self.recording and given.expected and any(item.get_closest_marker("gpu") for item in session.items):
            # Seven passes take an hour: what cannot be kept is said before them.
            try:
                baseline_files.check_writable(given.expected / baseline_files.FOLDER)
            except baseline_files.BaselineError as error:
                raise pytest.UsageError(f"scanproof: {RECORD}: {error}") from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test left; the first one begins the record of a session without published numbers."""
        if report.when != "teardown":
            return
        self.pending.discard(report.nodeid)
        found = [str(text) for name, text in report.user_properties if name == PROPERTY]
        if not found:
            return
        from scanproof import files
        from scanproof.kernels.latency.latency_verdict import Latency
        from scanproof.plugin import controller

        try:
            if self.session.recorder is None:
                controller.start_run(self.session, selected=0)
            assert self.session.recorder is not None
            self.session.recorder.add(files.from_json(Latency, found[-1]))
        except (OSError, pytest.UsageError) as error:
            line = f"latencies NOT recorded: {error}", True
            self.said += [line] if line not in self.said else []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Called before the run is written: whether it is whole, and the baselines that were asked for."""
        recorder = self.session.recorder
        if recorder is not None:
            recorder.pending = len(self.pending)
        if self.recording and not self.config.option.collectonly:
            self.write_baselines(green=exitstatus == pytest.ExitCode.OK and not self.pending)
        if any(bad for _, bad in self.said) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def write_baselines(self, green: bool) -> None:
        """Write one file per device, if the session was green and whole; say what was written or why not."""
        from scanproof.kernels.latency import baseline_files

        recorder = self.session.recorder
        found = list(recorder.latencies.values()) if recorder else []
        if not found or not green:
            reason = "the session was not green and whole" if found else "no latency was measured"
            self.said.append((f"baselines NOT recorded: {reason}", True))
            return
        for kind, device in sorted({(each.kind, each.device) for each in found}):
            own = [each for each in found if (each.kind, each.device) == (kind, device)]
            path = baseline_path(self.session, kind, device)
            try:
                if path is None:
                    raise baseline_files.BaselineError(
                        "there is no folder of expected values: --scanproof-expected=DIR"
                    )
                baseline_files.write(path, self.content(own))
            except (baseline_files.BaselineError, OSError) as error:
                self.said.append((f"baselines of {device} NOT recorded: {error}", True))
            else:
                self.said.append((f"baselines of {device} recorded in {path}", False))

    def content(self, found: list[Latency]) -> BaselineFile:
        """The file of one device; raises BaselineError where a case lacks a repeat."""
        from scanproof import environment
        from scanproof.kernels.latency import baseline_files, latency_verdict
        from scanproof.plugin import run_recorder

        first, cases = found[0], baseline_files.collect_repeats(found)
        counts = Counter(each.id for each in found if each.timing is not None)
        short = sorted({each.id for each in found if counts[each.id] < latency_verdict.FEWEST_REPEATS})
        if short or first.limits is None:
            raise baseline_files.BaselineError(
                f"{', '.join(short[:3])} and others have less than {latency_verdict.FEWEST_REPEATS} repeats"
            )
        gpus = {each["name"]: each["driver_version"] for each in environment.gpus()}
        return baseline_files.BaselineFile(
            device=baseline_files.DeviceForm(kind=first.kind, name=first.device, driver=gpus.get(first.device)),  # type: ignore[arg-type]
            recorded=run_recorder.utc_now().isoformat(timespec="seconds"),
            command=shlex.join(["pytest", *map(str, self.config.invocation_params.args)]),
            packages=environment.versions(PACKAGES),
            limits=baseline_files.LimitsForm(
                bytes_per_s=first.limits.bytes_per_s, flop_per_s=dict(first.limits.flop_per_s)
            ),
            cases=cases,
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        recorder = self.session.recorder
        found = list(recorder.latencies.values()) if recorder else []
        if not found and not self.said:
            return
        from scanproof.report import latency_text

        terminalreporter.section("scanproof latency", sep="=", bold=True)
        width: Any = terminalreporter._tw.fullwidth if terminalreporter.isatty else None
        for line in latency_text.summary_lines(found, width, terminalreporter._tw.hasmarkup):
            terminalreporter.write_line(line)
        for line, bad in self.said:
            terminalreporter.write_line(line, red=bad, bold=bad)

"""Latencies in a session: whether they can be measured, and what the session leaves of them."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin import latency_baselines, options, own_process
from scanproof.plugin.latency_baselines import RECORD
from scanproof.plugin.session import Session
from scanproof.plugin.strict_session import Unkept

if TYPE_CHECKING:
    from scanproof.kernels.latency.baseline_files import BaselineFile
    from scanproof.kernels.latency.latency_verdict import Latency

PROPERTY = "scanproof-latency"
"""Name of the user property that carries a latency from an xdist worker to its controller, and into JUnit."""
REPEAT_FIXTURE = "scanproof_repeat"
"""A test with this argument runs once for every repeat while baselines are recorded."""
PACKAGES = ("causal-conv1d", "fla-core", "flash-attn", "mamba-ssm", "scanproof", "torch", "triton")
LATENCIES = "scanproof-latencies"
"""Name of the part of the plugin that keeps latencies."""


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
        self.failed: set[str] = set()
        """Latency tests that failed in any of their phases."""
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
        """Keep what a test left, and that it failed; the first one begins the record of a session without numbers."""
        if report.failed and "latency" in report.keywords:
            self.failed.add(report.nodeid)
        if report.when != "teardown":
            return
        self.pending.discard(report.nodeid)
        if self.session.recorder is not None:
            self.session.recorder.pending = len(self.pending)
        latencies = [str(text) for name, text in report.user_properties if name == PROPERTY]
        if not latencies and report.nodeid not in self.failed:
            return
        from scanproof import files
        from scanproof.kernels.latency.latency_verdict import Latency
        from scanproof.plugin import controller

        try:
            if self.session.recorder is None:
                controller.start_run(self.session)
            assert self.session.recorder is not None
            self.session.recorder.pending = len(self.pending)
            if latencies:
                self.session.recorder.add(files.from_json(Latency, latencies[-1]))
        except (OSError, pytest.UsageError) as error:
            line = f"latencies NOT recorded: {error}", True
            self.said += [line] if line not in self.said else []

    def finish(self, green: bool) -> list[Unkept]:
        """Write the baselines that were asked for; returns what of them, or of the record, is not there.

        Called by the controller before it decides: what is decided later, any hook may overrule.

        Args:
            green: whether the session is, but for its baselines.
        """
        if self.recording and not self.config.option.collectonly:
            self.write_baselines(green and not self.pending)
        return [Unkept("every latency is kept", line, told=True) for line, bad in self.said if bad]

    def write_baselines(self, green: bool) -> None:
        """Write one file per device, if the session was green and whole; say what was written or why not.

        A case that is too noisy for a baseline costs no other case its own: a recording takes an hour.
        """
        from scanproof.kernels.latency import baseline_files

        recorder = self.session.recorder
        latencies = [each for each in recorder.latencies.values() if not each.provider] if recorder else []
        if not latencies or not green:
            reason = "the session was not green and whole" if latencies else "no latency was measured"
            self.said.append((f"baselines NOT recorded: {reason}", True))
            return
        for kind, device in sorted({(latency.kind, latency.device) for latency in latencies}):
            own = [latency for latency in latencies if (latency.kind, latency.device) == (kind, device)]
            path = latency_baselines.baseline_path(self.session, kind, device)
            try:
                if path is None:
                    raise baseline_files.BaselineError(
                        "there is no folder of expected values: --scanproof-expected=DIR"
                    )
                loud = baseline_files.find_loud_cases(own)
                quiet = [latency for latency in own if latency.id not in loud]
                self.said += [(f"baseline of {case} NOT recorded: {why}", True) for case, why in loud.items()]
                if not quiet:
                    raise baseline_files.BaselineError(f"no case was quiet enough: {baseline_files.QUIET}")
                baseline_files.write(path, self.content(quiet))
            except (baseline_files.BaselineError, OSError) as error:
                self.said.append((f"baselines of {device} NOT recorded: {error}", True))
            else:
                self.said.append((f"baselines of {device} recorded in {path}", False))

    def content(self, latencies: list[Latency]) -> BaselineFile:
        """The file of one device; raises BaselineError where a case lacks a repeat."""
        from scanproof import environment
        from scanproof.kernels.latency import baseline_files, latency_verdict
        from scanproof.plugin import run_recorder

        first, cases = latencies[0], baseline_files.collect_repeats(latencies)
        counts = Counter(latency.id for latency in latencies if latency.timing is not None)
        short = sorted({latency.id for latency in latencies if counts[latency.id] < latency_verdict.FEWEST_REPEATS})
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
        latencies = list(recorder.latencies.values()) if recorder else []
        if not latencies and not self.said:
            return
        from scanproof.report import latency_text

        terminalreporter.section("scanproof latency", sep="=", bold=True)
        width: Any = terminalreporter._tw.fullwidth if terminalreporter.isatty else None
        for line in latency_text.summary_lines(latencies, width, terminalreporter._tw.hasmarkup):
            terminalreporter.write_line(line)
        for line, bad in self.said:
            terminalreporter.write_line(line, red=bad, bold=bad)

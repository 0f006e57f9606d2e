"""What scanproof keeps for one pytest session: its options, its run, and what it has read or started so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scanproof.plugin import options, providers
from scanproof.plugin.selected_numbers import Handover

if TYPE_CHECKING:
    from scanproof.evaluation.imported import Imports
    from scanproof.history.second_gate import SecondGate
    from scanproof.kernels.providers.provider import Provider
    from scanproof.numbers.expected.reader import Expected
    from scanproof.numbers.values import EvalJob, PublishedValue
    from scanproof.plugin.evaluator import Evaluator
    from scanproof.plugin.ownership import TaskVersions
    from scanproof.plugin.run_recorder import Recorder
    from scanproof.plugin.side_by_side import SideBySide
    from scanproof.record import Evaluation, KnownBaselines, Owed
    from scanproof.triage.read_answers import Runs


@dataclass(frozen=True)
class ParentSession:
    """The session that has started this process to run some of its tests (`scanproof.plugin.own_process_child`)."""

    run_id: str
    """Id of its run."""
    under_xdist: bool
    """It is itself one of several processes of pytest-xdist."""


PARENT: pytest.StashKey[ParentSession] = pytest.StashKey()
"""Set before plugins are configured, and only in a process that another session has started."""


@dataclass
class Session:
    """One pytest session.

    What is cheap is an attribute.  What takes time or imports much is a cached property: it is made when it is first
    asked for, once per process.
    """

    config: pytest.Config
    settings: options.PluginSettings
    parent: ParentSession | None = None
    recorder: Recorder | None = None
    """Collects the records of the session; None before the run is begun, and in worker processes."""
    evaluator: Evaluator | None = None
    """Runs the jobs of the selected numbers; None where no number was selected."""
    numbers: dict[str, str] = field(default_factory=dict)
    """Node id of each selected test of a published number -> id of the number."""
    side_by_side: SideBySide[Evaluation] | None = None
    """Runs jobs of the stand-ins side by side; None where one job runs at a time."""

    @property
    def selected(self) -> tuple[str, ...]:
        """Ids of the published numbers whose tests were selected."""
        return tuple(self.numbers.values())

    @cached_property
    def handover(self) -> Handover:
        """How workers of pytest-xdist say which of their tests are those of numbers."""
        return Handover(self.config)

    @property
    def is_worker(self) -> bool:
        """Whether another process collects the results: pytest-xdist or this plugin has started this one."""
        return is_worker(self.config)

    @property
    def is_under_xdist(self) -> bool:
        """Whether other processes of the session may run tests at the same time."""
        return hasattr(self.config, "workerinput") or (self.parent is not None and self.parent.under_xdist)

    @property
    def runs_folder(self) -> Path:
        """Folder of all runs."""
        return self.settings.store / "runs"

    @cached_property
    def run_id(self) -> str:
        """Id of this session's run; worker processes get it from the process that started them."""
        from scanproof.plugin import run_recorder

        if self.parent is not None:
            return self.parent.run_id
        given = getattr(self.config, "workerinput", {}).get("scanproof_run")
        return str(given) if given else run_recorder.new_run_id(run_recorder.utc_now())

    @cached_property
    def expected(self) -> Expected:
        """The expected values.

        Raises pytest.UsageError with every mistake in them, or when there is no folder of them.
        """
        from scanproof.numbers.expected import problems, reader

        if self.settings.expected is None:
            raise pytest.UsageError("there are no expected values: give their folder with --scanproof-expected=DIR")
        try:
            return reader.load(self.settings.expected)
        except problems.ExpectedError as error:
            raise pytest.UsageError(f"expected values cannot be used:\n{error}") from None

    @property
    def expected_if_read(self) -> Expected | None:
        """The expected values if this process has read them, else None: reports need no others."""
        return vars(self).get("expected")

    @cached_property
    def second_gate(self) -> SecondGate:
        """The comparison with the baseline, document by document."""
        from scanproof.history.due_before import OtherRuns, list_due_before
        from scanproof.history.second_gate import SecondGate

        given, others = self.settings, OtherRuns()
        if given.strict and given.history is not None:
            strict = self.earlier_runs.all_others(self.run_id, rb'"strict":\s*true')
            held = list_due_before(strict, self.gpu)
            others = OtherRuns(held, self.gpu, frozenset(self.earlier_runs.unread))
        return SecondGate(self.expected, given.history, strict=given.strict, limit=given.limit, others=others)

    @cached_property
    def gpu(self) -> str:
        """The GPU of this machine, as runs and histories call it."""
        from scanproof import environment
        from scanproof.history.store import gpu_name

        return gpu_name(environment.gpus())

    @cached_property
    def due(self) -> tuple[str, ...]:
        """Ids of the selected numbers whose comparison with a baseline is due on this machine, as the run says."""
        return self.second_gate.list_due(self.selected_values, self.gpu)

    @cached_property
    def baselines(self) -> KnownBaselines | None:
        """What is known of the declared baselines of the selected numbers, for this machine."""
        return self.second_gate.known_baselines(self.selected_values, self.gpu)

    @cached_property
    def owed(self) -> tuple[Owed, ...]:
        """Which of the selected numbers had a baseline that is lost, for this machine."""
        return self.second_gate.list_owed(self.selected_values, self.gpu)

    @property
    def selected_values(self) -> list[PublishedValue]:
        """The numbers that this session is to compare."""
        wanted = set(self.selected)
        return [value for value in self.expected.numbers if value.id in wanted]

    @cached_property
    def imports(self) -> Imports:
        """What workers of this session import; looked up once."""
        from scanproof.evaluation.imported import Imports

        return Imports()

    @cached_property
    def task_versions(self) -> TaskVersions:
        """The versions of tasks in the lm-eval that is installed here."""
        from scanproof.evaluation.request import cache_folder
        from scanproof.plugin.ownership import TaskVersions

        given = self.settings
        return TaskVersions(cache_folder(given.store, self.run_id, fresh=given.fresh), self.imports)

    @cached_property
    def earlier_runs(self) -> Runs:
        """The runs of the store."""
        from scanproof.triage.read_answers import Runs

        return Runs(self.settings.store)

    @cached_property
    def compared_latencies(self) -> dict[tuple[str, str], dict[str, str]]:
        """Kind of device and id of a latency -> device -> the newest other run of the store that compared it there with
        a baseline.
        """
        compared: dict[tuple[str, str], dict[str, str]] = {}
        for run in self.earlier_runs.all_others(self.run_id, rb'"baseline":\s*\{'):
            for case in run.latencies:
                if case.baseline is not None:
                    compared.setdefault((case.kind, case.id), {}).setdefault(case.device, run.id)
        return compared

    @cached_property
    def providers(self) -> dict[str, Provider]:
        """Operation -> what was named in its place, imported; raises pytest.UsageError for what cannot be used."""
        return providers.resolve_names(self.settings.providers)

    @cached_property
    def why_no_gpu(self) -> str | None:
        """Why this machine cannot run a GPU job; None when it can."""
        from scanproof.kernels.launches import machine

        return machine.why_no_gpu()

    def evaluate(self, job: EvalJob) -> Evaluation:
        """What a job of the selected numbers measured; it runs once.  Raises EvaluationError."""
        assert self.evaluator is not None, "a number was selected, so there is an evaluator"
        return self.evaluator(job)


_SESSION: pytest.StashKey[Session] = pytest.StashKey()


def is_worker(config: pytest.Config) -> bool:
    """Whether another process collects the results of this one."""
    return hasattr(config, "workerinput") or config.stash.get(PARENT, None) is not None


def start(config: pytest.Config) -> Session:
    """Read the options and begin a session; raises pytest.UsageError for options that cannot be used."""
    config.stash[_SESSION] = Session(config, options.read_settings(config), config.stash.get(PARENT, None))
    return config.stash[_SESSION]


def session_of(config: pytest.Config) -> Session:
    """The session of a configuration."""
    return config.stash[_SESSION]

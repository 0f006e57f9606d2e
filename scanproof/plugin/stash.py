"""What a session keeps on pytest's config, and where its run lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scanproof.plugin import options

if TYPE_CHECKING:
    from scanproof.history.second_gate import SecondGate
    from scanproof.numbers.expected.reader import Expected
    from scanproof.plugin.evaluator import Evaluator
    from scanproof.plugin.run_recorder import Recorder
    from scanproof.plugin.side_by_side import Ahead
    from scanproof.record import Evaluation
    from scanproof.triage.read_answers import Runs

SETTINGS: pytest.StashKey[options.PluginSettings] = pytest.StashKey()
EXPECTED: pytest.StashKey[Expected] = pytest.StashKey()
EVALUATOR: pytest.StashKey[Evaluator] = pytest.StashKey()
AHEAD: pytest.StashKey[Ahead[Evaluation]] = pytest.StashKey()
RECORDER: pytest.StashKey[Recorder] = pytest.StashKey()
SECOND_GATE: pytest.StashKey[SecondGate] = pytest.StashKey()
EARLIER_RUNS: pytest.StashKey[Runs] = pytest.StashKey()
RUN_ID: pytest.StashKey[str] = pytest.StashKey()
OWN_PROCESS: pytest.StashKey[bool] = pytest.StashKey()
"""There only in a process that runs tests of a session on their own: whether the session is under pytest-xdist."""
NO_GPU: pytest.StashKey[str | None] = pytest.StashKey()


def is_worker(config: pytest.Config) -> bool:
    """In a process whose results another one collects: pytest-xdist or this plugin has started it."""
    return hasattr(config, "workerinput") or OWN_PROCESS in config.stash


def under_xdist(config: pytest.Config) -> bool:
    """Other processes of the session may run tests at the same time."""
    return hasattr(config, "workerinput") or config.stash.get(OWN_PROCESS, False)


def run_folder(config: pytest.Config) -> Path:
    """Folder of all runs."""
    return config.stash[SETTINGS].store / "runs"


def run_id(config: pytest.Config) -> str:
    """Id of this session's run; an xdist worker has it from its controller."""
    if RUN_ID not in config.stash:
        from scanproof.plugin import run_recorder

        given = getattr(config, "workerinput", {}).get("scanproof_run")
        config.stash[RUN_ID] = given or run_recorder.new_run_id(run_recorder.utc_now())
    return config.stash[RUN_ID]


def second_gate(config: pytest.Config) -> SecondGate:
    """The comparison with the baseline, made ready at the first call."""
    if SECOND_GATE not in config.stash:
        from scanproof.history.second_gate import SecondGate

        config.stash[SECOND_GATE] = SecondGate(config.stash[EXPECTED], config.stash[SETTINGS].history)
    return config.stash[SECOND_GATE]


def earlier_runs(config: pytest.Config) -> Runs:
    """The runs of the store, each read once in a session."""
    if EARLIER_RUNS not in config.stash:
        from scanproof.triage.read_answers import Runs

        config.stash[EARLIER_RUNS] = Runs(config.stash[SETTINGS].store)
    return config.stash[EARLIER_RUNS]


def why_no_gpu(config: pytest.Config) -> str | None:
    """Why this machine cannot run a GPU job, asked once per session; None when it can."""
    if NO_GPU not in config.stash:
        from scanproof.kernels.launches import machine

        config.stash[NO_GPU] = machine.why_no_gpu()
    return config.stash[NO_GPU]


def expected_values(config: pytest.Config) -> Expected | None:
    """The expected values of this session, read at the first call; None where there are none.

    Raises pytest.UsageError with every mistake in them.
    """
    folder = config.stash[SETTINGS].expected
    if EXPECTED not in config.stash and folder is not None:
        from scanproof.numbers.expected import problems, reader

        try:
            config.stash[EXPECTED] = reader.load(folder)
        except problems.ExpectedError as error:
            raise pytest.UsageError(f"expected values cannot be used:\n{error}") from None
    return config.stash.get(EXPECTED, None)

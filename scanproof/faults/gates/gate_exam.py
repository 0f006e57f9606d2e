"""Runs the exam of the gates: one session per fault, several at a time, and clean sessions that must raise no alarm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scanproof.faults.gates.checkpoints import SPOILED, SPOILED_WEIGHTS
from scanproof.faults.gates.clean_settings import KEPT, CleanAnswer, draw_clean_setting
from scanproof.faults.gates.file_changes import replace_text
from scanproof.faults.gates.gate_fault import CONFTEST, LENIENT, STRICT, Before, GateFault, NotPlantedError
from scanproof.faults.gates.gate_session import (
    JOB,
    SessionResult,
    apply_changes,
    copy_file,
    make_folder,
    run_session,
    start_workers_by,
)

DIGESTS = "store/cache/hashes.sqlite"


class GateExamError(RuntimeError):
    """The exam cannot be held: a session without a fault does not pass, or a fault cannot be planted."""


@dataclass(frozen=True)
class GateAnswer:
    """How the session with one fault ended."""

    fault: GateFault
    result: SessionResult

    @property
    def missed_because(self) -> str | None:
        """Why the fault does not count as caught; None where the session ended as it has to."""
        difference = self.fault.ending.explain_difference(self.result.complaints)
        if difference is not None or self.fault.reuses is None:
            return difference
        wrong = self.result.measured if self.fault.reuses else self.result.reused
        right = self.result.reused if self.fault.reuses else self.result.measured
        if wrong or not right:
            return f"{self.result.reused} evaluations were reused and {self.result.measured} made"
        return None

    @property
    def caught(self) -> bool:
        """Whether the session failed, and said what is wrong."""
        return self.missed_because is None


@dataclass(frozen=True)
class GateExam:
    """Where the sessions of an exam run."""

    folder: Path
    """Folder of the sessions and of what is kept for them."""
    expected: Path
    """Folder of the expected values."""
    server: Path | None = None
    """Socket that starts workers which have loaded their packages; None where each worker loads them."""

    def prepare(self) -> None:
        """Evaluate the stand-in with and without a spoiled checkpoint, for sessions that begin with an evaluation.

        Raises GateExamError where the one does not pass, or the other is anything but CHANGED.
        """
        require_passed(
            Before.KEPT_CLEAN.value, run_session(self.make_session(Before.KEPT_CLEAN.name), KEPT, STRICT, {})
        )
        place = self.make_session(Before.KEPT_SPOILED.name)
        apply_changes((SPOILED_WEIGHTS,), place)
        require_changed(Before.KEPT_SPOILED.value, run_session(place, KEPT, STRICT, {}))

    def make_session(self, name: str, warm: bool = True) -> Path:
        """Make the folder of a session; a warm one starts its workers by the server.

        Digests of installed packages are known from the sessions that were kept, as they are to every user.
        """
        place = self.folder / name
        make_folder(place, self.expected)
        if self.server is not None and warm:
            start_workers_by(place, self.server)
        known = self.folder / Before.KEPT_CLEAN.name / DIGESTS
        if known.is_file():
            copy_file(known, place / DIGESTS)
        return place

    def examine(self, fault: GateFault) -> GateAnswer:
        """Plant one fault and run a session; its folder is removed afterwards.

        Raises GateExamError where the session before it does not pass.
        """
        place = self.make_session(fault.id, warm=not fault.needs_new_workers)
        try:
            if fault.before is Before.CLEAN_HERE:
                require_passed(f"before {fault.id}", run_session(place, fault.numbers, LENIENT, {}))
            elif fault.before is not Before.NOTHING:
                begin_with_kept(place, self.folder / fault.before.name)
            variables = apply_changes(fault.changes, place)
            result = run_session(place, fault.numbers, fault.options, {**variables, **fault.variables})
            return GateAnswer(fault, result)
        except NotPlantedError as error:
            return GateAnswer(fault, SessionResult.of_nothing(str(error)))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def run_clean(self, seed: int) -> CleanAnswer:
        """Run a session without a fault, in the setting that is drawn from a seed."""
        setting = draw_clean_setting(seed)
        place = self.make_session(f"clean-{seed}", warm=not setting.variables)
        with (place / CONFTEST).open("a") as file:
            file.write(setting.conftest)
        change_batch_size(place, setting.batch_size)
        try:
            return CleanAnswer(setting, run_session(place, setting.numbers, setting.options, setting.variables))
        finally:
            shutil.rmtree(place, ignore_errors=True)


def require_passed(name: str, result: SessionResult) -> None:
    """Raise GateExamError unless a session compared something, and all of it is reproduced."""
    if not result.passed:
        raise GateExamError(f"{name}: a session without a fault ended as {result}\n{result.output[-3000:]}")


def require_changed(name: str, result: SessionResult) -> None:
    """Raise GateExamError unless all numbers of a session with a spoiled checkpoint ended in CHANGED, and say why."""
    difference = SPOILED.explain_difference(result.complaints)
    if difference is None and set(result.outcomes) != SPOILED.names:
        difference = "not all of its numbers failed"
    if difference is not None:
        raise GateExamError(f"{name}: its session ended as {result}: {difference}\n{result.output[-3000:]}")


def begin_with_kept(place: Path, kept: Path) -> None:
    """Give a session's folder the store and the checkpoint of a session that was kept, without its runs."""
    shutil.rmtree(place / "store", ignore_errors=True)
    shutil.copytree(kept / "store", place / "store", ignore=shutil.ignore_patterns("runs", "locks", "attempts"))
    shutil.rmtree(place / "mirror")
    shutil.copytree(kept / "mirror", place / "mirror")


def change_batch_size(place: Path, size: int) -> None:
    """Set the batch size of the job of a session's folder."""
    path = place / JOB
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(replace_text(r"batch_size: \d+", f"batch_size: {size}")(content))


def examine_all(exam: GateExam, faults: Sequence[GateFault], jobs: int) -> Iterator[GateAnswer]:
    """Plant each fault, `jobs` at a time; answers in the order of the faults.  Raises GateExamError."""
    exam.prepare()
    with ThreadPoolExecutor(jobs) as threads:
        yield from threads.map(exam.examine, faults)


def run_clean(exam: GateExam, seeds: Sequence[int], jobs: int) -> Iterator[CleanAnswer]:
    """Run a session without a fault for each seed, `jobs` at a time.  Raises GateExamError."""
    exam.prepare()
    with ThreadPoolExecutor(jobs) as threads:
        yield from threads.map(exam.run_clean, seeds)

"""Builds mixtures of two environments, runs a number in each, and remembers what came out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scanproof import files, record
from scanproof.numbers.verdict.outcome import Meaning, number_outcome
from scanproof.triage.bisect.environments import Differences, Environment, as_requirement
from scanproof.triage.bisect.search import MixtureOutcome

LOG = "log.txt"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One mixture."""

    bad: tuple[str, ...]
    """Packages as in the bad environment; all others as in the good one."""
    outcome: MixtureOutcome
    because: str
    measured: float | None = None
    seconds: float = 0.0
    reused: bool = False
    folder: str = ""


def read_tried(path: Path) -> Tried | None:
    """What came out of a mixture before; None where that is not known, or not as it is written."""
    try:
        return files.read_record(Tried, path)
    except (OSError, ValueError):
        return None


@dataclass
class Mixtures:
    """Runs one number in mixtures."""

    number: str
    differences: Differences
    base: Environment
    """Its interpreter runs every mixture; packages are laid over it."""
    root: Path
    """Folder of the store; a folder per mixture lies below `bisect` in it."""
    test: str
    """Node id of the test that measures numbers, without the number."""
    pytest: tuple[str, ...] = ()
    """Further arguments for pytest."""
    pip: tuple[str, ...] = ()
    """Further arguments for `pip install`: where packages come from."""
    say: Callable[[str], None] = lambda _: None
    fresh: bool = False
    tried: list[Tried] = field(default_factory=list)

    def __call__(self, bad: frozenset[str]) -> MixtureOutcome:
        """The number in one mixture, run or remembered."""
        pins = self.pins(bad)
        folder = self.root.resolve() / "bisect" / self.key(pins)
        known = folder / "tried.json"
        kept = None if self.fresh else read_tried(known)
        if kept is not None:
            tried = Tried(**{**asdict(kept), "reused": True})
        else:
            self.say(f"{len(self.tried) + 1}. {self.named(bad)}")
            tried = self.attempt(bad, pins, folder)
            if tried.outcome is not MixtureOutcome.UNRESOLVED:
                # What broke may be mended: a full disk, a wheel that was not there yet.
                files.write_atomically(known, files.to_json(tried))
        self.tried.append(tried)
        self.say(f"   {tried.outcome.value}{' (known)' if tried.reused else ''}: {tried.because}")
        return tried.outcome

    def pins(self, bad: frozenset[str]) -> dict[str, str]:
        """What has to be laid over the interpreter's own packages."""
        good = self.differences.good.items()
        chosen = {**self.differences.common, **{name: version for name, version in good if name not in bad}}
        chosen |= {name: version for name, version in self.differences.bad.items() if name in bad}
        return {name: version for name, version in sorted(chosen.items()) if self.base.versions.get(name) != version}

    def key(self, pins: Mapping[str, str]) -> str:
        """Digest of everything that makes this mixture what it is."""
        what = {
            "number": self.number, "pins": pins, "python": str(self.base.python),
            "base": dict(sorted(self.base.versions.items())), "test": str(Path(self.test).resolve()),
            "pytest": self.pytest,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]

    def named(self, bad: frozenset[str]) -> str:
        if not bad:
            return "all as in the good environment"
        every = {*self.differences.good, *self.differences.bad}
        return "all as in the bad environment" if bad == every else f"from the bad one: {', '.join(sorted(bad))}"

    def attempt(self, bad: frozenset[str], pins: Mapping[str, str], folder: Path) -> Tried:
        """Build the mixture and run the number in it."""
        started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        problem = self.build(pins, folder)
        outcome, because, measured = (MixtureOutcome.UNRESOLVED, problem, None) if problem else self.measure(folder)
        return Tried(
            bad=tuple(sorted(bad)), outcome=outcome, because=because, measured=measured,
            seconds=time.monotonic() - started, folder=str(folder),
        )  # fmt: skip

    def build(self, pins: Mapping[str, str], folder: Path) -> str | None:
        """Install the pins into the mixture's own folder; why that cannot be done, or None."""
        if not pins:
            return None
        command = [
            sys.executable, "-m", "pip", "--python", str(self.base.python), "install", "--quiet", "--no-deps",
            "--disable-pip-version-check", "--upgrade", "--target", str(folder / "site"), *self.pip,
            *(as_requirement(name, version) for name, version in pins.items()),
        ]  # fmt: skip
        result = self.run(command, folder, dict(os.environ))
        return None if result == 0 else f"cannot be built, see {folder / LOG}"

    def measure(self, folder: Path) -> tuple[MixtureOutcome, str, float | None]:
        """Run the number's test; the verdict that it recorded."""
        runs = folder / "store" / "runs"
        path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
        command = [
            str(self.base.python), "-m", "pytest", "-q", "-p", "no:cacheprovider",
            f"{self.test}[{self.number}]", "--scanproof-store", str(folder / "store"), *self.pytest,
        ]  # fmt: skip
        before = {each.name for each in runs.glob("*")}
        self.run(command, folder, {**os.environ, "PYTHONPATH": path})
        new = sorted(each for each in runs.glob("*") if each.name not in before)
        try:
            run = record.read_run(record.find_run(runs, str(new[-1]))) if new else None
        except record.RecordError as error:
            return MixtureOutcome.UNRESOLVED, str(error), None
        kept = next((each for each in run.records if each.id == self.number), None) if run else None
        if kept is None:
            return MixtureOutcome.UNRESOLVED, f"the number was not measured, see {folder / LOG}", None
        measured = kept.verdict.measured if kept.verdict else None
        outcome = side_of(kept.outcome)
        return outcome, f"{kept.outcome}: {kept.because.splitlines()[0]}", measured

    def run(self, command: list[str], folder: Path, environment: dict[str, str]) -> int:
        """Run a command, its output added to the mixture's log."""
        with (folder / LOG).open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            return subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
            ).returncode


def side_of(name: str) -> MixtureOutcome:
    """Whether a number with this outcome is as in the good environment; a run that judged nothing resolves nothing."""
    outcome = number_outcome(name)
    if not outcome.says_whether_it_is_as_before:
        return MixtureOutcome.UNRESOLVED
    return MixtureOutcome.BAD if outcome.meaning is Meaning.FAILED else MixtureOutcome.GOOD

"""The history's files: one new set per run, its manifest last, checked on every read.

    <history>/runs/<run id>/run-<digest>.json          the run as the session wrote it
                            numbers-<digest>.parquet   a row per number
                            samples-<digest>.parquet   a row per document
                            latencies-<digest>.parquet a row per timed kernel case, where there are any
                            manifest.json              written last: the run exists when this does
    <history>/baselines/<id>.json                      see `scanproof.history.baseline`

No file is ever changed, so that any number of machines write without a lock, and what a reader has checked stays so.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from scanproof import files
from scanproof.files import to_sorted_json
from scanproof.history.errors import HistoryError, Problem
from scanproof.history.storage import Place, open_place, sha256
from scanproof.numbers.verdict.outcome import Outcome

FORMAT = 1
"""Of manifests, baselines and the columns of the Parquet files."""
MANIFEST = "manifest.json"
PRUNED = "samples-pruned.json"
"""Says that a run's samples were deleted on purpose."""
UNFINISHED = timedelta(days=2)
"""A publication that has not ended by then never will."""
CLOCK = timedelta(minutes=10)
"""How far clocks of several machines may differ before it is said."""


@dataclass(frozen=True)
class Published:
    """A run as its manifest describes it."""

    id: str
    manifest: dict[str, Any]
    samples_pruned: bool = False

    @property
    def started(self) -> str:
        return str(self.manifest["started"])

    @property
    def gpu(self) -> str:
        """Names of the GPUs, or `cpu`."""
        return gpu_name(self.manifest["environment"].get("gpus"))

    @property
    def can_be_latest(self) -> bool:
        """Whether it is one to speak of as `latest`; see `scanproof.record.can_be_latest`."""
        tried = any(count for name, count in self.manifest["outcomes"].items() if name != Outcome.NOT_RUN)
        measured = tried or self.file("latencies") is not None or bool(self.manifest.get("failed_tests"))
        return measured or bool(self.manifest["selected"] and self.manifest.get("exit_code") != 0)

    def file(self, kind: str) -> str | None:
        """Name of the file of a kind (`run`, `numbers`, `samples`, `latencies`), or None."""
        return next((name for name in self.manifest["files"] if name.split("-")[0] == kind), None)


@dataclass
class History:
    """A history that is being read; what had to be skipped is collected by name."""

    place: Place
    problems: list[Problem] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    """Ids of the runs that are there and could not be read, or are not whole."""
    copies: Path | None = None
    """Temporary folder of files out of a bucket; it goes with this object."""

    def skip(self, path: str, because: str, *, lost: bool = True) -> None:
        problem = Problem(self.place.shown(path), because, lost)
        if problem not in self.problems:
            self.problems.append(problem)

    def runs(self) -> list[Published]:
        """Every whole run, oldest first."""
        listed = self.place.sizes("runs")
        folders: dict[str, dict[str, int]] = {}
        for path, size in listed.items():
            run, _, name = path.partition("/")
            folders.setdefault(run, {})[name] = size
        whole = [run for run, names in sorted(folders.items()) if self.has_manifest(run, names)]
        contents = self.place.read([f"runs/{run}/{MANIFEST}" for run in whole])
        readable = [
            published
            for run, content in zip(whole, contents, strict=True)
            if (published := self.checked(run, content, folders[run])) is not None
        ]
        self.hidden = folders.keys() - {run.id for run in readable}
        return sorted(readable, key=lambda run: (run.started, run.id))

    def has_manifest(self, run: str, names: dict[str, int]) -> bool:
        """Say which runs were never finished; a process may still be writing a young one."""
        if MANIFEST not in names:
            because, lost = explain_no_manifest(run, names)
            self.skip(f"runs/{run}", because, lost=lost)
        return MANIFEST in names

    def checked(self, run: str, content: bytes | Exception, names: dict[str, int]) -> Published | None:
        """A manifest that is whole and whose files are there in full length."""
        path = f"runs/{run}/{MANIFEST}"
        manifest = self.sealed(path, content)
        if manifest is None:
            return None
        if manifest["run"] != run:
            self.skip(path, f"is the manifest of {manifest['run']!r}; skipped")
            return None
        pruned = PRUNED in names
        for name, entry in manifest["files"].items():
            gone = name not in names and not (pruned and name.startswith("samples-"))
            if gone or (name in names and names[name] != entry["bytes"]):
                size = "is missing" if gone else f"has {names[name]} bytes of {entry['bytes']}"
                self.skip(f"runs/{run}/{name}", f"{size}: the run is damaged; skipped")
                return None
        self.check_clock(path, manifest)
        return Published(run, manifest, pruned)

    def check_clock(self, path: str, manifest: dict[str, Any]) -> None:
        """A run of tomorrow would be the latest for ever; it counts, but it is said."""
        started = datetime.fromisoformat(manifest["started"])
        if started > datetime.now(UTC) + CLOCK:
            because = f"starts in the future ({manifest['started']}): the clock of its machine was wrong; kept"
            self.skip(path, because, lost=False)

    def sealed(self, path: str, content: bytes | Exception) -> dict[str, Any] | None:
        """The content of a file that carries its own digest; None, and a problem, when it does not match."""
        try:
            return unseal(content)
        except HistoryError as error:
            self.skip(path, f"{error}; skipped")
            return None

    def read(self, run: Published, kind: str) -> bytes | None:
        """One file of a run, its bytes checked; None, and a problem, when they are not those that were written."""
        return self.read_all([run], kind)[0]

    def read_all(self, runs: Sequence[Published], kind: str) -> list[bytes | None]:
        """The files of one kind of several runs."""
        named = [(index, run, run.file(kind)) for index, run in enumerate(runs)]
        there = [
            (index, run, name)
            for index, run, name in named
            if name is not None and not (kind == "samples" and run.samples_pruned)
        ]
        in_order: list[bytes | None] = [None] * len(runs)
        contents = self.place.read([f"runs/{run.id}/{name}" for _, run, name in there])
        for (index, run, name), content in zip(there, contents, strict=True):
            path = f"runs/{run.id}/{name}"
            if isinstance(content, Exception):
                self.skip(path, f"cannot be read ({type(content).__name__}); skipped")
            elif sha256(content) != run.manifest["files"][name]["sha256"]:
                self.skip(path, "its bytes are not those that were written (wrong checksum); skipped")
            else:
                in_order[index] = content
        return in_order

    def files(self, runs: Sequence[Published], kind: str) -> list[str]:
        """Paths of the sound files of one kind, for a program that reads files; those of a bucket are copied here."""
        paths = []
        for run, content in zip(runs, self.read_all(runs, kind), strict=True):
            if content is None:
                continue
            name = f"runs/{run.id}/{run.file(kind)}"
            if self.place.is_local:
                paths.append(self.place.path(name))
            else:
                paths.append(self.copied(name, content))
        return paths

    def copied(self, name: str, content: bytes) -> str:
        """A file of a bucket in a temporary folder."""
        if self.copies is None:
            self.copies = Path(mkdtemp(prefix="scanproof-history-"))
            weakref.finalize(self, shutil.rmtree, self.copies, ignore_errors=True)
        path = self.copies / name.replace("/", "-")
        path.write_bytes(content)
        return str(path)

    def _latest(self, runs: Sequence[Published]) -> list[Published]:
        """The latest run, if there is any; raises HistoryError where a newer one cannot be read."""
        measured = [run for run in runs if run.can_be_latest]
        latest = measured[-1:]
        newer = max((run for run in self.hidden if not latest or run > latest[0].id), default=None)
        if newer is not None:
            because = "; ".join(str(problem) for problem in self.problems if f"runs/{newer}" in problem.path)
            raise HistoryError(f"which run is the latest is not known: {because}; mend it, or name a run by its id")
        for run in runs[runs.index(latest[0]) + 1 :] if latest else ():
            self.skip(f"runs/{run.id}", f"is newer and measured nothing; the latest is {latest[0].id}", lost=False)
        return latest

    def find(self, name: str) -> Published:
        """The run of that id, or of the beginning of one, or the `latest`; raises HistoryError."""
        runs = self.runs()
        matching = self._latest(runs) if name == "latest" else [run for run in runs if run.id.startswith(name)]
        exact = [run for run in matching if run.id == name]
        if len(matching) == 1 or exact:
            return (exact or matching)[0]
        damaged = [str(problem) for problem in self.problems if f"/runs/{name}" in problem.path]
        if damaged:
            raise HistoryError(f"the run {name} cannot be used: {'; '.join(damaged)}")
        listed = ", ".join(run.id for run in runs[-5:]) or "none yet"
        several = "several runs begin with" if matching else "there is no run"
        raise HistoryError(f"{several} {name!r} in {self.place.name} (newest runs: {listed})")


DELETE = "delete what is left: scanproof history prune --yes"


def explain_no_manifest(run: str, names: Container[str]) -> tuple[str, bool]:
    """Why a run has no manifest, and whether it is lost: no process is writing it any more."""
    if "" in names and age(run) > timedelta(0):
        return f"is no folder, or a link that leads to no run that can be read; skipped; {DELETE}", True
    if age(run) > UNFINISHED:
        return (
            f"has no {MANIFEST}: its publication was stopped, or its files are gone; skipped; publish the run again, "
            f"scanproof history add RUN, or {DELETE}"
        ), True
    return f"has no {MANIFEST}: its publication was stopped, or is going on; skipped", False


def age(run: str) -> timedelta:
    """Age of a run by its id; nothing where the id holds no time."""
    try:
        started = datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return timedelta(0)
    return datetime.now(UTC) - started


def open_history(name: str) -> History:
    """The history in a folder or behind a URL; raises HistoryError."""
    return History(open_place(name))


def seal(content: dict[str, Any]) -> bytes:
    """JSON with the digest of its own content."""
    return to_sorted_json({**content, "sha256": own_digest(content)})


def own_digest(content: dict[str, Any]) -> str:
    """Digest of what a file says, whatever its spaces."""
    return sha256(json.dumps(content, sort_keys=True).encode())


def unseal(content: bytes | Exception) -> dict[str, Any]:
    """The inverse of `seal`; raises HistoryError saying what is wrong with the file."""
    if isinstance(content, Exception):
        raise HistoryError(f"cannot be read ({type(content).__name__})")
    try:
        fields = files.parse_json(content)
        claimed = fields.pop("sha256")
        known = int(fields["format"])
    except (ValueError, KeyError, AttributeError, TypeError):
        raise HistoryError("is cut short or no file of this kind") from None
    if known > FORMAT:
        raise HistoryError(f"has format {known}, newer than this scanproof reads ({FORMAT}): update scanproof")
    if own_digest(fields) != claimed:
        raise HistoryError("its bytes are not those that were written (wrong checksum)")
    return dict(fields)


def gpu_name(gpus: Iterable[dict[str, Any]] | None) -> str:
    """Distinct names of GPUs, or `cpu`."""
    return ", ".join(sorted({str(gpu.get("name")) for gpu in gpus or ()})) or "cpu"

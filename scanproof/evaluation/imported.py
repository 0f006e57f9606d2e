"""What a worker imports: from where, and the digests of the files, found quickly.

Version and file list of a package say nothing about one that was edited in place, or that another folder in front of it
on the path hides.  So packages are identified by the content of what a worker would import.  Files are read once:
afterwards their size, times and inode tell whether they changed.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from scanproof.evaluation import process, task_files
from scanproof.evaluation.file_digests import FileDigests, is_settled, stamp_file, walk

PACKAGES = (
    "lm_eval", "torch", "transformers", "datasets", "tokenizers", "numpy", "triton", "safetensors", "accelerate",
    "huggingface_hub", "pyarrow", "jinja2", "sentencepiece", "mamba_ssm", "causal_conv1d", "selective_scan_cuda",
    "causal_conv1d_cuda", "flash_attn", "flash_attn_2_cuda", "fla", "einops", "sitecustomize", "usercustomize",
)  # fmt: skip
"""Modules that are identified before a job runs, whether they are installed or not.  What else a worker imports is
known after the first run, and compared before its result is used again."""
NOT_READ = {("torch", "include"), ("lm_eval", "tasks")}
"""Folders of these packages that are left out: headers of C++, and definitions of tasks, of which the fingerprint has
those of the job."""
ENTRY_POINTS = (
    "torch.backends", "torch_dynamo_backends", "triton.backends", "fsspec.specs", "networkx.backends",
    "networkx.backend_info",
)  # fmt: skip
"""Groups of entry points that PyTorch, Triton and what they import look up, and load, by themselves: a package that is
installed beside them runs in a worker although nothing names it."""
ENDINGS = (*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.SOURCE_SUFFIXES, ".pyc")
"""How the names of files end that are modules by themselves."""
GONE = "gone"


@dataclass(frozen=True)
class Imported:
    """What the worker of a stored evaluation had imported."""

    files: Mapping[str, str]
    """Absolute path -> digest: modules and libraries outside `PACKAGES`, which the fingerprint identifies."""
    places: Mapping[str, str]
    """Name of a package or module -> the folder of the path that it was found in."""


class Imports:
    """What a worker that starts now would import.  It looks once; `renewed` looks again.

    Threads may share it.
    """

    def __init__(self, known: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._lock = threading.RLock()
        self._known = dict(known or {})
        """Path -> stamp and digest, so that looking again asks for the stamps only."""
        self._path: tuple[Path, ...] = ()
        self._places: dict[str, Path] | None = None
        self._packages: dict[str, str | None] | None = None
        self._index: task_files.TaskFiles | None = None
        self._files: dict[str, str] = {}
        self._startup: dict[str, str] = {}

    def renewed(self) -> Imports:
        """A new look at everything; files whose stamp is as before are not read again."""
        with self._lock:
            return Imports(self._known)

    def packages(self, digests: FileDigests) -> dict[str, str | None]:
        """One digest for each of `PACKAGES`, over all its files; None where it is not installed."""
        with self._lock:
            if self._packages is None:
                self._packages = {name: self._digest_package(name, digests) for name in PACKAGES}
            return self._packages

    def startup(self, digests: FileDigests) -> dict[str, str]:
        """What else decides what is loaded: digests of `.pth` files, whose lines Python runs when it starts, by path;
        of what is installed for `ENTRY_POINTS`, by entry point; and of the names, sizes and times of the libraries in
        the folders of LD_LIBRARY_PATH.
        """
        with self._lock:
            _ = self.places
            if not self._startup:
                for folder in dict.fromkeys(map(str, self._path)):
                    for path in sorted(Path(folder).glob("*.pth")):
                        self._startup[str(path)] = self._digest(path, digests)
                for point in _find_entry_points(self._path):
                    package = point.value.partition(":")[0].partition(".")[0].strip()
                    own = self.packages(digests)
                    digest = own[package] if package in own else self._digest_package(package, digests)
                    self._startup[f"{point.group}: {point.name} = {point.value}"] = digest or GONE
                for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
                    self._startup[folder] = _stamp_libraries(Path(folder))
            return self._startup

    @property
    def places(self) -> dict[str, Path]:
        """Name of each package and module that can be imported -> the folder of the path that it comes from."""
        with self._lock:
            if self._places is None:
                self._path = read_worker_path()
                self._places = find_places(self._path)
            return self._places

    def folder(self, name: str) -> Path | None:
        """Folder of a package as the worker finds it; None where it is not installed, or is a single file."""
        place = self.places.get(name)
        if place is None:
            return _ask_finders(name)
        return (place / name).resolve() if (place / name).is_dir() else None

    def task_index(self, cache: Path) -> task_files.TaskFiles | None:
        """The task definitions of lm-eval, read or built in the folder `cache`; None where it is not installed."""
        with self._lock:
            package = self.folder("lm_eval")
            if self._index is None and package is not None:
                self._index = task_files.load_index(package / "tasks", cache)
            return self._index

    def describe(self, listed: Mapping[str, list[str]], digests: FileDigests) -> Imported:
        """What a worker imported, from the files and names that it listed."""
        with self._lock:
            covered = tuple(f"{place}{os.sep}" for place in self._roots())
            paths = [path for path in listed["files"] if not path.startswith(covered)]
            files = {path: self._digest_if_there(path, digests) for path in paths}
            places = {name: str(self.places[name]) for name in listed["names"] if name in self.places}
            return Imported(files={path: digest for path, digest in files.items() if digest != GONE}, places=places)

    def list_changes(self, before: Imported, digests: FileDigests) -> list[str]:
        """How what a worker would import differs from what one had imported, in words."""
        with self._lock:
            moved = [
                f"imported / {name}: from {self.places.get(name, GONE)}, before from {place}"
                for name, place in before.places.items()
                if str(self.places.get(name)) != place
            ]
            changed = [
                f"imported / {path}: changed"
                for path, digest in before.files.items()
                if self._digest_if_there(path, digests) != digest
            ]
        return [*moved, *changed]

    def _roots(self) -> list[Path]:
        """The folders that `packages` covers."""
        folders = [self.folder(name) for name in PACKAGES]
        return [folder for folder in folders if folder is not None]

    def _digest_package(self, name: str, digests: FileDigests) -> str | None:
        folder = self.folder(name)
        if folder is None:
            place = self.places.get(name)
            alone = [place / f"{name}{ending}" for ending in ENDINGS] if place else []
            return next((self._digest(path, digests) for path in alone if path.is_file()), None)
        skipped = {str(folder / inner) for outer, inner in NOT_READ if outer == name}
        joined = hashlib.sha256()
        start = len(f"{folder}{os.sep}")
        for entry in walk(str(folder), lambda path: path in skipped or path.endswith(("/__pycache__", "/.git"))):
            digest = self._digest_known(entry.path, entry.stat(), digests)
            joined.update(f"{entry.path[start:]} {digest}\n".encode(errors="surrogateescape"))
        if name == "lm_eval":
            # The folders of tasks hold definitions; files beside them are code.
            for path in sorted((folder / "tasks").glob("*.py")):
                joined.update(f"{path.name} {self._digest(path, digests)}\n".encode())
        return joined.hexdigest()

    def _digest_if_there(self, path: str, digests: FileDigests) -> str:
        """The digest of a file, looked up once; `GONE` where there is none."""
        if path not in self._files:
            try:
                self._files[path] = self._digest(Path(path), digests)
            except OSError:
                self._files[path] = GONE
        return self._files[path]

    def _digest(self, path: Path, digests: FileDigests) -> str:
        return self._digest_known(str(path), path.stat(), digests)

    def _digest_known(self, path: str, status: os.stat_result, digests: FileDigests) -> str:
        stamp = stamp_file(status)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = digests.digest_with_status(path, status)
        if is_settled(status):
            self._known[path] = (stamp, digest)
        return digest


def read_worker_path() -> tuple[Path, ...]:
    """The path that a worker imports from: that of a process which is started as a worker is.

    This process's own path may hold folders that pytest has put there.
    """
    root = process.worker_folder()
    command = [sys.executable, "-c", r"import sys; print('\0'.join(sys.path), end='')"]
    done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=600)
    if done.returncode != 0:
        raise OSError(f"{sys.executable} does not start: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
    _, *others = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    return (root, *map(Path, others))


def find_places(path: Iterable[Path]) -> dict[str, Path]:
    """Name of each package and module -> the first folder of a path that holds it.

    As in Python, a folder without `__init__` counts only where no other folder holds the name.
    """
    regular: dict[str, Path] = {}
    namespaces: dict[str, Path] = {}
    for folder in path:
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208
        except OSError:
            continue
        for name in names:
            ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
            if ending is not None:
                regular.setdefault(name.removesuffix(ending), folder)
            elif name.isidentifier():
                whole = any((folder / name / f"__init__{one}").exists() for one in ENDINGS)
                (regular if whole else namespaces).setdefault(name, folder)
    return {**namespaces, **regular}


def _find_entry_points(path: Iterable[Path]) -> list[metadata.EntryPoint]:
    """The entry points of `ENTRY_POINTS` that are installed on a path."""
    installed = metadata.distributions(path=list(dict.fromkeys(map(str, path))))
    return [point for one in installed for point in one.entry_points if point.group in ENTRY_POINTS]


def _stamp_libraries(folder: Path) -> str:
    """Digest of names, sizes and times of the libraries in a folder; they may be many, and GB large."""
    stamps = hashlib.sha256()
    for path in sorted(folder.glob("*.so*")):
        if path.is_file():
            status = path.stat()
            stamps.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return stamps.hexdigest()


def _ask_finders(name: str) -> Path | None:
    """Folder of a package that is on no path: one that is installed as editable, through a finder of its own."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    # Folders that are on this process's path alone are not imported by a worker, but do no harm here.
    if spec is None or not spec.submodule_search_locations or spec.origin is None:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve()

"""Sessions and workers as forks of processes that have loaded other projects' packages, and nothing of ours.

A copy of the project with a fault in its code is run so: the fork imports scanproof from the copy, and lm-eval where
the copy has its own.  Half of the time of a small session goes to the imports that are there already.  Not the same
as in a new process: hashes are not random, and what warned while it was imported does not warn again.  A test that is
about imports, or about how a worker ends, starts real processes.

`python -m tests.support.code_workers KIND SOCKET` serves; `scanproof.faults.gates.warm_workers` says how.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from scanproof.faults.gates import warm_workers
from tests.support.forked_sessions import IMPORTED
from tests.support.session_server import import_modules

ROOT = Path(__file__).parents[2]
SUBSTITUTION = "scanproof.evaluation.worker.substitution.score"
LOADED = {
    "session": (
        *IMPORTED, "hypothesis", "pydantic.dataclasses", "safetensors.numpy", "email.parser", "scanproof.cli.*",
    ),
    "worker": (
        "torch", "transformers", "datasets", "lm_eval.evaluator", "lm_eval.models.huggingface", "lm_eval.tasks",
        "transformers.models.auto.tokenization_auto", "transformers.convert_slow_tokenizer", "scipy.io", "psutil",
        "pydantic.dataclasses", "pydantic.types",
    ),
}  # fmt: skip
"""What each kind of process imports.

Sessions import modules of scanproof for what those import: they are forgotten in the fork.  In a worker they would
register things with lm-eval and transformers, which would stay.
"""
OURS = frozenset({"scanproof", "tests", "conftest"})
"""What a fork imports anew, from wherever its path leads."""
LATE = "xdist"
"""A plugin that keeps the path as it is when it is imported, for its workers."""


@contextmanager
def serve_copies(folder: Path) -> Iterator[Path]:
    """Write the program that stands in for Python where a copy is run; its servers end with the block."""
    for kind in LOADED:
        (folder / kind).mkdir()
    # Read at imports.  Sessions give workers of stand-ins one thread, and a folder for what comes from the hub.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "HF_HOME": str(folder / "hf"), "PYTHONPATH": path}
    with (
        warm_workers.serve_workers(folder / "worker", variables, (__name__, "worker")) as workers,
        warm_workers.serve_workers(folder / "session", variables, (__name__, "session")) as sessions,
    ):
        more = {"pytest": sessions, "scanproof": sessions, SUBSTITUTION: workers}
        warm_workers.write_launcher(folder / "python", workers, more)
        yield folder / "python"


def main(kind: str, path: str) -> None:
    """Serve; in a fork, run the module that was asked for as `python -m` does."""
    warm_workers.end_with_exam()
    installed = read_installed_path()
    for name in LOADED[kind]:
        import_modules(name)
    if kind == "session":
        load_plugins()
    # What is here stays: no fork looks through it for garbage.
    gc.collect()
    gc.freeze()
    request, streams, connection = warm_workers.serve(path)
    child = os.fork()
    if child:
        tell_end(child, streams, connection)
    connection.close()
    warm_workers.become(request, streams)
    begin(request, installed)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def load_plugins() -> None:
    """Import the plugins of other projects, which every session loads, and say that pytest leaves their assertions."""
    for point in metadata.entry_points(group="pytest11"):
        if point.module.partition(".")[0] not in (*OURS, LATE):
            importlib.import_module(point.module)
    plugins = {"_pytest"}
    for installed in metadata.distributions():
        if any(point.group == "pytest11" for point in installed.entry_points):
            plugins |= {file.parts[0].partition(".")[0] for file in installed.files or ()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in plugins:
            module.__doc__ = f"{module.__doc__}\nPYTEST_DONT_REWRITE"


def read_installed_path() -> list[str]:
    """The path of a Python that is started without PYTHONPATH."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", r"import sys; print('\0'.join(sys.path[1:]), end='')"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.split("\0")


def tell_end(child: int, streams: Iterable[int], connection: socket.socket) -> None:
    """Wait for the fork that works, and say how it ended; end it where the launcher is gone.  Does not return."""
    for stream in streams:
        os.close(stream)

    def watch() -> None:
        with suppress(OSError):
            connection.recv(1)
        end_group(child)
        # It may not have a group of its own yet.
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    _, status = os.waitpid(child, 0)
    # What it has started ends before anybody hears that it has ended.
    end_group(child)
    with suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def end_group(leader: int) -> None:
    """End every process of a group that is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def begin(request: Mapping[str, Any], installed: Iterable[str]) -> None:
    """Give this process the path, the modules and the settings that a new Python begins with."""
    variables = request["variables"]
    path = [os.path.abspath(each) for each in variables.get("PYTHONPATH", "").split(os.pathsep) if each]  # noqa: PTH100
    sys.path[:] = [request["folder"], *dict.fromkeys([*path, *installed])]
    forget_modules(OURS.union(*map(list_modules, [request["folder"], *path])))
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    sys.executable = request["python"]
    sys.argv = [request["module"], *request["arguments"]]
    open_streams(bool(variables.get("PYTHONUNBUFFERED")))
    if variables.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    if "datasets" in sys.modules and "HF_DATASETS_CACHE" in variables:
        # Read when `datasets` was imported.
        sys.modules["datasets"].config.HF_DATASETS_CACHE = Path(variables["HF_DATASETS_CACHE"])


def open_streams(unbuffered: bool) -> None:
    """Open the standard streams: those of the server are of files, which seek, and these may be pipes."""
    encoding = sys.stdout.encoding
    sys.stdin = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = output = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
    if unbuffered:
        output.reconfigure(write_through=True)


def list_modules(folder: str) -> set[str]:
    """Names of the modules and packages in a folder."""
    endings = (".py", *EXTENSION_SUFFIXES)
    entries = list(Path(folder).iterdir()) if Path(folder).is_dir() else []
    return {
        entry.name.partition(".")[0]
        for entry in entries
        if entry.name.endswith(endings) or (entry / "__init__.py").exists()
    }


def forget_modules(names: Iterable[str]) -> None:
    """Let the next import of these modules, and of all below them, find them anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]


if __name__ == "__main__":
    main(*sys.argv[1:])

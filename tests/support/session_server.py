"""Starts pytest sessions by forking: what they import of other projects is imported once, not by each session.

Two thirds of the time of a small session in a new interpreter go to these imports. A fork is as much a
process of its own: it ends, dies and is killed as one. It runs `python -m pytest` in its own folder, with its own
environment, limit of memory and output.

The arguments name the modules to import; of a package that ends with `.*`, all of its modules. A line of standard input
asks for a session; its answer is the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import signal
import sys
from typing import Any

PLUGINS = ("scanproof", "pytest_benchmark", "platformdirs")
"""Packages of plugins: pytest rewrites their assertions when it loads them, and warns where it comes too late."""


def main() -> None:
    """Fork a session for every request; returns in the server, and in a session when pytest did not end it."""
    sys.path.pop(0)
    for name in sys.argv[1:]:
        import_modules(name)
    leave_assertions()
    # A new interpreter handles them so, whatever the process that starts it ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    # What is here stays: no session looks through it for garbage.
    gc.collect()
    gc.freeze()
    while request := sys.stdin.readline():
        session = os.fork()
        if not session:
            run(json.loads(request))
            return
        _, status = os.waitpid(session, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def import_modules(name: str) -> None:
    """Import a module, or all modules of a package and of those in it."""
    package = name.removesuffix(".*")
    module = importlib.import_module(package)
    if package != name:
        for found in pkgutil.iter_modules(module.__path__, f"{package}."):
            import_modules(f"{found.name}.*" if found.ispkg else found.name)


def leave_assertions() -> None:
    """Say to pytest that the assertions of the plugins stay as they are: none of them is a test."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PLUGINS:
            module.__doc__ = f"{module.__doc__}\nPYTEST_DONT_REWRITE"


def run(request: dict[str, Any]) -> None:
    """Run the session that was asked for; returns when pytest did not end it."""
    become(request)
    if request["forks_own_processes"]:
        from scanproof.plugin.own_process_running import START
        from tests.support import forked_own_processes

        if forked_own_processes.fork_own_processes():
            exec(START, {"__name__": "__main__"})
            return
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


def become(request: dict[str, Any]) -> None:
    """Make this process the one that was asked for."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    resource.setrlimit(resource.RLIMIT_AS, tuple(request["memory"]))
    reading, adding = os.O_RDONLY, os.O_WRONLY | os.O_APPEND
    files = ((os.devnull, reading), (request["out"], adding), (request["err"], adding))
    for descriptor, (path, flags) in enumerate(files):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["pytest", *request["arguments"]]
    # As for `python -m`: the folder, then PYTHONPATH.
    sys.path[:0] = [request["folder"], *filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    main()

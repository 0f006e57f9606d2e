"""Starts pytest sessions by forking: what they import of other projects is imported once, not by each session.

More than half of the CPU time of a small session in a new interpreter goes to these imports. A fork is as much a
process of its own: it ends, dies and is killed as one. It runs `python -m pytest` in its own folder, with its own
environment, limit of memory and output, and nothing of scanproof and no plugin is imported before.

The arguments name the modules to import. A line of standard input asks for a session; its answer is the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import signal
import sys
from typing import Any


def main() -> None:
    """Fork a session for every request; returns in the server, and in a session when pytest did not end it."""
    sys.path.pop(0)
    for name in sys.argv[1:]:
        importlib.import_module(name)
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
            become(json.loads(request))
            runpy.run_module("pytest", run_name="__main__", alter_sys=True)
            return
        _, status = os.waitpid(session, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


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

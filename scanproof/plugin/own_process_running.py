"""A process in which tests run on their own, as the session sees it: started, followed, and ended."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from scanproof import errors
from scanproof.plugin.own_process_child import OPTION, PLUGIN, ChildRequest, Event

POLL_SECONDS = 0.05
LINES = 20
FATAL = "Fatal Python error"
FRAMES = 8
START = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
"""The imports of the session, whether it was begun as `pytest`, `python -m pytest` or in another way."""


@dataclass
class Running:
    """One process, and what it has told so far."""

    process: subprocess.Popen[bytes]
    folder: Path
    told: BinaryIO
    nodeids: tuple[str, ...]
    """The tests it was started for, in their order."""
    kept: list[list[Event]] = field(default_factory=list)
    """Per test, what was told of it."""
    trouble: list[str] = field(default_factory=list)
    """What went wrong outside of tests."""
    finished: set[int] = field(default_factory=set)
    given: set[int] = field(default_factory=set)
    """Tests that were reported in the session."""

    @classmethod
    def start(
        cls, invocation: pytest.Config.InvocationParams, request: ChildRequest, nodeids: tuple[str, ...]
    ) -> Running:
        """Start it with the session's own command line: its options, ini file and conftests are the session's."""
        folder = Path(tempfile.mkdtemp(prefix="scanproof-"))
        (folder / "request.json").write_text(json.dumps(asdict(request)))
        told = folder / "told"
        told.touch()
        command = [sys.executable, "-c", START, json.dumps(sys.path), "-p", PLUGIN, f"{OPTION}={folder}"]
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [*command, *map(str, invocation.args)],
                # It ends itself when this closes: when the session is gone, whatever ended it.
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                cwd=invocation.dir,
                start_new_session=True,
            )
        return cls(process, folder, told.open("rb"), nodeids, [[] for _ in nodeids])

    def awaits(self, nodeid: str) -> bool:
        """Whether this process still has to tell of a test, or can say why it never will.

        A test that came after the one with which a process died runs in a new one; where none was begun at all, a new
        one would end the same way.
        """
        index = self.nodeids.index(nodeid) if nodeid in self.nodeids else None
        if index is None or index in self.given:
            return False
        died = self.process.poll() is not None
        self.read()
        begun = index in self.finished or bool(self.kept[index])
        blamed = index > 0 and index - 1 not in self.finished
        return not died or begun or not blamed or not any(self.kept)

    def events(self, nodeid: str) -> list[Event]:
        """What was told of a test, once there is no more to come."""
        index = self.nodeids.index(nodeid)
        while True:
            ended = self.process.poll() is not None
            self.read()
            # With its last test a process has to end well.
            if ended or (index in self.finished and index + 1 < len(self.nodeids)):
                self.given.add(index)
                return [event for event in self.kept[index] if event.kind != "started"]
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL_SECONDS)

    def read(self) -> None:
        """Take in what was told since the last call; an event that is not whole yet is left."""
        while True:
            position = self.told.tell()
            try:
                event: Event = pickle.load(self.told)
            except (EOFError, pickle.UnpicklingError):
                self.told.seek(position)
                return
            if event.kind == "finished":
                self.finished.add(event.index)
            elif event.kind == "trouble":
                self.trouble.append(event.data["text"])
            else:
                self.kept[event.index].append(event)

    def why_ended_early(self, nodeid: str) -> str | None:
        """How the process ended, if that was before the test was over or, with the last test, not as it should."""
        index = self.nodeids.index(nodeid)
        code = self.process.poll()
        if index not in self.finished:
            begun = "before the test was over" if self.kept[index] else "without beginning the test"
        elif index + 1 == len(self.nodeids) and code is not None and code not in (0, 1):
            # A test that others follow is over: that the process ended since is an error of one of those.
            begun = "after its last test"
        else:
            return None
        assert code is not None
        told = [*self.trouble, last_words(self.folder / "stderr"), last_words(self.folder / "stdout")]
        last = next((f"its last lines:\n{text}" for text in told if text), "it wrote nothing")
        how = f"{errors.how_it_ended(code)}, {begun} (exit status {code})"
        return f"not measured: the process of this test {how}; {last}"

    def wait(self) -> None:
        """Until it has ended: nothing else of the session runs beside it."""
        self.process.wait()
        self.end()

    def end(self) -> None:
        """Make sure that nothing of it survives; once, since its id may be another's later."""
        if self.process.stdin is None or self.process.stdin.closed:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()

    def close(self) -> None:
        """End it, and remove what it told."""
        self.end()
        self.told.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def last_words(log: Path) -> str:
    """The end of a log; of the stack that Python prints at a crash, the innermost frame first, only the beginning."""
    lines = errors.last_lines(log, 10 * LINES).splitlines()
    fatal = next((place for place, line in enumerate(lines) if line.startswith(FATAL)), None)
    shown = lines if fatal is None else lines[: fatal + FRAMES]
    return "\n".join(shown[-LINES:])

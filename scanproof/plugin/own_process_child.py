"""Loaded in a process that runs some tests of a session on their own: it tells the session what becomes of them.

The process has the session's command line.  This plugin runs the requested tests, in that order, and nothing else,
whatever selects there, and switches off what the session writes itself.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import uuid
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

import pytest

from scanproof.plugin import kernel_evidence, own_source
from scanproof.plugin.session import PARENT, ParentSession

PLUGIN = "scanproof.plugin.own_process_child"
OPTION = "--scanproof-own-process"
SWITCHED_OFF: Mapping[str, object] = {
    # What chooses or spreads tests, or stops after one that failed: the session's business.
    "lf": False, "failedfirst": False, "newfirst": False, "stepwise": False, "stepwise_skip": False, "maxfail": 0,
    "numprocesses": None, "dist": "no", "distload": False, "tx": [], "usepdb": False, "trace": False,
    # Files that the session writes at its end, and tables.
    "xmlpath": None, "report_log": None, "benchmark_json": None, "benchmark_save": None, "benchmark_autosave": None,
    "benchmark_compare": None, "benchmark_compare_fail": None, "benchmark_histogram": None, "pastebin": None,
    "durations": None,
}  # fmt: skip
"""Option -> what it is in this process, if there is such an option."""


EventKind = Literal["started", "report", "raised", "changed", "warning", "finished", "trouble"]


@dataclass(frozen=True)
class ChildRequest:
    """What the session asks for."""

    addresses: tuple[str, ...]
    """Of the tests, in their order."""
    run: str
    """Id of the session's run."""
    under_xdist: bool
    """The session itself is one of several that run beside each other."""
    basetemp: str | None
    """The session's own, when one was named: this process must not empty it."""


@dataclass(frozen=True)
class Event:
    """One thing that the process tells."""

    kind: EventKind
    index: int
    """Which test; -1: none."""
    data: dict[str, Any]


def address(item: pytest.Item) -> str:
    """How a process finds the test again, as an argument of pytest."""
    # A folder is a pytest.Dir, or a pytest.Package where it holds an __init__.py.
    above = (pytest.Session, pytest.Directory, pytest.File)
    below = [node.name for node in item.listchain() if not isinstance(node, above)]
    return "::".join([str(item.path), *below])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("scanproof").addoption(OPTION, metavar="DIR", help="folder of a request of the session")


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Capture in Python only: the last words of CUDA or of a crash in native code go to the process's own stderr.

    They would be lost with pytest's files of captured output when the process dies.
    """
    early_config.known_args_namespace.capture = "tee-sys"
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before plugins are configured: take the session's request instead of what the command line selects."""
    folder = Path(config.getoption(OPTION))
    given = json.loads((folder / "request.json").read_text())
    request = ChildRequest(**{**given, "addresses": tuple(given["addresses"])})
    end_with_session()
    config.args = list(request.addresses)
    for name, value in SWITCHED_OFF.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    if request.basetemp is not None:
        config.option.basetemp = f"{request.basetemp}-{uuid.uuid4().hex[:8]}"
    config.stash[PARENT] = ParentSession(request.run, request.under_xdist)
    config.pluginmanager.register(Teller(config, request, (folder / "told").open("ab")), "scanproof-teller")


def end_with_session() -> None:
    """Kill this process and its children when standard input, held open by the session, closes."""

    def watch() -> None:
        while os.read(standard_input, 1):
            continue
        os.killpg(0, signal.SIGKILL)

    # Of its own, whatever a test does with the first.
    standard_input = os.dup(0)
    threading.Thread(target=watch, name="end-with-session", daemon=True).start()


class Teller:
    """Chooses the requested tests, and writes each event at once: the process may not live to its end."""

    def __init__(self, config: pytest.Config, request: ChildRequest, file: BinaryIO) -> None:
        self.config, self.request, self.file = config, request, file
        self.index: dict[str, int] = {}
        """Id of a test here -> its place in the request."""

    def tell(self, kind: EventKind, nodeid: str, data: Mapping[str, Any] = MappingProxyType({})) -> None:
        pickle.dump(Event(kind, self.index.get(nodeid, -1), plain(dict(data))), self.file)
        self.file.flush()

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        by_address = {address(item): item for item in items}
        yield
        items[:] = [by_address[wanted] for wanted in self.request.addresses if wanted in by_address]
        self.index = {
            by_address[wanted].nodeid: place
            for place, wanted in enumerate(self.request.addresses)
            if wanted in by_address
        }

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tell("trouble", "", {"text": report.longreprtext})

    def pytest_internalerror(self, excrepr: object) -> None:
        self.tell("trouble", "", {"text": str(excrepr)})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell("started", nodeid)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, object, object]:
        """Innermost, and not by the report, which others may change."""
        if (name := kernel_evidence.find_error(item, call)) is not None:
            self.tell("raised", item.nodeid, {"name": name})
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.tell("report", report.nodeid, data)

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        if nodeid not in self.index:
            # Raised while the tests were collected: the session has collected them too.
            return
        data = {
            "text": f"{warning_message.category.__name__}: {warning_message.message}",
            "filename": warning_message.filename,
            "lineno": warning_message.lineno,
            "when": when,
            "nodeid": nodeid,
            "location": location,
        }
        self.tell("warning", nodeid, data)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        watch = self.config.pluginmanager.getplugin(own_source.WATCH)
        if watch is not None and watch.noted:
            self.tell("changed", nodeid, {"names": sorted(watch.noted)})
        self.tell("finished", nodeid)


def plain(value: Any) -> Any:
    """A value as the session can read it without importing anything: what is no plain data becomes its text."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value if value is None or type(value) in (str, int, float, bool) else str(value)

"""What keeps a strict session from being green although nothing failed: tests that did not run, or proved nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from scanproof.plugin import kernel_evidence, own_source

LEFT_OUT = "a plugin or a conftest.py ended the session or left them out"
REMEDY = "remove the mark or the skip, or stop the test with scanproof_missing or scanproof_cannot_run"
SELECTION = "scanproof-strict-selection"
"""Name of the part of the plugin that watches what is selected."""
LOST = "scanproof tests that are gone"
"""Key of what a worker of pytest-xdist hands on: ids of the tests that are gone."""
SHOWN = 3
"""Names in one line."""
RAISED = "scanproof tests that raised"
"""Likewise: kernel test -> the error that it raised."""
KERNEL_TESTS = "scanproof kernel tests"
"""Likewise: ids of the kernel tests."""
OUTCOMES = ("passed", "failed", "skipped")


@dataclass(frozen=True)
class Unkept:
    """Why a session is not green although nothing that pytest counts says so."""

    promise: str
    """What does not hold, in a few words: the name of a test case of its own in a JUnit file."""
    because: str
    nodeids: frozenset[str] = frozenset()
    """Ids of the tests that it is about."""
    told: bool = False
    """The summary says it anyway."""


class StrictSelection:
    """Sees in the process that collects which tests are gone that nobody reported as deselected.

    It also sees which are kernel tests, and which of them raised: their reports may say otherwise.

    Each test counts from the moment at which pytest makes it: hooks that come later may hide it from one another.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.session: pytest.Session | None = None
        """The session that collects; None before it begins."""
        self.collected: list[tuple[pytest.Item, str]] = []
        """Tests with their ids at first: pytest-xdist adds the group to the id of a test (`--dist loadgroup`)."""
        self.deselected: list[pytest.Item] = []
        self.files: set[str] = set()
        """Files of tests of which nothing has been collected yet, by node id."""
        self.broken: set[str] = set()
        """Files that could not be collected and are not reported so."""
        self.raised: dict[str, str] = {}
        """Kernel test that raised an error -> which; its report may say otherwise."""
        self.lost: list[str] = []
        """Ids of the tests that are gone."""
        self.kernel_tests: list[str] = []
        """Ids of the kernel tests that were selected."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.collected.append((item, item.nodeid))

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        self.deselected += items

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Innermost, so that no other plugin has changed the report."""
        report = yield
        self.files.discard(report.nodeid)
        if report.failed:
            self.broken.add(report.nodeid)
        if isinstance(collector, pytest.Module) and report.passed:
            made = {getattr(node, "originalname", node.name) for node in report.result}
            # Not by asking for it: that would import a file that --lf passes over.
            functions = vars(vars(collector).get("_obj", None) or object)
            self.lost += [
                f"{report.nodeid}::{name}"
                for name, function in functions.items()
                if isinstance(function, FunctionType)
                and collector.funcnamefilter(name)
                and getattr(function, "__test__", True)
                and name not in made
            ]
        return report

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collect_file(self, file_path: Path) -> Generator[None, list[Any], list[Any]]:
        collectors = yield
        if self.is_asked_for(file_path):
            self.files.update(node.nodeid for node in collectors if isinstance(node, pytest.Module))
        return collectors

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.discard(report.nodeid)
        elif report.skipped:
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.lost.append(f"{report.nodeid} ({reason})")

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """What the report says, and which properties it has, others may change."""
        if (name := kernel_evidence.find_error(item, call)) is not None:
            self.raised[item.nodeid] = name
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> Generator[None, bool | None, bool | None]:
        """Tests that are passed over have to be named in the call: nobody sees it otherwise."""
        ignored = yield
        if (
            ignored
            and self.is_asked_for(collection_path)
            and not self.is_named(collection_path)
            and self.has_tests(collection_path)
        ):
            self.lost.append(str(collection_path))
        return ignored

    def is_asked_for(self, path: Path) -> bool:
        """Whether a path is one that the call names, or in a folder that it names; pytest looks beside it as well.

        pytest itself says which these are: a call may name them with `..`, or as a package.
        """
        return self.session is None or any(self.session.isinitpath(place) for place in (path, *path.parents))

    def is_named(self, path: Path) -> bool:
        """Whether an option, or the kind of a folder, says that nothing is collected there.

        The options are those of the call: see `typed_selection`.
        """
        places, patterns = self.list_ignored("ignore"), self.list_ignored("ignore_glob")
        named = any(path.is_relative_to(each) for each in places) or any(fnmatch(str(path), each) for each in patterns)
        folders = path.is_dir() and any(fnmatch(path.name, each) for each in self.config.getini("norecursedirs"))
        environment = (path / "pyvenv.cfg").exists() or (path / "conda-meta").exists()
        return named or folders or environment or path.name == "__pycache__"

    def list_ignored(self, option: str) -> list[str]:
        """What an option says to ignore, without `..`, as pytest compares it with what it meets."""
        here = self.config.invocation_params.dir
        return [os.path.abspath(here / given) for given in self.config.getoption(option) or ()]  # noqa: PTH100

    def has_tests(self, path: Path) -> bool:
        """Whether pytest would look for tests in a file, or in one of a folder, by their names."""
        inside = [path] if path.is_file() else path.rglob("*.py")
        return any(each.match(pattern) for each in inside for pattern in self.config.getini("python_files"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None]:
        """Compare what pytest collected with what the plugins leave; a worker of pytest-xdist hands on what it sees."""
        yield
        self.lost += sorted(self.broken | self.files)
        known = [*session.items, *self.deselected]
        here, ids = {id(item) for item in known}, {item.nodeid for item in known}
        self.lost += sorted({nodeid for item, nodeid in self.collected if id(item) not in here} - ids)
        self.collected.clear()
        self.deselected.clear()
        self.kernel_tests += [item.nodeid for item in session.items if kernel_evidence.is_kernel_test(item)]
        if hasattr(self.config, "workeroutput"):
            # pytest-xdist sends it when the worker ends: with what is added until then.
            self.config.workeroutput.update(self.list_seen())

    def list_seen(self) -> dict[str, Any]:
        """What `StrictSession.take_seen` takes in; the values grow until the session ends."""
        return {LOST: self.lost, RAISED: self.raised, KERNEL_TESTS: self.kernel_tests}


class StrictSession:
    """Watches the reports of a session in the process that decides whether it is green."""

    def __init__(self, *, by_worker: bool = False) -> None:
        self.began = False
        """Whether it came to its tests."""
        self.waiting: set[str] = set()
        """Ids of the tests that were to run and of which nothing has been reported."""
        self.not_allowed: dict[str, str] = {}
        """Kernel test that was skipped or expected to fail without the plugin's leave -> the reason that was given."""
        self.unearned: dict[str, str] = {}
        """Kernel test that was reported as passed -> why it is no pass."""
        self.by_worker = by_worker
        """Whether every worker of pytest-xdist runs every test (`--dist each`)."""
        self.times: Counter[str] = Counter()
        """Id of a test -> how often it was selected: with `--keep-duplicates` as often as the call names it."""
        self.calls: Counter[tuple[str, object]] = Counter()
        """Id of a test and where it ran, where that is another test -> how often it was called."""
        self.repeated: set[str] = set()
        """Ids of the tests that were run again."""
        self.lost: set[str] = set()
        """Ids of the tests that were collected and are neither run nor deselected."""
        self.changed: set[str] = set()
        """Names of scanproof that were not what its source says."""
        self.raised: dict[str, str] = {}
        """Kernel test that raised an error -> which, whatever its reports say."""
        self.kernel_tests: set[str] = set()
        """Ids of the kernel tests, whatever their reports say."""
        self.unmarked: set[str] = set()
        """Ids of the tests of which a report that is no failure does not say that they are kernel tests."""
        self.not_passed: set[str] = set()
        """Ids of the tests of which a report says that they did not pass."""
        self.heard: set[str] = set()
        """Workers of pytest-xdist that have reported of tests."""
        self.dead: dict[str, str] = {}
        """Worker of pytest-xdist that ended before it said what it had seen -> how it ended."""
        self.proved = False
        """Whether a test passed, or missed as is known."""

    def begin(self, nodeids: Iterable[str]) -> None:
        """Called with the tests that are to run."""
        self.began = True
        # Not the sum: each worker of pytest-xdist says all of them.
        self.times |= Counter(nodeids)
        self.waiting.update(self.times)

    def see(self, report: pytest.TestReport) -> None:
        """Take in one report."""
        nodeid = report.nodeid
        self.heard.add(getattr(report, "worker_id", ""))
        if not is_of_subtest(report):
            # The report of its test follows one of a part, and counts.
            self.count(report)
        if report.outcome not in OUTCOMES:
            self.repeated.add(nodeid)
        self.changed.update(str(value) for name, value in report.user_properties if name == own_source.CHANGED)
        if kernel_evidence.is_not_allowed(report):
            self.not_allowed[nodeid] = why_skipped(report)
        if not report.failed and not is_of_subtest(report) and not kernel_evidence.is_noted(report):
            self.unmarked.add(nodeid)

    def take_seen(self, seen: Mapping[str, Any]) -> None:
        """Take in what was seen in a process that runs tests, apart from reports."""
        self.lost.update(seen.get(LOST, ()))
        self.raised.update(seen.get(RAISED, {}))
        self.kernel_tests.update(seen.get(KERNEL_TESTS, ()))
        self.changed.update(seen.get(own_source.CHANGED, ()))

    def count(self, report: pytest.TestReport) -> None:
        """Count the report of a whole test."""
        nodeid = report.nodeid
        if not report.passed:
            self.not_passed.add(nodeid)
        if report.when == "call" or not report.passed:
            # Not by its setup alone: with --setup-plan nothing is called.
            self.waiting.discard(nodeid)
        if report.when == "call":
            called = nodeid, getattr(report, "node", None) if self.by_worker else None
            self.calls[called] += 1
            if self.calls[called] > max(1, self.times[nodeid]):
                self.repeated.add(nodeid)
            self.proved |= report.passed or hasattr(report, "wasxfail")
        if (why := kernel_evidence.explain_unearned_pass(report)) is not None:
            self.unearned.setdefault(nodeid, why)

    def list_unkept(self) -> Iterator[Unkept]:
        """What is not kept of the promises of a strict session, whatever its exit code says."""
        if not self.began:
            yield Unkept("every selected test runs", f"it did not come to its tests: {LEFT_OUT}")
        elif self.waiting:
            count = len(self.waiting)
            what = f"{count} selected tests did not run, and nothing failed: {min(self.waiting)}; {LEFT_OUT}"
            yield Unkept("every selected test runs", what, frozenset(self.waiting))
        elif not self.proved:
            yield Unkept("something is proved", "no test passed: nothing was proved")
        if self.lost:
            what = f"{len(self.lost)} tests were collected and are gone: {min(self.lost)}"
            remedy = "a plugin or a conftest.py that leaves tests out has to call pytest_deselected"
            yield Unkept("no test is taken away", f"{what}; {remedy}", frozenset(self.lost))
        if self.not_allowed:
            first = min(self.not_allowed)
            what = f"{len(self.not_allowed)} kernel tests were skipped or expected to fail by others"
            because = f"{what}: {first}: {self.not_allowed[first]}; {REMEDY}"
            yield Unkept("no kernel test is skipped by others", because, frozenset(self.not_allowed))
        for nodeid in self.raised.keys() - self.not_passed:
            self.unearned.setdefault(nodeid, f"it raised {self.raised[nodeid]}")
        if unmarked := self.unmarked & self.kernel_tests - self.unearned.keys():
            what = f"{len(unmarked)} kernel tests have a report that lost what scanproof noted with it: {min(unmarked)}"
            because = f"{what}; remove what clears report.user_properties from plugins and conftest.py"
            yield Unkept("a report keeps what scanproof noted", because, frozenset(unmarked))
        if self.unearned:
            first = min(self.unearned)
            what = f"{len(self.unearned)} kernel tests are reported as passed and are not"
            yield Unkept("a pass is a pass", f"{what}: {first}: {self.unearned[first]}", frozenset(self.unearned))
        if self.changed:
            names = ", ".join(sorted(self.changed)[:SHOWN])
            what = f"{len(self.changed)} names of scanproof are not what its source says: {names}"
            because = f"{what}; a plugin or a conftest.py set them, or their file was changed while the session ran"
            yield Unkept("scanproof is what its source says", because)
        if dead := self.dead.keys() & self.heard:
            what = f"{len(dead)} workers of pytest-xdist ended before they said what they had seen"
            because = f"{what}: {min(dead)}: {self.dead[min(dead)]}; run again, with -n 0 if it ends so again"
            yield Unkept("every process says what it saw", because)
        if self.repeated:
            what = (
                f"{len(self.repeated)} tests were run again until they passed, or may have been: {min(self.repeated)}"
            )
            because = f"{what}; a result that changes from call to call is a fault"
            yield Unkept("no test is run again", because, frozenset(self.repeated))


def is_of_subtest(report: pytest.TestReport) -> bool:
    """Whether a report is of a part of a test: of pytest's `subtests` or unittest's `subTest`.

    Before pytest 9 it is pytest-subtests that makes them, of a class of its own.
    """
    return type(report).__name__ in ("SubtestReport", "SubTestReport")


def why_skipped(report: pytest.TestReport) -> str:
    """Reason of a skip or of an expected failure, as pytest says it."""
    expected_failure = getattr(report, "wasxfail", None)
    if expected_failure is not None:
        return f"an expected failure: {expected_failure or 'without a reason'}"
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
    return str(reason).removeprefix("Skipped: ")

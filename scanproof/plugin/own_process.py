"""Runs tests in a process of their own, and reports them in the session as if they had run in it.

This is for a test that may break its process, as an illegal address does with CUDA, and for a test that needs a fresh
process.  A process that has used CUDA cannot be forked, so the new process is a new Python: it collects the same tests
and reports what becomes of them (`scanproof.plugin.own_process_child`).  A test marked with `own_process` has a process
for itself; all tests marked with `own_process("name")` share one, in the session's order.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from scanproof.plugin import own_source, strict_session
from scanproof.plugin.own_process_child import ChildRequest, Event, address
from scanproof.plugin.own_process_running import Running
from scanproof.plugin.session import Session

MARK = "own_process"


def group(item: pytest.Item) -> str | None:
    """Tests of the same group share a process; None: it runs in the session's."""
    mark = item.get_closest_marker(MARK)
    if mark is None:
        return None
    return f"group {mark.args[0]}" if mark.args else item.nodeid


class OwnProcesses:
    """The part of the plugin that runs marked tests; lives in every process that runs tests, but not in a test's own.

    One process of a test's own is alive at a time, and none while a test of the session's own process runs.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self.running: dict[str, Running] = {}
        """Group -> its process, the last one where it needed several."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tests that have a process for themselves may break the device: they come last."""
        items.sort(key=lambda item: group(item) == item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        """Run a marked test in a process of its own; all others are left to pytest."""
        name = group(item)
        if name is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            for report in self.reports(item, name):
                item.ihook.pytest_runtest_logreport(report=report)
            if nextitem is None or group(nextitem) != name:
                self.running[name].wait()
        except BaseException:
            # Ctrl-C: the process does not outlive the session.
            self.close()
            raise
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # What the test before left for this one may not be needed by the next one.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def reports(self, item: pytest.Item, name: str) -> Iterator[pytest.TestReport]:
        """What the test's process tells of it; where that ended too early, last a report that says how."""
        running = self.running.get(name)
        if running is None or not running.awaits(item.nodeid):
            if running is not None:
                running.close()
            running = self.running[name] = self.start(item, name)
        for event in running.events(item.nodeid):
            if event.kind == "warning":
                self.show_warning(event)
            elif event.kind in ("raised", "changed"):
                self.keep_seen(event, item)
            else:
                yield self.report(event, item)
        ended = running.why_ended_early(item.nodeid)
        if ended is not None:
            yield pytest.TestReport(
                item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", ended, "teardown"
            )

    def start(self, item: pytest.Item, name: str) -> Running:
        """A process for this test and those of its group that follow; on a worker of pytest-xdist for this one only."""
        items = item.session.items
        # An xdist worker does not know which of the tests will be given to it.
        following = [item] if self.session.is_under_xdist else items[items.index(item) :]
        chosen = {each.nodeid: address(each) for each in following if group(each) == name}
        release_gpu_memory()
        request = ChildRequest(
            addresses=tuple(chosen.values()),
            run=self.session.run_id,
            under_xdist=self.session.is_under_xdist,
            basetemp=self.config.option.basetemp,
        )
        return Running.start(self.config.invocation_params, request, tuple(chosen))

    def report(self, event: Event, item: pytest.Item) -> pytest.TestReport:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=event.data)
        assert isinstance(report, pytest.TestReport)
        # pytest-xdist may have added the name of a group to it.
        report.nodeid = item.nodeid
        return report

    def keep_seen(self, event: Event, item: pytest.Item) -> None:
        """Keep what was seen in the test's process apart from its reports, as if it had been seen in this one."""
        plugins = self.config.pluginmanager
        selection, watch = plugins.getplugin(strict_session.SELECTION), plugins.getplugin(own_source.WATCH)
        if event.kind == "raised" and selection is not None:
            selection.raised[item.nodeid] = event.data["name"]
        elif event.kind == "changed" and watch is not None:
            watch.keep(self.config, event.data["names"])

    def show_warning(self, event: Event) -> None:
        """In the session's summary, as one of its own; an error it would have been where it was raised."""
        data = event.data
        message = warnings.WarningMessage(UserWarning(data["text"]), UserWarning, data["filename"], data["lineno"])
        self.config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message, "when": data["when"], "nodeid": data["nodeid"], "location": data["location"]
            }
        )  # fmt: skip

    def pytest_sessionfinish(self) -> None:
        """Called also after `-x`, when tests of a group were not reached."""
        self.close()

    def close(self) -> None:
        """End what still runs."""
        for running in self.running.values():
            running.close()


def release_gpu_memory() -> None:
    """Give back what PyTorch keeps for later calls of this process: the other one needs it."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    gc.collect()
    # A device that an earlier test broke answers with an error; the other process has a context of its own.
    with suppress(RuntimeError):
        torch.cuda.empty_cache()

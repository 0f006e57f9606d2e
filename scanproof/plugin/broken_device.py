"""After a test that broke the GPU for its process, the later GPU tests of that process end with that one reason.

CUDA keeps some errors, an illegal address above all, until the process ends: whatever comes next fails with the same
error and says nothing about itself.  Other processes have a context of their own and go on.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from traceback import walk_tb
from typing import Any

import pytest

from scanproof.plugin import own_process
from scanproof.plugin.kernel_evidence import KnownMiss

EVALUATED_ELSEWHERE = "scanproof_evaluation"
"""A test with this fixture asks for an evaluation, which has a process of its own."""


FRAMEWORKS = frozenset({"torch", "triton", "scanproof"})
"""Packages that call a kernel or wait for it, and do not hold it."""


class BrokenDevice:
    """The part of the plugin that asks the GPU after each of its tests whether it still answers."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why no later test of this process can use the GPU; None while it can."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.reason is not None and uses_gpu(item):
            raise Unusable

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Kernels run behind the program: an error that nobody waited for is still this test's."""
        result = yield
        torch = used_torch()
        if self.reason is None and torch is not None and uses_gpu(item):
            torch.cuda.synchronize()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.excinfo is None:
            return report
        if isinstance(call.excinfo.value, Unusable):
            report.longrepr = self.reason
        elif self.reason is None and is_broken(call.excinfo.value):
            self.reason = (
                f"not measured: {item.nodeid} broke the GPU for this process: {first_line(call.excinfo.value)}"
            )
        else:
            return report
        if isinstance(call.excinfo.value, KnownMiss) and item.get_closest_marker(own_process.MARK):
            # scanproof knows of it, and no test of another process shares the GPU's error.
            return report
        # Neither a mark for what is expected to fail nor a skip of the test's own hides it.
        if isinstance(report.longrepr, tuple):
            report.longrepr = self.reason
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)
        return report


class Unusable(Exception):
    """A test that was not run: an earlier one broke the GPU for this process."""


def uses_gpu(item: pytest.Item) -> bool:
    """Whether a test needs the GPU in this process."""
    return item.get_closest_marker("gpu") is not None and EVALUATED_ELSEWHERE not in getattr(item, "fixturenames", ())


def used_torch() -> Any:
    """PyTorch, if this process has used a GPU with it; None otherwise."""
    torch: Any = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def is_broken(error: BaseException) -> bool:
    """Whether the GPU is of no more use to this process: it is asked after any error, if it was in use."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not (used_torch() or any(map(is_cuda_error, chain(error)))):
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def is_cuda_error(error: BaseException) -> bool:
    """One of CUDA's own, which before torch 2.8 was a RuntimeError like others."""
    return type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error")


def describe_cuda_error(error: BaseException) -> str:
    """First line of one of CUDA's own errors, and the call of a kernel package in which it came up."""
    modules = ((frame.f_globals.get("__name__", ""), frame, line) for frame, line in walk_tb(error.__traceback__))
    called = [
        f"{frame.f_code.co_name} ({module.replace('.', '/')}.py:{line})"
        for module, frame, line in modules
        if module.partition(".")[0] not in FRAMEWORKS
    ]
    where = f"in {called[-1]}" if called else "after the operation had returned"
    return f"{first_line(error)}, seen {where}; with CUDA_LAUNCH_BLOCKING=1 it is seen at the kernel that caused it"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """Of the first of CUDA's own errors in the chain, else of the error."""
    cause = next((each for each in chain(error) if is_cuda_error(each)), error)
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)

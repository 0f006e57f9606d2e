"""Small projects with latencies: one that measures the suite's own cases on this CPU, one whose numbers are given."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from scanproof.record import Run, read_run
from tests.support.pytester_project import PytesterProject

KERNELS = Path(__file__).parents[1] / "kernels"
CASE = "rms_norm_fn-small-float32-forward"
"""The case that is measured."""

CONFTEST = """
import pytest
"""

CHANGED = """
@pytest.fixture
def scanproof_timed_kernels(scanproof_place):
    from scanproof.plugin.kernel_fixtures import Kernels
    from scanproof.kernels.latency.timed_calls import pytorch_form

    def changed(op):
        call = pytorch_form(op)
        def wrapper(**arguments):
            CHANGE
        return wrapper
    return Kernels("cpu", "cpu", changed)
"""

TOLD = """
class Clock:
    # Stands still but where it is read and where an operation says how long it took.
    seconds = 0.0

@pytest.fixture(scope="session")
def scanproof_timers():
    import math
    from scanproof.kernels.latency.timing import CpuInstant, CpuTimer

    class Told(CpuTimer):
        def read(self):
            Clock.seconds += 1e-6
            return CpuInstant(Clock.seconds, self)

    return {"cpu": Told(resolution=0.0, warmup=(0.0, math.inf))}
"""

TRITON = {
    "triton/runtime/jit.py": "class JITFunction:\n    def run(self, *args, **kwargs): pass\n",
    "triton/runtime/interpreter.py": "class InterpretedFunction:\n    def run(self, *args, **kwargs): pass\n",
    "triton/runtime/autotuner.py": """
class Config:
    def __init__(self, warps): self.warps = warps
    def all_kwargs(self): return {"num_warps": self.warps}

class Autotuner:
    '''Chooses by the size of the first call that it meets, for all: its key holds none.'''
    def __init__(self, fn):
        self.base_fn, self.cache, self.cache_results = fn, {}, True
    def run(self, size, log):
        if not self.cache:
            self.cache["float32",] = Config(4 if size < 64 else 8)
        log(size, self.cache["float32",].warps, self.cache_results)
""",
}
"""A made-up triton, for what needs a GPU: an autotuner that writes down what it is launched with."""

TUNED = """
@pytest.fixture
def scanproof_timed_kernels(scanproof_place):
    from scanproof.plugin.kernel_fixtures import Kernels
    from scanproof.kernels.latency.timed_calls import pytorch_form
    from triton.runtime.autotuner import Autotuner

    def log(*seen):
        with open("launched.txt", "a") as file:
            print(*seen, file=file)

    def tuned(op):
        call = pytorch_form(op)
        def wrapper(**arguments):
            TUNER.run(arguments["u"].shape[-1], log)
            return call(**arguments)
        return wrapper

    def scan_kernel(): pass

    global TUNER
    TUNER = globals().get("TUNER") or Autotuner(scan_kernel)
    return Kernels("cpu", "cpu", tuned)
"""

GIVEN = """
import pytest
from scanproof.report import latency_text as latency_tables
from scanproof.kernels.latency.latency_verdict import Clock, DeviceLimits, Latency, Timing
from scanproof.kernels.launches.launched import AutotunerChoice

MEDIANS = {medians}
LOUD, WAITED = {loud}, {waited}

@pytest.mark.latency
@pytest.mark.parametrize("case", MEDIANS)
def test_given(case, request, scanproof_repeat, scanproof_latency):
    loud = LOUD.get((case, scanproof_repeat), 1)
    median = MEDIANS[case] * (1 + 0.0005 * scanproof_repeat) * loud
    timing = Timing(
        median=median, q1=median, q3=median, rounds=50, calls=1, noise=0.001, stopped="noise", warmup_rounds=3,
        waited=WAITED.get((case, scanproof_repeat), 0),
    )
    found = scanproof_latency(Latency(
        id=case, nodeid=request.node.nodeid, op="op", direction="forward", kind={kind!r}, device="NVIDIA H200",
        sizes={{"b": 1}}, dtype="bfloat16", repeat=scanproof_repeat, timing=timing, bytes=10**9, flop=1e9,
        rate="bfloat16", limits=DeviceLimits(bytes_per_s=4e12, flop_per_s={{"bfloat16": 7e14}}),
        clock=Clock(lowest_mhz=1980.0, highest_mhz=1980.0),
        choices=(AutotunerChoice(kernel="scan_kernel", key=("256",), config={{"num_warps": {warps}}}),),
    ))
    if found.outcome == "SLOWER":
        pytest.fail(latency_tables.failure_text(found), pytrace=False)
"""


class LatencyProject(PytesterProject):
    """A pytester folder with latencies."""

    def taking(self, seconds: float) -> None:
        """The suite's own test and cases, timed by a clock for which every call takes so long, on any machine."""
        self.measuring(change=f"Clock.seconds += {seconds}; return call(**arguments)")
        path = self.root / "conftest.py"
        path.write_text(path.read_text() + TOLD)

    def measuring(self, change: str = "") -> None:
        """The suite's own test and cases; `change` replaces the body of every operation."""
        shutil.copy(KERNELS / "test_latency.py", self.root)
        self.pytester.makeconftest(CONFTEST + (CHANGED.replace("CHANGE", change) if change else ""))

    def tuned(self) -> None:
        """The suite's own test and cases, through an operation whose kernel has an autotuner."""
        self.measuring()
        self.pytester.makeconftest(CONFTEST + TUNED)
        for name, content in TRITON.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(content)
        (self.root / "triton" / "__init__.py").touch()

    def given(
        self,
        kind: str = "cuda",
        warps: str = "4",
        loud: Mapping[tuple[str, int], float] = MappingProxyType({}),
        waited: Mapping[tuple[str, int], int] = MappingProxyType({}),
        **medians: float,
    ) -> None:
        """Latencies that somebody else measured, seconds by case.

        Args:
            warps: what the autotuner chose, in Python.
            loud: case and repeat -> how many times as long that repeat takes.
            waited: case and repeat -> in how many of its 50 rounds the device may have waited for the host.
        """
        text = GIVEN.format(medians=medians, kind=kind, warps=warps, loud=dict(loud), waited=dict(waited))
        (self.root / "test_given.py").write_text(text)

    def measure(self, *arguments: str, case: str = "rms_norm_fn-small-float32-forward") -> pytest.RunResult:
        """Measure one of the CPU's cases, briefly."""
        return self.run("-k", case, "--benchmark-max-time=0.02", *arguments)

    def latencies(self) -> list[dict[str, Any]]:
        """What the newest run holds."""
        found: list[dict[str, Any]] = json.loads(self.newest_file.read_text())["latencies"]
        return found

    def newest(self) -> Run:
        """The newest run."""
        return read_run(self.newest_file)

    def baseline(self, path: str = ".scanproof/latency/cpu.json") -> Any:
        """A file of baselines."""
        return json.loads((self.root / path).read_text())


@pytest.fixture
def latency_project(pytester: pytest.Pytester, forked_passes: None, monkeypatch: pytest.MonkeyPatch) -> LatencyProject:
    """An empty project; what it runs is in no xdist worker, also when this test is."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = --strict-markers\n")
    return LatencyProject(pytester)


def cpu_baseline(project: LatencyProject, *seconds: float) -> None:
    """A baseline of this CPU, as `--scanproof-record-latency` leaves it."""
    content = {
        "device": {"kind": "cpu", "name": platform.processor() or platform.machine()},
        "recorded": "2026-11-21T09:00:00+00:00",
        "command": "pytest",
        "packages": {"torch": "2.13.0"},
        "limits": {"bytes_per_s": 1e10, "flop_per_s": {"float32": 1e11}},
        "cases": {CASE: {"seconds": seconds}},
    }
    path = project.root / ".scanproof" / "latency" / "cpu.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))

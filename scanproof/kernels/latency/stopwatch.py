"""One operation of one latency case, ready to be timed."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from scanproof.kernels import costs, device
from scanproof.kernels.latency import clocks, roofline, timed_calls, timing
from scanproof.kernels.latency.latency_cases import LatencyCase
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.kernels.operation import Op

MEMORY_FACTOR = 4
"""Free GPU memory that a call needs, in units of the bytes that its forward and backward pass must move: inputs are
drawn in float32, and an operation has intermediate results of its own."""
SHARE_OF_FREE_MEMORY = 4
"""Inputs of all calls of a round take at most this part of the free memory."""


class NotMeasured(Exception):
    """pytest-benchmark is disabled: the call ran once, untimed."""


@dataclass(frozen=True)
class Stopwatch:
    """One operation of one case, whose results are right, ready to be timed."""

    timed: LatencyCase
    op: Op
    call: Callable[..., Any]
    kind: str
    """Kind of device: `cuda` or `cpu`."""
    timer: timing.Timer
    choices: tuple[AutotunerChoice, ...]
    """What the autotuners of its kernels chose at the size that is timed."""
    provider: str = ""
    """Title of the provider that is timed; empty: the installed package, or on a CPU the PyTorch form."""

    @property
    def id(self) -> str:
        return f"{self.timed.id}-{self.provider}" if self.provider else self.timed.id

    def result(self, nodeid: str, repeat: int, **measured: Any) -> Latency:
        """The latency of this case, with what was measured of it."""
        case = self.timed.case
        work = (costs.backward_cost if self.timed.direction == "backward" else costs.forward_cost)(self.op, case)
        return Latency(
            id=self.id,
            nodeid=nodeid,
            op=self.op.name,
            direction=self.timed.direction,
            kind=self.kind,
            device=device_name(self.kind),
            sizes=dict(case.sizes),
            dtype=case.dtype,
            provider=self.provider,
            repeat=repeat,
            bytes=work.bytes,
            flop=work.flop,
            rate=roofline.bounding_rate(self.op, case, self.kind),
            choices=self.choices,
            **measured,
        )

    def measure(self, benchmark: Any, seconds: float, rounds: int) -> dict[str, Any]:
        """Timing and clock, as fields of a Latency; raises NotMeasured.

        Args:
            benchmark: the fixture of pytest-benchmark.
            seconds: most time that the rounds may take.
            rounds: fewest rounds.
        """
        work = timing.TimedCalls(calls_of(self.timed, self.op, self.call, self.kind))
        if benchmark.disabled:
            work.resize(1)
            benchmark.pedantic(work)
            raise NotMeasured
        moved = costs.forward_cost(self.op, self.timed.case).bytes
        warmup = timing.make_ready(work, self.timer, moved, memory_for_inputs(self.kind))
        rule = timing.StopRule(seconds=seconds, rounds=max(timing.StopRule.rounds, rounds))
        reader = clocks.make_reader(self.kind)
        measured = timing.measure(benchmark, work, self.timer, rule, warmup, reader)
        return {"timing": measured, "clock": timing.summarize_clock(reader), "clock_unread": reader.why_not}


def calls_of(timed: LatencyCase, op: Op, call: Callable[..., Any], kind: str) -> timed_calls.MakeCall:
    """Makes calls of a case in its direction."""
    make = timed_calls.prepare_backward if timed.direction == "backward" else timed_calls.prepare_forward
    return make(op, timed.case, call, kind)


def device_name(kind: str) -> str:
    """Name of the GPU or the processor."""
    if kind == "cpu":
        return platform.processor() or platform.machine()
    return str(torch.cuda.get_device_name())


def memory_for_inputs(kind: str) -> int:
    """Bytes that the inputs of all calls of a round may take."""
    return 2**28 if kind == "cpu" else device.free_bytes() // SHARE_OF_FREE_MEMORY


def why_no_memory(timed: LatencyCase, op: Op) -> tuple[str, bool] | None:
    """Why the memory of the GPU is not enough for a case, and whether it never is; None when it is enough."""
    moved = costs.forward_cost(op, timed.case).bytes
    moved += costs.backward_cost(op, timed.case).bytes if timed.direction == "backward" else 0
    needed = MEMORY_FACTOR * moved
    if (lack := device.why_no_memory(needed)) is None:
        return None
    because, never = lack
    return (
        f"{timed.id} needs about {needed / 2**30:.1f} GiB of GPU memory ({MEMORY_FACTOR} times the "
        f"{moved / 2**30:.1f} GiB that it moves), {because}"
    ), never

"""Three ways to go on with Mamba-1's selective scan from a state, where the kernel begins at zero: error and time.

    python benchmarks/scan_forms.py

The kernel's place is taken by the operation's reference, with the kernel's manners: its inputs and its y have the
dtype of the row, it computes in float32.  On a GPU (--device cuda) the installed kernels themselves are used.  Errors
are the worst of y and of the last state, in units of the largest number of each, against float64; times are the median
of some calls, and stand beside the time of the operation's own call, which forgets the state.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scanproof.models.mamba_in_llama.operations import operations
from scanproof.scoring import scans

ROWS, CHANNELS, STATES = 4, 256, 16
LENGTHS = (1, 16, 128, 512)
DTYPES = ("float32", "bfloat16")
Scan = Callable[..., tuple[Tensor, Tensor]]


def arguments(length: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Arguments of `scans.scan_with_reference` as in a trained model: steps near 0.01, A from -1 to -16."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    u, z = normal(ROWS, CHANNELS, length), normal(ROWS, CHANNELS, length)
    delta, bias = normal(ROWS, CHANNELS, length), normal(CHANNELS) - 4.5
    B, C = normal(ROWS, STATES, length), normal(ROWS, STATES, length)
    A = -torch.arange(1, STATES + 1, dtype=torch.float64).repeat(CHANNELS, 1)
    before = normal(ROWS, CHANNELS, STATES)
    narrow, wide = (u, delta, B, C, z), (A, normal(CHANNELS), bias, before)
    u, delta, B, C, z = (part.to(device, dtype) for part in narrow)
    A, D, bias, before = (part.to(device, torch.float32) for part in wide)
    return [u, delta, A, B, C, D, z, bias, before]


def loaded(kernel: Callable[..., Any]) -> Scan:
    """STATES leading steps put the state in: step k has size 1 under A = 0 and writes the k-th number of each channel.

    A kernel has one A for all positions, so what a leading step writes decays in those that follow it; the inputs are
    multiplied by what is lost.
    """

    def scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        count = A.shape[1]
        small = torch.full((count,), 1e-3, dtype=A.dtype, device=A.device)
        # Number k is written in step k; count - 1 - k steps of the same size follow.
        left = torch.exp(-A * 1e-3 * torch.arange(count - 1, -1, -1, device=A.device))
        inputs = before * left / small
        steps = (torch.log(torch.expm1(small)) - bias[:, None]).expand(len(u), -1, -1)
        chosen = torch.eye(count, dtype=B.dtype, device=B.device).expand(len(u), -1, -1)
        joined = [
            torch.cat([first.to(part.dtype), part], dim=-1)
            for first, part in ((inputs, u), (steps, delta), (chosen, B), (torch.zeros_like(chosen), C))
        ]
        gate = torch.cat([z.new_zeros(*z.shape[:2], count), z], dim=-1)
        y, last = kernel(
            joined[0], joined[1].contiguous(), A, joined[2].contiguous(), joined[3].contiguous(), D, z=gate,
            delta_bias=bias, delta_softplus=True, return_last_state=True,
        )  # fmt: skip
        return y[..., count:], last

    return scan


def stepped(update: Callable[..., Any]) -> Scan:
    """Token by token with the decode kernel."""

    def scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        state = before.clone()
        outputs = [
            update(state, u[..., t], delta[..., t], A, B[..., t], C[..., t], D, z[..., t], bias, dt_softplus=True)
            for t in range(u.shape[-1])
        ]
        return torch.stack(outputs, dim=-1), state

    return scan


def forgetting(kernel: Callable[..., Any], *given: Tensor) -> Any:
    """The operation by itself."""
    u, delta, A, B, C, D, z, bias, _ = given
    return kernel(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True)


def error(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """See the module."""
    return max(
        float((one.double() - other).abs().max() / other.abs().max()) for one, other in zip(got, wanted, strict=True)
    )


def seconds(call: Callable[[], Any], device: str, calls: int = 7) -> float:
    """Median, after one call that is not counted."""
    taken = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    ops = operations(torch.device(device))
    ways: dict[str, Scan] = {
        "superposition": scans.add_first_state(ops.selective_scan_fn),
        "leading steps": loaded(ops.selective_scan_fn),
        "token by token": stepped(ops.selective_state_update),
    }
    table = Table(title=f"{ROWS} rows, {CHANNELS} channels, {STATES} states, {device}, torch {torch.__version__}")
    for heading in ("dtype", "length", "way", "worst error", "ms", "x the scan alone"):
        table.add_column(heading, justify="left" if heading in ("dtype", "way") else "right")
    for dtype in DTYPES:
        for length in LENGTHS:
            given = arguments(length, getattr(torch, dtype), device)
            wanted = scans.scan_with_reference(*(part.double() for part in given))
            alone = seconds(partial(forgetting, ops.selective_scan_fn, *given), device)
            for name, way in ways.items():
                took = seconds(partial(way, *given), device)
                found = error(way(*given), wanted)
                table.add_row(dtype, str(length), name, f"{found:.1e}", f"{1e3 * took:.2f}", f"{took / alone:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

"""From a latency case to calls that are ready to run: everything but the operation's own work is done before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from scanproof.kernels import compare
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.inputs import axes_of, lay_out
from scanproof.kernels.operation import Op

Call = Callable[..., Any]
MakeCall = Callable[[int], Callable[[], object]]
"""From a seed to a call."""


def prepare_forward(op: Op, case: KernelCase, call: Call, device: str) -> MakeCall:
    """Calls of the operation, without autograd."""

    def make(seed: int) -> Callable[[], object]:
        given = compare.draw_inputs(op, _seeded(case, seed), device)

        def once() -> object:
            with torch.no_grad():
                return call(**given)

        return once

    return make


def prepare_backward(op: Op, case: KernelCase, call: Call, device: str) -> MakeCall:
    """Backward passes of the operation; the forward pass ran before."""

    def make(seed: int) -> Callable[[], object]:
        given = compare.draw_inputs(op, _seeded(case, seed), device)
        names = [each.name for each in op.arguments if each.differentiable and given.get(each.name) is not None]
        leaves = {name: given[name].detach().requires_grad_() for name in names}
        results = compare.return_tuples(call)(**{**given, **leaves})
        expected = op.expected_outputs(case)
        asked = [(each, value) for each, value in zip(expected, results, strict=True) if each.differentiable]
        outputs = [value for _, value in asked]
        cotangents = [
            lay_out(torch.randn_like(value), axes_of(each, case), case.layouts.get(each.name)) for each, value in asked
        ]
        wanted = list(leaves.values())
        return lambda: torch.autograd.grad(outputs, wanted, cotangents, retain_graph=True)

    return make


def _seeded(case: KernelCase, seed: int) -> KernelCase:
    return replace(case, seed=case.seed + seed)


def pytorch_form(op: Op) -> Call:
    """The operation in plain PyTorch, called as the operation is: what it changes, it changes in place."""

    def call(**arguments: Any) -> Any:
        results = op.reference(**arguments)
        kept = len(results) - len(op.changes)
        for name, value in zip(op.changes, results[kept:], strict=True):
            arguments[name].copy_(value)
        return results[:kept]

    return call

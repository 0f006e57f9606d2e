"""Prepares the calls of a latency case, so that only the operation's own work is left to be timed."""

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
"""Makes a call that is ready to run, with inputs drawn from a seed."""


def prepare_forward(op: Op, case: KernelCase, call: Call, device: str) -> MakeCall:
    """Prepare forward calls of the operation, without autograd."""

    def make(seed: int) -> Callable[[], object]:
        given = compare.draw_inputs(op, _seeded(case, seed), device)

        def once() -> object:
            with torch.no_grad():
                return call(**given)

        return once

    return make


def prepare_backward(op: Op, case: KernelCase, call: Call, device: str) -> MakeCall:
    """Prepare backward passes of the operation; the forward pass runs when the call is made ready, and is not timed."""

    def make(seed: int) -> Callable[[], object]:
        given = compare.draw_inputs(op, _seeded(case, seed), device)
        names = [
            argument.name
            for argument in op.arguments
            if argument.differentiable and given.get(argument.name) is not None
        ]
        leaves = {name: given[name].detach().requires_grad_() for name in names}
        results = compare.return_tuples(call)(**{**given, **leaves})
        expected = op.expected_outputs(case)
        differentiable = [
            (output, value) for output, value in zip(expected, results, strict=True) if output.differentiable
        ]
        outputs = [value for _, value in differentiable]
        cotangents = [
            lay_out(torch.randn_like(value), axes_of(output, case), case.layouts.get(output.name))
            for output, value in differentiable
        ]
        inputs = list(leaves.values())
        return lambda: torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True)

    return make


def _seeded(case: KernelCase, seed: int) -> KernelCase:
    """The case with inputs of its own for each seed."""
    return replace(case, seed=case.seed + seed)


def pytorch_form(op: Op) -> Call:
    """The operation in plain PyTorch, used like the operation: it changes the same arguments in place."""

    def call(**arguments: Any) -> Any:
        results = op.reference(**arguments)
        returned = len(results) - len(op.changes)
        for name, value in zip(op.changes, results[returned:], strict=True):
            arguments[name].copy_(value)
        return results[:returned]

    return call

"""Holds a reference to somebody else's form of the same operation: results and gradients, in float64."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EQUAL = 1e-12
"""Largest difference allowed, as a share of the largest magnitude; float64 rounds at 1.1e-16."""
NUDGE = 1e-6
"""Relative size of the change of one argument that a comparison has to see."""
WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Widened(TorchFunctionMode):
    """In the block, what is cast to float32 is cast to float64 instead.

    Upstream's forms compute in float32 whatever they are given: `x.float()`, `x.to(torch.float32)`.  Every function
    that is asked for float32 is asked for float64, and nothing else is changed, so that their formulas stay theirs.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        wide = [self._widen(value) for value in args]
        return func(*wide, **{name: self._widen(value) for name, value in (kwargs or {}).items()})

    @staticmethod
    def _widen(value: Any) -> Any:
        return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@dataclass(frozen=True)
class Pair:
    """A reference of ours, and the same operation by somebody else."""

    reference: Callable[..., Any]
    form: Callable[..., Any]
    """It takes the reference's arguments, by name, and returns its results, in order."""
    arguments: Mapping[str, Any]
    differentiable: bool = True
    """Whether gradients are compared too: not where a state is overwritten."""


class NoForm(Exception):
    """There is no form of upstream here: nothing to compare with, so that the test is skipped."""


def find_form(distribution: str, module: str, name: str) -> Any:
    """Upstream's own form, without what may put a kernel in its place; raises NoForm where there is none."""
    try:
        with warnings.catch_warnings():
            # Warnings during the import say nothing about the form's results.
            warnings.simplefilter("ignore")
            return inspect.unwrap(getattr(import_module(module), name))
    except (ImportError, AttributeError):
        pass
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise NoForm(f"{distribution} is not installed") from None
    raise NoForm(f"{distribution} {version} has no {module}.{name}")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def draw_decay(*shape: int, seed: int = 0) -> Tensor:
    """Negative numbers, from slow decay to fast."""
    return -torch.exp(draw(*shape, seed=seed))


def find_differences(pair: Pair) -> dict[str, float]:
    """The largest difference of each result and gradient, as a share of its largest magnitude."""
    ours, theirs = _evaluate(pair, pair.reference, pair.arguments), _evaluate_form(pair)
    if len(ours) != len(theirs):
        raise AssertionError(f"results of the reference: {list(ours)}; of the form: {list(theirs)}")
    return {name: _differ(value, theirs[name]) for name, value in ours.items()}


def find_unseen(pair: Pair) -> list[str]:
    """The arguments of which a change by a millionth goes unseen."""
    theirs, unseen = _evaluate_form(pair), []
    for name, value in _floating(pair.arguments).items():
        nudged = {**pair.arguments, name: value * (1 + NUDGE * draw(*value.shape, seed=9))}
        ours = _evaluate(pair, pair.reference, nudged)
        # A result is enough: a gradient would change as well where an argument reaches nothing.
        if all(_differ(ours[result], theirs[result]) <= EQUAL for result in ours if "grad of" not in result):
            unseen.append(name)
    return unseen


def _evaluate_form(pair: Pair) -> dict[str, Tensor]:
    with Widened():
        return _evaluate(pair, pair.form, pair.arguments)


def _floating(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
    }


def _evaluate(pair: Pair, call: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Results by number, and gradients of all of them by argument."""
    leaves = {name: value.clone().requires_grad_(pair.differentiable) for name, value in _floating(arguments).items()}
    returned = call(**{**arguments, **leaves})
    results = returned if isinstance(returned, tuple) else (returned,)
    values = {f"result {number}": value for number, value in enumerate(results)}
    if pair.differentiable:
        cotangents = [_cotangent(value, number) for number, value in enumerate(results)]
        gradients = torch.autograd.grad(results, list(leaves.values()), cotangents)
        values |= {f"grad of {name}": value for name, value in zip(leaves, gradients, strict=True)}
    return {name: value.detach() for name, value in values.items()}


def _cotangent(value: Tensor, number: int) -> Tensor:
    real = draw(*value.shape, seed=100 + number)
    return torch.complex(real, draw(*value.shape, seed=200 + number)) if value.is_complex() else real


def _differ(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude; infinite where shape or dtype differ."""
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return float("inf")
    difference = float((ours - theirs).abs().max() / ours.abs().max())
    return difference if difference == difference else float("inf")

"""A call leaves modes, hooks, random numbers, threads and functions of torch as they were, or fails by name."""

from __future__ import annotations

import importlib
import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import numpy
    import torch

    from scanproof.kernels import compare, operation_table, settings, surroundings
else:
    torch, numpy, compare = Late("torch"), Late("numpy"), Late("scanproof.kernels.compare")
    operation_table, settings = Late("scanproof.kernels.operation_table"), Late("scanproof.kernels.settings")
    surroundings = Late("scanproof.kernels.surroundings")

NORM = next(case for case in cases.load() if case.id == "rms_norm_fn-residual-d100-float32")
ON_GPU = {"state of torch.cuda's random numbers", "torch.cuda.set_stream"}
"""What a machine without a GPU has nothing of."""


@dataclass(frozen=True)
class Change:
    """What code may leave behind, written without the table that is tested."""

    name: str
    make: Callable[[], Any]
    said: str = "is (True|False|[0-9a-f]+), and was (True|False|[0-9a-f]+)"
    stays: bool = True
    """Whether it outlasts a backward pass; the others autograd takes off itself."""


def _enter(mode: Any) -> None:
    class Watching(mode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    Watching().__enter__()


def _enter_function_mode() -> None:
    _enter(torch.overrides.TorchFunctionMode)


def _enter_dispatch_mode() -> None:
    _enter(torch.utils._python_dispatch.TorchDispatchMode)


def _disable(kind: str) -> Change:
    name = f"torch.backends.cuda.enable_{kind}_sdp"
    return Change(name, lambda: operator.attrgetter(name.removeprefix("torch."))(torch)(False))


def pack(value: Any) -> Any:
    return value


def hook(*given: Any) -> None:
    pass


def _set(path: str, value: Any) -> Change:
    parent, _, name = path.rpartition(".")

    def make() -> None:
        owner: Any = torch
        for part in parent.split("."):
            owner = getattr(owner, part)
        setattr(owner, name, value)

    return Change(f"torch.{path}", make, f"is {value}, and was .*")


def _replace_method() -> None:
    torch.Tensor.exp = torch.Tensor.exp2  # type: ignore[method-assign]


WATCHING = r"are _enter\.<locals>\.Watching, and were none"
CHANGES = [
    Change("modes of torch functions", _enter_function_mode, WATCHING, stays=False),
    Change("modes of torch's dispatch", _enter_dispatch_mode, WATCHING, stays=False),
    Change("torch.set_default_device", lambda: torch.set_default_device("meta"), "is meta, and was None"),
    Change(
        "hooks of saved tensors", lambda: torch.autograd.graph.saved_tensors_hooks(pack, pack).__enter__(),
        "are pack, pack, and were none",
        stays=False,
    ),
    Change(
        "hooks of all modules", lambda: torch.nn.modules.module.register_module_forward_hook(hook),
        "are hook(, hook)?, and were none",
    ),
    Change(
        "functions of torch", lambda: setattr(torch.nn.functional, "softplus", hook),
        r"are others, and were torch's own: torch\.nn\.functional\.softplus",
    ),
    Change("functions of torch", _replace_method, r"are others, and were torch's own: Tensor\.exp"),
    Change("torch.set_flush_denormal", lambda: torch.set_flush_denormal(True)),
    Change("torch.set_num_threads", lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    Change("torch.autograd.set_detect_anomaly", lambda: torch.autograd.set_detect_anomaly(True, check_nan=False)),
    *(_disable(kind) for kind in ("flash", "mem_efficient", "math", "cudnn")),
    _set("backends.mkldnn.enabled", False),
    _set("backends.mkldnn.deterministic", True),
    _set("backends.cudnn.enabled", False),
    _set("backends.quantized.engine", "onednn"),
    _set("utils.deterministic.fill_uninitialized_memory", False),
    Change("state of torch's random numbers", lambda: torch.manual_seed(1)),
    Change("state of torch's random numbers", lambda: torch.rand(1)),
    Change("state of numpy's random numbers", lambda: numpy.random.seed(1)),
    Change("state of Python's random numbers", lambda: random.seed(1)),
]  # fmt: skip
PASSES = [
    pytest.param(change, backward, id=f"{number}, {change.name}{', backward' if backward else ''}")
    for number, change in enumerate(CHANGES)
    for backward in (False, True)
    if change.stays or not backward
]


def read() -> dict[str, Any]:
    return {setting.name: setting.read() for setting in surroundings.KEPT}


@pytest.fixture(autouse=True, scope="module")
def load_what_the_first_call_loads() -> None:
    """numpy's random numbers, and dynamo with its wrappers: whichever test is a process's first, they are there."""
    for name in ("numpy.random", "torch._dynamo"):
        importlib.import_module(name)


def test_every_row_has_a_change_here() -> None:
    assert {change.name for change in CHANGES} | ON_GPU == set(read())


@pytest.mark.parametrize(("change", "backward"), PASSES)
def test_a_call_that_leaves_something_behind_fails_by_name_and_it_is_put_back(change: Change, backward: bool) -> None:
    op = operation_table.find_operation(NORM.op)

    class Leaving(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            change.make()
            return gradient

    def call(**arguments: Any) -> Any:
        results = op.reference(**arguments)
        if backward:
            leaving: Any = Leaving.apply
            return tuple(leaving(result) for result in results)
        change.make()
        return results

    before = read()
    after = "its backward pass" if backward else "the call"
    with pytest.raises(compare.WrongResult, match=f"after {after}, .*{re.escape(change.name)} {change.said}"):
        compare.compare_case(op, NORM, call)
    assert read() == before


def test_what_a_session_has_entered_stays_and_is_no_change() -> None:
    _enter_function_mode()
    _enter_dispatch_mode()
    torch.set_default_device("meta")
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, pack)
    hooks.__enter__()
    try:
        before = read()
        assert [len(before[name]) for name in list(before)[:2]] == [1, 1]
        op = operation_table.find_operation(NORM.op)
        assert compare.describe_failures(NORM, compare.compare_case(op, NORM, op.reference)) == ""
        assert read() == before
    finally:
        hooks.__exit__()
        surroundings.write_function_modes(())
        torch.set_default_device(None)
        torch.utils._python_dispatch._pop_mode()


def test_a_call_that_takes_off_a_mode_of_the_session_fails_and_it_is_put_back() -> None:
    _enter_function_mode()
    try:
        before = read()
        with settings.pin_settings() as pinned:
            surroundings.write_function_modes(())
            assert pinned.list_changed() == ["modes of torch functions are none, and were _enter.<locals>.Watching"]
        assert read() == before
    finally:
        surroundings.write_function_modes(())

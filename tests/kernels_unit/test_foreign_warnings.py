"""Warnings of the packages under test are shown, whatever module they are attributed to; our own stay errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from scanproof.kernels import foreign_warnings

SOURCE = """
import warnings
def warn(message, stacklevel=1, category=UserWarning):
    warnings.warn(message, category, stacklevel=stacklevel)
"""
CPP = (
    "Attempting to run cuBLAS, but there was no current CUDA context! "
    "(Triggered internally at /pytorch/aten/src/ATen/cuda/CublasHandlePool.cpp:285.)"
)


def module(name: str) -> Any:
    """Make a module with this name and a function that warns."""
    found = {"__name__": name}
    exec(compile(SOURCE, f"{name}.py", "exec"), found)
    return SimpleNamespace(**found)


def outcome(warn: Callable[[], None]) -> str:
    """What happens to a warning with the suite's filters: `error`, or `shown` and the file it is attributed to."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")
        with foreign_warnings.show_package_warnings():
            try:
                warn()
            except Warning:
                return "error"
    (only,) = seen
    return f"shown, of {only.filename.rpartition('/')[2]}"


@pytest.mark.parametrize("category", [UserWarning, FutureWarning, DeprecationWarning])
@pytest.mark.parametrize("name", ["torch", "torch.cuda", "triton.runtime.jit", "mamba_ssm.ops.triton.ssd_combined"])
def test_what_a_package_warns_of_is_shown_wherever_it_is_attributed_to(name: str, category: type[Warning]) -> None:
    package = module(name)
    assert outcome(lambda: package.warn("own", category=category)) == f"shown, of {name}.py"
    assert outcome(lambda: package.warn("caller", 2, category)) == "shown, of test_foreign_warnings.py"
    # With stacklevel 2 the warning is attributed to a caller, but the code that warns is the same.
    assert outcome(lambda: package.warn("caller's caller", 3, category)).startswith("shown")


def test_what_torch_warns_of_in_cpp_is_attributed_to_us_and_shown() -> None:
    assert outcome(lambda: warnings.warn(CPP, UserWarning, stacklevel=1)) == "shown, of test_foreign_warnings.py"


def test_torch_itself_warns_in_that_form() -> None:
    import torch

    def warn() -> None:
        # torch warns from C++, also on the CPU, when an output has to be resized.
        torch.add(torch.ones(3), torch.ones(3), out=torch.ones(2))

    assert outcome(warn) == "shown, of test_foreign_warnings.py"


@pytest.mark.parametrize("name", ["scanproof.kernels.compare", "test_numerics", "numpy", "torchlike"])
def test_what_others_warn_of_stays_an_error(name: str) -> None:
    other = module(name)
    assert outcome(lambda: other.warn("own")) == "error"
    assert outcome(lambda: other.warn("caller", 2)) == "error"
    assert outcome(lambda: warnings.warn("ours", DeprecationWarning, stacklevel=1)) == "error"


def test_a_warning_of_ours_through_torch_stays_an_error() -> None:
    """torch calls our code, for example an autograd function, and our code warns."""
    caller = {"__name__": "torch.autograd.function"}
    exec("def call(function): function()", caller)
    call: Any = caller["call"]
    ours = module("scanproof.kernels.compare")
    assert outcome(lambda: call(lambda: ours.warn("ours"))) == "error"
    assert outcome(lambda: call(lambda: ours.warn("ours, of the caller", 3))) == "error"


def test_the_filters_are_as_they_were_afterwards() -> None:
    before = list(warnings.filters)
    with foreign_warnings.show_package_warnings():
        pass
    assert list(warnings.filters) == before

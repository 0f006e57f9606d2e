"""Each operation whose kernels are compiled when they are called, as the first one of a fresh process.

What a compiler makes may depend on what it made before: a kernel of mamba-ssm returned zeros, without an error, only
where it was the first one compiled (https://github.com/tile-ai/tilelang/issues/3071).  In the suite's own process that
is so for one kernel at most, and for none that is in Triton's cache.  The interpreter compiles nothing: there this
shows that an operation needs no other one before it, and three operations have to do.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.kernels.cases import KernelCase, load_invariants
from scanproof.kernels.launches import kernel_table
from scanproof.plugin.kernel_fixtures import CheckKernel
from scanproof.plugin.kernel_parameters import MARKS, load_table

IN_THE_INTERPRETER = ("selective_state_update", "mamba_chunk_scan_combined", "rmsnorm_fn")


def choose_cases() -> list[KernelCase]:
    """Of each operation that is compiled when it is called, the case of its determinism, forward only, in bfloat16."""
    rows = [row for row in load_table(load_invariants) if row.invariant == "determinism"]
    return [
        replace(row.case, backward=False)
        for row in rows
        if is_compiled_when_called(row.case.op) and row.case.dtype == "bfloat16"
    ]


def is_compiled_when_called(op: str) -> bool:
    """Whether its last kernel is Triton's; one that an extension contains has the name of its module before a dot."""
    return "." not in kernel_table.find_operation(op).forward[-1]


def parameters() -> list[Any]:
    return [
        pytest.param(case, place, id=f"{case.id}-{place}", marks=[MARKS[place], pytest.mark.own_process])
        for case in choose_cases()
        for place in ("interpreter", "gpu")
        if place == "gpu" or case.op in IN_THE_INTERPRETER
    ]


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for what is compiled, with nothing in it; of each tuned kernel one configuration is compiled."""
    for name in ("TRITON_CACHE_DIR", "TILELANG_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "compiled"))
    monkeypatch.setenv("MAMBA_DETERMINISTIC", "1")
    return tmp_path / "compiled"


@pytest.mark.parametrize(("case", "scanproof_place"), parameters())
def test_an_operation_is_right_as_the_first_one_of_a_process(
    case: KernelCase, scanproof_place: str, empty_cache: Path, scanproof_check_kernel: CheckKernel
) -> None:
    scanproof_check_kernel(case)
    compiled = [name for _, _, names in os.walk(empty_cache) for name in names]
    assert bool(compiled) is (scanproof_place == "gpu"), "it was compiled here, and not found in a cache"

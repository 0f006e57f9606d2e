"""Every configuration that Triton's autotuner may choose for a kernel of mamba-ssm computes the same.

A GPU runs the fastest one, which differs between GPUs and processes.  Pass i gives each kernel its i-th configuration.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from scanproof.kernels.cases import KernelCase
from scanproof.plugin.kernel_fixtures import Missing
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scanproof.kernels import compare, operation_table
else:
    torch = Late("torch")
    compare, operation_table = Late("scanproof.kernels.compare"), Late("scanproof.kernels.operation_table")

PASSES = 11
"""The largest number of configurations that a kernel has."""
MAMBA3_PASSES = (0, 27, 54)
"""One for each chunk size of its backward pass; its other configurations are stages, warps and registers, of which the
interpreter knows nothing."""
UNUSED = {
    "_chunk_scan_fwd_kernel_wip": "_chunk_scan_fwd_wip",
    "_chunk_scan_bwd_ddAcs_stable_kernel_old": "_chunk_scan_bwd_ddAcs_stable_old",
    "_chunk_scan_bwd_ddAcs_prev_kernel": "_chunk_scan_bwd_ddAcs_prev",
    "_chunk_state_bwd_ddAcs_stable_kernel": "_chunk_state_bwd_ddAcs_stable",
}
"""Kernel -> the function that launches it and that nothing in the package calls."""
DUALITY = KernelCase(
    op="mamba_chunk_scan_combined",
    name="configurations",
    sizes={"b": 1, "l": 130, "h": 2, "p": 40, "g": 1, "n": 24},
    dtype="float32",
    given=frozenset({"D", "z", "dt_bias", "seq_idx"}),
    segments=(70, 60),
    options={"chunk_size": 128, "dt_softplus": True, "return_final_states": True},
    backward=True,
)
"""Sizes of which none is a multiple of a block, over more than one chunk."""
CASES = (
    DUALITY,
    # The states of packed sequences have no backward pass.
    replace(
        DUALITY,
        name="configurations_varlen",
        given=frozenset({"dt_bias", "seq_idx", "cu_seqlens"}),
        options={"chunk_size": 32, "dt_softplus": True, "return_varlen_states": True},
        backward=False,
    ),
    # With an MLP beside the scan.
    KernelCase(
        op="mamba_split_conv1d_scan_combined",
        name="configurations",
        sizes={"b": 1, "h": 2, "p": 16, "g": 1, "n": 16, "w": 4, "l": 40, "m": 24, "f": 20},
        dtype="float32",
        given=frozenset({"rmsnorm_weight", "outproj_weight"}),
        options={"chunk_size": 32, "headdim": 16, "norm_before_gate": False},
        backward=True,
    ),
    KernelCase(
        op="layer_norm_fn",
        name="configurations",
        sizes={"b": 2, "l": 3, "d": 100},
        dtype="float32",
        given=frozenset({"residual"}),
        options={"prenorm": True},
        backward=True,
    ),
)
PARTS = replace(
    DUALITY,
    name="configurations_of_parts",
    sizes={**DUALITY.sizes, "l": 128},
    given=frozenset({"D"}),
    values={"dt": "steps"},
    segments=(),
    options={"chunk_size": 64},
)


@dataclass
class Launches:
    """What was launched in a pass."""

    configurations: dict[str, set[str]] = field(default_factory=dict)
    """Kernel -> its configurations that ran."""
    in_workspaces: set[bool] = field(default_factory=set)
    """Whether kernels that sum over blocks did so in workspaces of their own; else with atomic additions."""


def list_kernels() -> dict[str, list[str]]:
    """Every tuned kernel of mamba-ssm but those of Mamba-3, and its configurations, in order."""
    from mamba_ssm.ops import triton as folder
    from triton.runtime.autotuner import Autotuner

    kernels = {}
    for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
        if not module.ispkg:
            for value in vars(importlib.import_module(module.name)).values():
                # Heuristics may be around the autotuner.
                while value is not None and not isinstance(value, Autotuner):
                    value = getattr(value, "fn", None)
                if value is not None:
                    kernels[value.base_fn.__name__] = [str(config) for config in value.configs]
    return kernels


def give_each_its(number: int, patch: pytest.MonkeyPatch) -> Launches:
    """From here on each kernel runs with its configuration of this number, modulo how many it has."""
    from triton.runtime.autotuner import Autotuner

    launched, launch = Launches(), Autotuner.run

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        configs = self.configs
        self.configs = [configs[number % len(configs)]]
        launched.configurations.setdefault(self.base_fn.__name__, set()).add(str(self.configs[0]))
        if "DETERMINISTIC_REDUCTION" in kwargs:
            launched.in_workspaces.add(kwargs["DETERMINISTIC_REDUCTION"])
        try:
            return launch(self, *args, **kwargs)
        finally:
            self.configs = configs

    patch.setattr(Autotuner, "run", run)
    return launched


def in_parts(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """SSD from the package's own three parts, each with a backward pass of its own."""
    from mamba_ssm.ops.triton.ssd_chunk_scan import chunk_scan
    from mamba_ssm.ops.triton.ssd_chunk_state import chunk_state
    from mamba_ssm.ops.triton.ssd_state_passing import state_passing

    steps = torch.unflatten(dt.float(), 1, (-1, chunk_size)).permute(0, 3, 1, 2).contiguous()
    log_decay = torch.cumsum(steps * A[:, None, None], dim=-1)
    states = chunk_state(B, x, steps, log_decay, True)
    before, _ = state_passing(states.flatten(-2), log_decay[..., -1].contiguous())
    return (chunk_scan(B, C, x, steps, log_decay, torch.unflatten(before, -1, states.shape[-2:]), D),)


@pytest.mark.interpreted
@pytest.mark.parametrize("branch", ["workspaces", "atomic"])
@pytest.mark.parametrize("number", range(PASSES))
def test_every_configuration_of_every_kernel(
    number: int,
    branch: str,
    scanproof_interpreter: str | None,
    scanproof_missing: Missing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    kernels = list_kernels()
    assert max(map(len, kernels.values())) == PASSES
    monkeypatch.setenv("MAMBA_DETERMINISTIC", "1" if branch == "workspaces" else "0")
    launched = give_each_its(number, monkeypatch)
    for case, call in [*((case, None) for case in CASES), (PARTS, in_parts)]:
        op = operation_table.find_operation(case.op)
        made: Callable[..., Any] = call or op.load_implementation()
        assert compare.describe_failures(case, compare.compare_case(op, case, made)) == ""
    due = {name: {configs[number % len(configs)]} for name, configs in kernels.items() if name not in UNUSED}
    assert launched.configurations == due
    assert launched.in_workspaces == {branch == "workspaces"}


@pytest.mark.interpreted
def test_the_interpreter_is_made_ready_once(scanproof_interpreter: str | None, scanproof_missing: Missing) -> None:
    """The choice of a configuration would be wrapped by one that takes the first, and bfloat16 be converted twice."""
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    from triton.runtime import autotuner
    from triton.runtime import interpreter as triton_interpreter

    from scanproof.kernels import interpreter

    def replaced() -> tuple[object, ...]:
        builder = triton_interpreter.InterpreterBuilder
        return autotuner.Autotuner.run, builder.create_dot, builder.cast_impl

    before = replaced()
    interpreter.prepare()
    assert replaced() == before


@pytest.mark.interpreted
def test_what_is_left_out_is_called_by_nothing(scanproof_interpreter: str | None, scanproof_missing: Missing) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    import mamba_ssm

    assert set(UNUSED) <= set(list_kernels())
    sources = [file.read_text() for folder in mamba_ssm.__path__ for file in Path(folder).rglob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    called = {ast.unparse(node.func).rpartition(".")[2] for node in nodes if isinstance(node, ast.Call)}
    assert called & set(UNUSED.values()) == set()


@pytest.mark.interpreted
@pytest.mark.parametrize("number", MAMBA3_PASSES)
def test_every_chunk_that_may_be_chosen_for_the_backward_pass_of_mamba_3(
    number: int, scanproof_interpreter: str | None, scanproof_missing: Missing, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    launched = give_each_its(number, monkeypatch)
    (case,) = (each for each in cases.load() if (each.op, each.name) == ("mamba3_siso_combined", "chunk_64"))
    op = operation_table.find_operation(case.op)
    assert compare.describe_failures(case, compare.compare_case(op, case, op.load_implementation())) == ""
    chosen = {name: chunk for name, chunk in list_chunks(launched).items() if chunk is not None}
    assert chosen == {
        "mamba3_siso_bwd_kernel_dzdo": {0: 32, 27: 64, 54: 32}[number],
        "mamba3_siso_bwd_kernel_ddt_dtrap_dinput_states": {0: 64, 27: 128, 54: 256}[number],
    }


def list_chunks(launched: Launches) -> dict[str, int | None]:
    """Kernel -> the size of a chunk in the one configuration that ran, where it has such."""
    sizes = {}
    for name, configurations in launched.configurations.items():
        (configuration,) = configurations
        found = re.search(r"CHUNK_SIZE: (\d+)", configuration)
        sizes[name] = int(found[1]) if found else None
    return sizes

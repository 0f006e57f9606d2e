"""What a case compares is computed under PyTorch's fixed settings, whoever changed them before or meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import compare, operation_table, settings, surroundings
else:
    torch, compare = Late("torch"), Late("scanproof.kernels.compare")
    operation_table, settings = Late("scanproof.kernels.operation_table"), Late("scanproof.kernels.settings")
    surroundings = Late("scanproof.kernels.surroundings")

SCAN = next(case for case in cases.load() if case.id == "selective_scan_fn-edge-l129-float32")
MAMBA = next(case for case in cases.load() if case.op == "mamba_inner_fn" and case.backward)


@dataclass(frozen=True)
class Change:
    """A way to change a setting that was found at its fixed value, written without the table that is tested."""

    name: str
    now: str
    make: Callable[[], Any]


def _set(path: str, value: Any) -> Change:
    parent, _, name = path.rpartition(".")

    def make() -> None:
        owner: Any = torch
        for part in parent.split("."):
            owner = getattr(owner, part)
        setattr(owner, name, value)

    return Change(f"torch.{path}", str(value), make)


REDUCED = "backends.cuda.matmul.allow_{}_reduced_precision_reduction"
KEPT = contextlib.ExitStack()
CHANGES = [
    Change("autocast on cpu", "True", lambda: torch.set_autocast_enabled("cpu", True)),
    Change("autocast on cuda", "True", lambda: torch.set_autocast_enabled("cuda", True)),
    Change("torch.set_float32_matmul_precision", "medium", lambda: torch.set_float32_matmul_precision("medium")),
    _set("backends.cuda.matmul.allow_tf32", True),
    _set("backends.cudnn.allow_tf32", True),
    _set(REDUCED.format("fp16"), True),
    _set(REDUCED.format("bf16"), True),
    _set("backends.cuda.matmul.allow_fp16_accumulation", True),
    _set("backends.fp32_precision", "tf32"),
    _set("backends.cuda.matmul.fp32_precision", "tf32"),
    _set("backends.cudnn.fp32_precision", "tf32"),
    _set("backends.cudnn.conv.fp32_precision", "tf32"),
    _set("backends.mkldnn.fp32_precision", "bf16"),
    _set("backends.mkldnn.matmul.fp32_precision", "bf16"),
    _set("backends.mkldnn.conv.fp32_precision", "bf16"),
    _set("backends.cudnn.benchmark", True),
    _set("backends.cudnn.deterministic", True),
    Change("torch.use_deterministic_algorithms", "1", lambda: torch.use_deterministic_algorithms(True, warn_only=True)),
    Change("torch.set_default_dtype", "torch.bfloat16", lambda: torch.set_default_dtype(torch.bfloat16)),
    Change("torch.set_grad_enabled", "False", lambda: torch.set_grad_enabled(False)),
    Change("torch.inference_mode", "True", lambda: KEPT.enter_context(torch.inference_mode())),
]
every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name.replace(" ", "_"))


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """What a test changes here does not reach the next."""
    with settings.pin_settings():
        yield
        KEPT.close()


def read() -> dict[str, Any]:
    return {setting.name: setting.read() for setting in settings.SETTINGS}


def list_unpinned() -> list[str]:
    """The settings that have another value than the one that they are pinned to."""
    return settings.Pinned(list(read().values())).list_changed()


def test_every_setting_has_a_change_here() -> None:
    kept = {setting.name for setting in surroundings.KEPT}
    assert {change.name for change in CHANGES} == set(read()) - kept, "of the others: test_surroundings.py"


@every_change
def test_what_was_changed_before_is_fixed_in_the_block_and_comes_back(change: Change) -> None:
    with settings.pin_settings() as pinned:
        assert pinned.list_changed() == []
    change.make()
    before = read()
    assert str(before[change.name]) == change.now
    with settings.pin_settings() as pinned:
        assert pinned.list_changed() == []
    assert read() == before


@every_change
def test_what_is_changed_in_the_block_is_named_with_both_values_and_put_back(change: Change) -> None:
    before = read()
    was = next(setting.value for setting in settings.SETTINGS if setting.name == change.name)
    with settings.pin_settings() as pinned:
        change.make()
        assert f"{change.name} is {change.now}, and was {was}" in pinned.list_changed()
    assert read() == before


@every_change
def test_an_operation_that_leaves_a_setting_changed_fails_with_its_name(change: Change) -> None:
    op = operation_table.find_operation(SCAN.op)

    def call(**arguments: Any) -> Any:
        results = op.reference(**arguments)
        change.make()
        return results

    before = read()
    with pytest.raises(compare.WrongResult, match=f"after the call, .*{change.name} is {change.now}, and was "):
        compare.compare_case(op, SCAN, call)
    assert read() == before


@every_change
def test_reference_and_form_have_the_same_bits_whatever_was_set(change: Change) -> None:
    op = operation_table.find_operation(MAMBA.op)
    arguments = compare.draw_inputs(op, MAMBA)
    runs = compare.run_reference, compare.run_form
    expected = [run(op, MAMBA, arguments) for run in runs]
    change.make()
    for run, results in zip(runs, expected, strict=True):
        again = run(op, MAMBA, arguments)
        assert all(torch.equal(results[name], again[name]) for name in results)


class Leaving:
    """Changes a setting when it is freed, after the call."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __del__(self) -> None:
        self.change.make()


@every_change
def test_what_is_freed_after_the_call_changes_no_bound(change: Change) -> None:
    op = operation_table.find_operation(MAMBA.op)
    expected = compare.compare_case(op, MAMBA, op.reference)

    def call(**arguments: Any) -> Any:
        results = [result.clone() for result in op.reference(**arguments)]
        results[0].leaving = Leaving(change)
        return tuple(results)

    found = compare.compare_case(op, MAMBA, call)
    assert [(each.result, each.form) for each in found] == [(each.result, each.form) for each in expected]


def test_a_setting_that_is_changed_while_results_are_judged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    op = operation_table.find_operation(MAMBA.op)
    form = compare.compute_form

    def compute_form(*given: Any) -> Any:
        torch.set_autocast_enabled("cpu", True)
        return form(*given)

    monkeypatch.setattr("scanproof.kernels.compare.compute_form", compute_form)
    with pytest.raises(compare.WrongResult, match="after the call was over, autocast on cpu is True, and was False"):
        compare.compare_case(op, MAMBA, op.reference)
    assert not torch.is_autocast_enabled("cpu")


def test_the_settings_hold_in_the_call_and_in_its_backward_pass() -> None:
    op = operation_table.find_operation(MAMBA.op)
    seen = []

    def call(**arguments: Any) -> Any:
        seen.append(list_unpinned())
        out, *rest = op.reference(**{name: _float(value) for name, value in arguments.items()})
        out = out.to(arguments["xz"].dtype)
        # Autograd itself switches gradients off.
        out.register_hook(lambda gradient: seen.append([s for s in list_unpinned() if "grad_enabled" not in s]))
        return out, *rest

    torch.set_autocast_enabled("cpu", True)
    compare.run_op(op, MAMBA, compare.draw_inputs(op, MAMBA), call)
    assert seen == [[], []]


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

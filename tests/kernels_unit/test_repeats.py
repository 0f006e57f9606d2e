"""What a function keeps from call to call, or reads again after its call, is seen by calling it again.

Each fault is planted into a correct implementation, which itself raises no alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.faults import correct, kept
    from scanproof.kernels import compare, copies, operation_table, repeats
else:
    torch, copies = Late("torch"), Late("scanproof.kernels.copies")
    correct, kept = Late("scanproof.faults.correct"), Late("scanproof.faults.kept")
    compare, repeats = Late("scanproof.kernels.compare"), Late("scanproof.kernels.repeats")
    operation_table = Late("scanproof.kernels.operation_table")

Call = Callable[..., Any]
ALL = {case.id: case for case in cases.load()}
NORM, CONV = "rms_norm_fn-residual-d100-float32", "causal_conv1d_fn-gradients-w4-l130-float32"
CONV_STATES, PACKED = "causal_conv1d_fn-states-l65-float32", "causal_conv1d_fn-packed-float32"
KEYS = ("identity", "address", "shape")


def find(case_id: str, make: Callable[[Call], Call]) -> list[str]:
    """What calling it again says of an implementation that is made of a correct one."""
    case = ALL[case_id]
    op = operation_table.find_operation(case.op)
    return repeats.find_unrepeated(op, case, make(correct.make_correct(op, seed=1)))


def keep_argument(key: str, name: str = "weight") -> Callable[[Call], Call]:
    return plant(kept.argument_kept(kept.KEYS[key], name)())


def plant(spoil: Callable[[Call, dict[str, Any]], Any]) -> Callable[[Call], Call]:
    return lambda call: lambda **given: spoil(call, given)


def state_of_argument(call: Call) -> Call:
    """The last inputs are returned as they lie in x."""

    def sharing(**given: Any) -> Any:
        y, state = call(**given)
        return y, given["x"][..., -state.shape[-1] :]

    return sharing


def wrong_the_first_time(call: Call) -> Call:
    calls: list[int] = []

    def cold(**given: Any) -> Any:
        calls.append(1)
        y = call(**given)
        return y * 2 if len(calls) == 1 else y

    return cold


def two_buffers(call: Call) -> Call:
    """Results are written into two buffers in turns."""
    buffers: list[Any] = []

    def alternating(**given: Any) -> Any:
        y = call(**given)
        buffers[:] = [*buffers[1:], buffers[0]] if len(buffers) == 2 else [*buffers, torch.empty_like(y)]
        return buffers[-1].copy_(y)

    return alternating


@pytest.mark.parametrize("case_id", [NORM, CONV, CONV_STATES, PACKED])
def test_a_correct_implementation_raises_no_alarm(case_id: str) -> None:
    assert find(case_id, lambda call: call) == []


@pytest.mark.parametrize("case_id", [NORM, CONV])
@pytest.mark.parametrize("key", KEYS)
def test_an_argument_that_is_kept_from_an_earlier_call_is_seen(case_id: str, key: str) -> None:
    lines = find(case_id, keep_argument(key))
    assert any("results are wrong" in line and "with other values in the same tensors" in line for line in lines)


@pytest.mark.parametrize("key", KEYS)
def test_results_that_are_kept_from_an_earlier_call_are_seen(key: str) -> None:
    spoil = kept.results_kept(kept.KEYS[key], "x")()
    lines = find("causal_conv1d_update-ring-s4-l3-float32", plant(spoil))
    assert any("which gave the same out as the values before" in line for line in lines)


@pytest.mark.parametrize("key", KEYS)
def test_lengths_that_are_kept_from_an_earlier_call_are_seen(key: str) -> None:
    """As fla-core keeps how packed sequences are cut (docs/defects.md)."""
    lines = find("chunk_gated_delta_rule-packed-float32", keep_argument(key, "cu_seqlens"))
    assert any("with other values in the same tensors" in line for line in lines)


@pytest.mark.parametrize("case_id", [NORM, CONV])
def test_a_backward_pass_that_reads_the_arguments_again_is_seen(case_id: str) -> None:
    said = "a backward pass that ran again, after the arguments were overwritten, raised no error and gave different "
    assert f"{case_id}: {said}bits of grad of x" in find(case_id, plant(kept.reread_in_backward))


def test_a_backward_pass_that_autograd_guards_is_right() -> None:
    """It raises an error, because the arguments were saved: that is all that can be asked."""
    case = ALL[NORM]
    op = operation_table.find_operation(case.op)
    called = compare.call_op(op, case, compare.draw_inputs(op, case), op.reference, keep_graph=True)
    other = repeats.draw_other_values(case)
    copies.overwrite_tensors(called.given, compare.draw_inputs(op, other))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        called.gradients(op, case)
    assert repeats.find_unrepeated(op, case, op.reference) == []


def test_a_result_in_the_memory_of_an_argument_is_seen() -> None:
    lines = find(CONV_STATES, state_of_argument)
    said = "final_states changed when the arguments were overwritten after the call: it lies in their memory"
    assert f"{CONV_STATES}: {said}" in lines


def test_a_first_call_that_is_wrong_is_seen() -> None:
    assert f"{CONV}: two identical calls gave different bits of out" in find(CONV, wrong_the_first_time)


def test_a_zero_of_another_sign_is_another_bit() -> None:
    """As where terms are summed in another order."""
    calls: list[int] = []

    def zeros(call: Call) -> Call:
        def signed(**given: Any) -> Any:
            calls.append(1)
            return call(**given) * torch.tensor(-0.0 if len(calls) == 1 else 0.0)

        return signed

    assert f"{CONV}: two identical calls gave different bits of out" in find(CONV, zeros)


def test_buffers_that_are_written_in_turns_are_seen() -> None:
    case_id = "causal_conv1d_update-ring-s4-l3-float32"
    assert f"{case_id}: the second call overwrote out of the first" in find(case_id, two_buffers)


@pytest.mark.parametrize("case_id", [CONV, PACKED])
def test_other_values_are_others_in_the_same_layout(case_id: str) -> None:
    case = ALL[case_id]
    op = operation_table.find_operation(case.op)
    drawn, other = (compare.draw_inputs(op, one) for one in (case, repeats.draw_other_values(case)))
    tensors = {name: value for name, value in drawn.items() if isinstance(value, torch.Tensor)}
    assert [name for name, value in tensors.items() if torch.equal(value, other[name])] == []
    copied = copies.copy_tensors(drawn)
    versions = {name: copied[name]._version for name in tensors}
    copies.overwrite_tensors(copied, other)
    for name, value in tensors.items():
        assert torch.equal(copied[name], other[name])
        assert copied[name].stride() == value.stride()
        assert copied[name]._version > versions[name], "autograd knows"


def test_a_large_case_is_called_twice_only() -> None:
    small = ALL[CONV]
    large = replace(small, sizes={**small.sizes, "l": 40_000}, backward=False)
    op = operation_table.find_operation(small.op)
    calls: list[int] = []

    def counting(**given: Any) -> Any:
        calls.append(1)
        return op.reference(**given)

    assert repeats.find_unrepeated(op, large, counting) == []
    assert len(calls) == 2

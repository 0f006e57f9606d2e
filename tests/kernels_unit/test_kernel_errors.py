"""The criterion passes correct implementations and fails faulty ones; its messages say where the error is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scanproof.kernels import compare, criterion, operation_table, poisoned_memory
    from scanproof.kernels.latency import timed_calls
    from scanproof.kernels.references import precision
else:
    torch, criterion, operation_table = (
        Late("torch"),
        Late("scanproof.kernels.criterion"),
        Late("scanproof.kernels.operation_table"),
    )
    poisoned_memory = Late("scanproof.kernels.poisoned_memory")
    precision, compare = Late("scanproof.kernels.references.precision"), Late("scanproof.kernels.compare")
    timed_calls = Late("scanproof.kernels.latency.timed_calls")

SSD = next(case for case in cases.load() if case.id == "mamba_chunk_scan_combined-states-l70-bfloat16")
SSD_FLOAT32 = replace(SSD, dtype="float32")
UPDATE = next(case for case in cases.load() if case.id == "selective_state_update-groups-g2-bfloat16")
Fault = Callable[[dict[str, Any]], Any]


def correct_implementation(case: cases.KernelCase) -> Fault:
    """A correct implementation of the operation: it computes in float32 and rounds once at the end."""
    op = operation_table.find_operation(case.op)

    def call(arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        wide = {
            key: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for key, value in arguments.items()
        }
        dtypes = [getattr(torch, case.dtype if each.dtype == "input" else each.dtype) for each in op.outputs]
        outputs = [out.to(dtype) for out, dtype in zip(op.reference(**wide), dtypes, strict=False)]
        for name in reversed(op.changes):
            arguments[name].copy_(outputs.pop())
        return tuple(outputs)

    return call


def verdict(case: cases.KernelCase, call: Fault) -> str:
    comparisons = compare.compare_case(
        operation_table.find_operation(case.op), case, lambda **arguments: call(arguments)
    )
    return compare.describe_failures(case, comparisons)


@pytest.mark.parametrize("case", [SSD, UPDATE], ids=lambda case: case.op)
def test_a_correct_implementation_passes(case: cases.KernelCase) -> None:
    assert verdict(case, correct_implementation(case)) == ""


@pytest.mark.parametrize("name", sorted({case.op for case in cases.load()}))
def test_a_correct_implementation_passes_with_other_seeds(name: str) -> None:
    every = [case for case in cases.load() if case.op == name and math.prod(case.sizes.values()) < 10**6]
    for seed in range(5):
        case = replace(every[0], seed=seed)
        assert verdict(case, correct_implementation(case)) == ""


def changed(arguments: dict[str, Any], **changes: Callable[[Tensor], Tensor]) -> Any:
    case = SSD if arguments["x"].dtype == torch.bfloat16 else SSD_FLOAT32
    return correct_implementation(case)(
        {**arguments, **{key: change(arguments[key]) for key, change in changes.items()}}
    )


def one_wrong(arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    y, state = correct_implementation(SSD)(arguments)
    y[1, 66, 1, 3] += 0.25 * y.abs().max()
    return y, state


FAULTS: list[tuple[str, Fault]] = [
    ("the state is forgotten", lambda a: changed(a, initial_states=torch.zeros_like)),
    ("the decay is a tenth off", lambda a: changed(a, A=lambda A: A * 1.1)),
    ("off by one in time", lambda a: changed(a, x=lambda x: x.roll(1, dims=1))),
    ("the last chunk is dropped", lambda a: changed(a, x=lambda x: x * (torch.arange(70) < 64)[:, None, None])),
    ("one element is wrong", one_wrong),
    ("steps are biased twice", lambda a: changed(a, dt_bias=lambda bias: 2 * bias)),
]
SMALL_FAULTS: list[tuple[str, Fault]] = [
    ("the decay is off by a thousandth", lambda a: changed(a, A=lambda A: A * 1.001)),
    ("A = -exp(A_log) in bfloat16", lambda a: changed(a, A=lambda A: A.bfloat16().float())),
    ("TF32 where float32 is meant", lambda a: changed(a, B=precision.tf32, C=precision.tf32, x=precision.tf32)),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[name for name, _ in FAULTS])
def test_faults_do_not_pass(name: str, fault: Fault) -> None:
    assert verdict(SSD, fault).startswith(f"{SSD.id}: ")


@pytest.mark.parametrize(("name", "fault"), SMALL_FAULTS, ids=[name for name, _ in SMALL_FAULTS])
def test_faults_that_bfloat16_hides_do_not_pass_in_float32(name: str, fault: Fault) -> None:
    assert verdict(SSD_FLOAT32, fault).startswith(f"{SSD_FLOAT32.id}: ")


def test_the_message_names_operation_case_index_and_both_values() -> None:
    message = verdict(SSD, one_wrong)
    assert message.startswith("mamba_chunk_scan_combined-states-l70-bfloat16: 1 of 2 results are wrong\n")
    assert "out[1, 66, 1, 3]: expected " in message
    assert ", got " in message


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_of_a_large_batch_every_row_has_to_be_written(value: float) -> None:
    case = next(case for case in cases.load() if case.id == "rms_norm_fn-residual-d64-bfloat16")
    case = replace(case, backward=False, rows=True, sizes={**case.sizes, "b": 9})
    seen = []
    for row in range(9):

        def wrong(arguments: dict[str, Any], row: int = row) -> Any:
            y, total = correct_implementation(case)(arguments)
            y[row] = value
            return y, total

        seen.append(verdict(case, wrong) != "")
    assert seen == [True] * 9


def test_what_is_never_written_is_nan_and_fails() -> None:
    def lazy(arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        y, state = correct_implementation(SSD)(arguments)
        out = torch.empty_like(y)
        out[:, :69] = y[:, :69]
        return out, state

    assert "out[0, 69, 0, 0]: expected" in verdict(SSD, lazy)
    assert "got nan; worst error inf" in verdict(SSD, lazy)


def test_an_operation_that_overwrites_an_argument_fails_with_its_name_though_its_results_are_right() -> None:
    """The references run on what was drawn, so a state that is spoiled for the next call would go unseen."""

    def careless(arguments: dict[str, Any]) -> Any:
        results = correct_implementation(SSD)(arguments)
        arguments["initial_states"].copy_(results[1])
        return results

    with pytest.raises(compare.WrongResult, match="overwrote its arguments initial_states, which it has only to read"):
        verdict(SSD, careless)


def test_an_operation_that_overwrites_an_argument_in_its_backward_pass_fails() -> None:
    case = next(each for each in cases.load() if each.id == "rmsnorm_fn-edge-d64-float32")
    op = operation_table.find_operation(case.op)

    def call(**arguments: Any) -> Any:
        (y,) = op.reference(**arguments)
        y.register_hook(lambda gradient: arguments["z"].data.copy_(gradient))
        return y

    with pytest.raises(compare.WrongResult, match="overwrote its arguments z, "):
        compare.compare_case(op, case, call)


def test_an_operation_that_writes_between_the_rows_of_an_argument_fails() -> None:
    case = next(each for each in cases.load() if each.id == "rmsnorm_fn-layout-float32")
    op = operation_table.find_operation(case.op)

    def call(**arguments: Any) -> Any:
        (y,) = op.reference(**arguments)
        z = arguments["z"].data
        z.as_strided((1,), (1,), z.shape[-1]).fill_(7.0)
        return y

    with pytest.raises(compare.WrongResult, match="overwrote its arguments z, "):
        compare.compare_case(op, case, call)


@pytest.mark.parametrize("layout", ["padded", "transposed", "tied", "none"])
def test_what_an_operation_gets_has_the_layout_of_what_was_drawn(layout: str) -> None:
    case = next(each for each in cases.load() if each.id == "selective_state_update-groups-g2-float32")
    names = ("A", "dt", "D") if layout == "tied" else ("state", "x", "B")
    case = replace(case, layouts=dict.fromkeys(names, layout))
    op = operation_table.find_operation(case.op)
    drawn, seen = compare.draw_inputs(op, case), {}

    def call(**arguments: Any) -> Any:
        seen.update({name: (arguments[name].stride(), arguments[name].data_ptr()) for name in names})
        return correct_implementation(case)(arguments)

    compare.run_op(op, case, drawn, call)
    for name in names:
        assert seen[name][0] == drawn[name].stride()
        assert seen[name][1] != drawn[name].data_ptr()


def test_a_state_that_is_not_updated_fails() -> None:
    def forgetful(arguments: dict[str, Any]) -> Any:
        return correct_implementation(UPDATE)({**arguments, "state": arguments["state"].clone()})

    assert "state[" in verdict(UPDATE, forgetful)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y, state: (y.float(), state), r"out is \(2, 70, 2, 16\) torch.float32, expected"),
        (lambda y, state: (y[:, :-1], state), r"out is \(2, 69, 2, 16\)"),
        (lambda y, state: (y,), "1 results, expected out, final_states"),
    ],
)
def test_results_of_another_kind_are_refused(wrong: Callable[..., Any], message: str) -> None:
    with pytest.raises(compare.WrongResult, match=message):
        verdict(SSD, lambda arguments: wrong(*correct_implementation(SSD)(arguments)))


def test_memory_is_poisoned_while_an_operation_runs_and_not_after() -> None:
    with poisoned_memory.poison_new_memory("cpu", needed=0):
        like = torch.ones(3)
        made = [torch.empty(3), torch.empty_like(like), like.new_empty(3), torch.empty_strided((3,), (1,))]
        assert all(each.isnan().all() for each in made)
        assert torch.empty(3, dtype=torch.int32).shape == (3,)
    assert torch.empty is not None
    assert "allocate_and_fill" not in repr(torch.empty)


def test_error_is_free_of_scale_and_says_where() -> None:
    reference = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64)
    got = reference.clone()
    got[1, 0] += 0.5
    for scale in (1.0, 1e6):
        found = criterion.measure_error(got * scale, reference * scale)
        assert found.rms == pytest.approx(0.25 / math.sqrt(7.5))
        assert found.worst == pytest.approx(0.5 * scale)
        assert found.index == (1, 0)
        assert (found.expected, found.got) == (3.0 * scale, 3.5 * scale)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_infinitely_wrong(value: float) -> None:
    found = criterion.measure_error(torch.tensor([1.0, value]), torch.ones(2, dtype=torch.float64))
    assert found.worst == math.inf
    assert found.index == (1,)


def test_equal_infinities_and_empty_results_are_no_error() -> None:
    infinite = torch.tensor([float("inf")], dtype=torch.float64)
    assert criterion.measure_error(infinite.float(), infinite).worst == 0
    assert criterion.measure_error(torch.empty(0), torch.empty(0, dtype=torch.float64)).rms == 0


@given(st.integers(1, 10**9))
def test_the_factor_is_two_but_for_few_numbers(count: int) -> None:
    assert 2.0 <= criterion.allowed_factor(count) <= 6.4
    assert criterion.allowed_factor(count) == 2.0 or count <= 16


@pytest.mark.parametrize("count", range(1, 64))
def test_an_equally_good_result_of_few_numbers_fails_once_in_100_000(count: int) -> None:
    """Both mean squares are estimates: the operation's from n numbers, the form's from n numbers in each rounding."""
    from scipy.stats import f

    assert criterion.FEW == 64
    quantile = f.isf(1e-5, count, count * len(precision.DITHERS)) ** 0.5
    assert criterion.allowed_factor(count) >= quantile
    assert count >= 16 or criterion.allowed_factor(count) <= quantile + 0.14


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out: has shape \(2,\), expected \(3,\)"):
        criterion.compare_result("out", torch.ones(2), [torch.ones(3)], torch.ones(3, dtype=torch.float64), 0.0)


def test_where_the_reference_is_zero_an_implementations_rounding_passes_and_more_does_not() -> None:
    """Terms that cancel exactly in the reference and the form may leave the last bits of an implementation."""
    zero = torch.zeros(8, 16, dtype=torch.float64)
    rounding, more = zero.float(), zero.float()
    rounding[4, 7], more[4, 7] = 4.1e-8, 2e-7
    for atol in criterion.ATOL.values():
        assert criterion.compare_result("grad of A", rounding, [zero.float()], zero, atol).passed
        assert not criterion.compare_result("grad of A", more, [zero.float()], zero, atol).passed
    everywhere = torch.full_like(zero, 2e-7).float()
    assert not criterion.compare_result("grad of A", everywhere, [zero.float()], zero, 8e-3).passed


@given(st.floats(-80.0, 80.0, width=32), st.floats(-3.0, 3.0, width=32))
def test_a_fast_exponential_is_off_by_at_most_what_its_documentation_allows(real: float, imaginary: float) -> None:
    for value in (torch.tensor(real), torch.tensor(complex(real, imaginary))):
        exact = torch.exp(value.to(torch.complex128))
        with precision.FastExponentials():
            fast = torch.exp(value)
        assert fast.dtype == value.dtype
        # 2^-22 by the PTX ISA, and as much again for torch's own exp and the product.
        assert abs(fast.to(torch.complex128) - exact) <= 2.0**-21 * abs(exact)


def test_fast_exponentials_use_what_is_allowed_and_hand_it_on_to_gradients() -> None:
    exponent = torch.linspace(-5.0, 0.0, 1001).requires_grad_()
    with precision.FastExponentials():
        fast = torch.exp(exponent)
    (gradient,) = torch.autograd.grad(fast.sum(), exponent)
    off = (fast / torch.exp(exponent.double()) - 1).abs().max()
    assert 0.8 * 2.0**-22 < off < 1.5 * 2.0**-22
    assert torch.allclose(gradient, fast, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("device", "coarser"), [("cpu", False), ("cuda", True)])
def test_on_a_gpu_the_form_of_an_operation_with_fast_math_has_fast_exponentials(device: str, coarser: bool) -> None:
    """mamba-ssm compiles its scan with --use_fast_math; on a CPU nothing is, and the exam's faults stay visible."""
    case = next(case for case in cases.load() if case.id == "selective_scan_fn-gradients-l129-float32")
    op = operation_table.find_operation(case.op)
    arguments = compare.draw_inputs(op, case)
    reference, form = compare.run_reference(op, case, arguments), compare.run_form(op, case, arguments, device)
    error = criterion.measure_error(form["grad of A"], reference["grad of A"]).rms
    # The kernel's own was 2.3e-6 on an H100.
    assert 8e-7 < error < 2.3e-6 if coarser else error < 5e-7

"""The table of latency cases, the messages for mistakes in it, and the cost model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scanproof.kernels import cases
from scanproof.kernels.cases import CaseError
from scanproof.kernels.latency import latency_cases
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels import compare, costs, operation_table
    from scanproof.kernels.latency import roofline, timed_calls
else:
    costs, operation_table = Late("scanproof.kernels.costs"), Late("scanproof.kernels.operation_table")
    roofline, compare = Late("scanproof.kernels.latency.roofline"), Late("scanproof.kernels.compare")
    timed_calls = Late("scanproof.kernels.latency.timed_calls")

ALL = latency_cases.load()
GPU = [each for each in ALL if each.place == "gpu"]
SCANS = ("selective_scan_fn", "mamba_chunk_scan_combined")
STEPS = ("selective_state_update", "causal_conv1d_update", "flash_attn_with_kvcache")


def table(tmp_path: Path, place: str = "gpu", **row: Any) -> Path:
    path = tmp_path / "latency.yaml"
    path.write_text(yaml.safe_dump({place: {"rmsnorm_fn": [{"name": "a", "sizes": {"b": 8}, **row}]}}))
    return path


@pytest.mark.parametrize("op", SCANS)
@pytest.mark.parametrize("direction", latency_cases.DIRECTIONS)
def test_scans_are_timed_over_all_lengths_and_batches(op: str, direction: str) -> None:
    found = [each.case.sizes for each in GPU if (each.case.op, each.direction) == (op, direction)]
    assert {min(each["l"] for each in found), max(each["l"] for each in found)} == {512, 65536}
    assert {min(each["b"] for each in found), max(each["b"] for each in found)} == {1, 256}


@pytest.mark.parametrize("op", STEPS)
def test_decode_steps_are_timed(op: str) -> None:
    assert {each.case.sizes["b"] for each in GPU if each.case.op == op} >= {1, 64}


def test_every_scan_model_of_the_numerics_has_latencies() -> None:
    models = yaml.safe_load(cases.TABLE.read_text())["models"]
    timed = {name for name in models for each in GPU if f"-{name}-" in each.id}
    assert timed == set(models)


def test_a_case_is_checked_at_no_larger_sizes_and_otherwise_as_it_is_timed() -> None:
    for each in ALL:
        assert replace(each.check, sizes=each.case.sizes) == each.case
        assert all(each.check.sizes[letter] <= size for letter, size in each.case.sizes.items())
        assert each.case.backward == (each.direction == "backward")


def test_a_backward_pass_is_asked_only_of_operations_that_have_one() -> None:
    for each in ALL:
        if each.direction == "backward":
            assert operation_table.find_operation(each.case.op).backward_flop is not None, each.id


@pytest.mark.parametrize(
    ("place", "row", "said"),
    [
        ("tpu", {}, "tpu: write one of gpu, cpu, and its operations under it"),
        ("gpu", {"directions": ["sideways"]}, "directions: sideways is not known; write some of forward, backward"),
        ("gpu", {"backward": True}, "backward is not for latencies; a backward pass is a direction"),
        ("gpu", {"check": {"q": 1}}, "check: q is not among the row's sizes"),
        ("gpu", {"size": 1}, "size is not known"),
        ("gpu", {"dtypes": ["int8"]}, "dtypes: int8 is not known"),
    ],
)
def test_a_mistake_in_a_row_is_named(tmp_path: Path, place: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(CaseError) as caught:
        latency_cases.load(table(tmp_path, place, **row))
    assert str(caught.value).startswith("latency.yaml: ")
    assert said in str(caught.value)


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latency.yaml"
    row = {"name": "a", "sizes": {"b": 8}, "dtypes": ["float32"]}
    path.write_text(yaml.safe_dump({"gpu": {"rmsnorm_fn": [row]}, "cpu": {"rmsnorm_fn": [row]}}))
    with pytest.raises(CaseError, match="two cases have the same id: rmsnorm_fn-a-float32-forward"):
        latency_cases.load(path)


@pytest.mark.parametrize(("channels", "strides"), [(1536, (300, 1)), (5376, (1, 5376))])
def test_a_convolution_is_timed_as_its_model_lays_its_input_out(channels: int, strides: tuple[int, ...]) -> None:
    """Mamba-2 swaps the axes of (b, l, d), Mamba-1 has contiguous positions: these are two kernels."""
    found = [each for each in GPU if each.case.op == "causal_conv1d_fn" and each.case.sizes["d"] == channels]
    assert {each.direction for each in found} == {"forward", "backward"}
    for each in found:
        assert (
            compare.draw_inputs(operation_table.find_operation(each.case.op), each.check)["x"].stride()[1:] == strides
        ), each.id


@pytest.mark.parametrize("layout", [None, "transposed"])
def test_the_gradient_of_a_backward_pass_is_laid_out_as_its_row_says(layout: str | None) -> None:
    seen = []

    def call(x: Any, weight: Any, bias: Any, activation: str) -> Any:
        out = x.contiguous() * weight[:, :1] + bias[:, None]
        out.register_hook(lambda gradient: seen.append(gradient.stride()))
        return out

    case = replace(named("causal_conv1d_fn-small-float32-backward"), layouts={"out": layout} if layout else {})
    timed_calls.prepare_backward(operation_table.find_operation(case.op), case, call, "cpu")(0)()
    assert seen == [(64 * 128, 1, 64) if layout else (64 * 128, 128, 1)]


def named(identifier: str) -> cases.KernelCase:
    return next(each.case for each in ALL if each.id == identifier)


def test_bytes_of_a_forward_and_a_backward_pass() -> None:
    case = named("rms_norm_fn-small-float32-forward")
    tensor, weight = 4 * 2 * 64 * 256, 4 * 256
    # x and residual in, out and residual out.
    assert costs.forward_cost(operation_table.find_operation(case.op), case).bytes == 4 * tensor + weight
    # x, residual, weight and the gradients of both results in; gradients of x, residual and weight out.
    assert costs.backward_cost(operation_table.find_operation(case.op), case).bytes == 6 * tensor + 2 * weight


def test_a_decode_step_moves_the_state_twice_and_what_is_tied_once() -> None:
    case = named("selective_state_update-decode-mamba2-2.7b-b64-bfloat16-forward")
    b, h, p, n = 64, 80, 64, 128
    state, step = 2 * b * h * p * n, 2 * b * h * p
    # A, D and dt_bias are float32, one number per head; B and C of one group; dt one number per row and head.
    expected = 2 * state + 2 * step + 2 * b * h + 2 * 2 * b * n + 3 * 4 * h
    assert costs.forward_cost(operation_table.find_operation(case.op), case).bytes == expected


def test_a_cache_is_read_whole_and_written_where_it_is_new() -> None:
    case = named("flash_attn_with_kvcache-decode-llama-8b-b16-m8192-bfloat16-forward")
    b, m, q, k, p = 16, 8192, 32, 8, 128
    cache, new, query = 2 * b * m * k * p, 2 * b * k * p, 2 * b * q * p
    assert (
        costs.forward_cost(operation_table.find_operation(case.op), case).bytes
        == 2 * cache + 4 * new + 2 * query + 4 * b
    )


@pytest.mark.parametrize("op", [*SCANS, "causal_conv1d_fn", "flash_attn_func", "rms_norm_fn", "mamba_inner_fn"])
def test_a_backward_pass_costs_two_to_three_forward_passes(op: str) -> None:
    for each in (each for each in GPU if each.case.op == op and each.direction == "backward"):
        row = operation_table.find_operation(op)
        assert 1.9 <= costs.backward_cost(row, each.case).flop / costs.forward_cost(row, each.case).flop <= 3.0, each.id


def test_an_operation_without_a_backward_pass_has_no_cost_of_one() -> None:
    case = named("selective_state_update-small-float32-forward")
    with pytest.raises(ValueError, match="selective_state_update has no backward pass"):
        costs.backward_cost(operation_table.find_operation(case.op), case)


@pytest.mark.parametrize(
    ("op", "dtype", "device", "rate"),
    [
        ("mamba_chunk_scan_combined", "bfloat16", "cuda", "bfloat16"),
        ("mamba_chunk_scan_combined", "float32", "cuda", "tf32"),
        ("mamba_chunk_scan_combined", "float32", "cpu", "float32"),
        ("selective_scan_fn", "bfloat16", "cuda", "float32"),
    ],
)
def test_arithmetic_is_held_to_the_unit_that_does_it(op: str, dtype: str, device: str, rate: str) -> None:
    case = replace(next(each.case for each in GPU if each.case.op == op), dtype=dtype)
    assert roofline.bounding_rate(operation_table.find_operation(op), case, device) == rate

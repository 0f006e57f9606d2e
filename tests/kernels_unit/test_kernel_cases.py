"""The tables of kernel cases and operations fit together, and mistakes in them have clear messages."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scanproof.kernels import cases
from scanproof.kernels.latency import latency_cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import compare, costs, inputs, invariants, operation_table, poisoned_memory
else:
    torch, inputs, costs = Late("torch"), Late("scanproof.kernels.inputs"), Late("scanproof.kernels.costs")
    invariants, operation_table = Late("scanproof.kernels.invariants"), Late("scanproof.kernels.operation_table")
    compare, poisoned_memory = Late("scanproof.kernels.compare"), Late("scanproof.kernels.poisoned_memory")

ALL = cases.load()


def table(tmp_path: Path, **row: Any) -> Path:
    path = tmp_path / "cases.yaml"
    rows = [{"name": "edge", "sizes": {"b": 1}, **row}]
    path.write_text(yaml.safe_dump({"models": {}, "triton": [], "invariants": {}, "cases": {"rmsnorm_fn": rows}}))
    return path


def test_every_operation_has_cases_and_every_case_an_operation() -> None:
    assert {case.op for case in ALL} == {op.name for op in operation_table.OPS}


def test_what_the_interpreter_cannot_run_has_a_reason() -> None:
    assert set(cases.not_interpreted()) == {op.name for op in operation_table.OPS if op.interpreter}


def test_every_dtype_of_an_operation_has_cases() -> None:
    for op in operation_table.OPS:
        assert {case.dtype for case in ALL if case.op == op.name} == set(op.dtypes)


@pytest.mark.parametrize("name", sorted({case.op for case in ALL}))
def test_references_take_the_arguments_and_options_of_their_cases(name: str) -> None:
    op = operation_table.find_operation(name)
    known = set(inspect.signature(op.reference).parameters)
    assert {each.name for each in op.arguments} <= known
    assert {option for case in ALL if case.op == op.name for option in case.options} <= known


def test_small_cases_can_be_drawn_and_referenced() -> None:
    small = [case for case in ALL if "interpreter" in case.where and case.dtype == "float32" and not case.backward]
    for case in small:
        op = operation_table.find_operation(case.op)
        results = compare.run_reference(op, case, compare.draw_inputs(op, case))
        for output in op.expected_outputs(case):
            expected = inputs.shape_of(inputs.axes_of(output, case), op.sizes(case))
            assert tuple(results[output.name].shape) == expected, case.id
            assert results[output.name].isfinite().all(), case.id


def test_a_case_with_a_tensor_of_2_31_elements_runs_alone_on_a_gpu() -> None:
    for case in ALL:
        op = operation_table.find_operation(case.op)
        passed = [each for each in op.arguments if not each.optional or each.name in case.given]
        axes = [inputs.axes_of(each, case) for each in passed]
        axes += [inputs.axes_of(each, case) for each in op.expected_outputs(case)]
        largest = max(math.prod(inputs.shape_of(each, op.sizes(case))) for each in axes)
        writes_outside = case.known is not None and "written past their tensor" in case.known.because
        assert case.alone is (largest >= 2**31 or writes_outside), case.id
        assert not case.alone or case.where == ("gpu",), case.id


def test_costs_count_each_tensor_once() -> None:
    (case,) = [case for case in ALL if case.id == "rms_norm_fn-residual-d64-bfloat16"]
    assert costs.forward_cost(operation_table.find_operation("rms_norm_fn"), case).bytes == 2 * (4 * 2 * 3 * 64 + 64)


def test_every_case_has_a_cost() -> None:
    for case in ALL:
        found = costs.forward_cost(operation_table.find_operation(case.op), case)
        # Without a row or a position nothing moves, unless there are weights.
        assert found.bytes > 0 or 0 in (case.sizes.get("b"), case.sizes.get("l"))
        assert (found.flop > 0) is (case.sizes.get("b", 1) > 0 and case.sizes.get("l", 1) > 0)


def test_a_causal_square_costs_half() -> None:
    found = {case.name: case for case in ALL if case.op == "flash_attn_func" and case.dtype == "float16"}
    case = found["evaluation-llama-8b"]
    whole = 4 * 16 * 32 * 128 * 2048 * 2048
    assert costs.forward_cost(operation_table.find_operation("flash_attn_func"), case).flop == pytest.approx(
        whole / 2, rel=1e-3
    )


def test_every_invariant_has_its_pairs() -> None:
    wanted = {(each.invariant, each.case.op) for each in cases.load_invariants() if each.invariant != "determinism"}
    assert wanted == set(invariants.PAIRS)
    repeated = {each.case.op for each in cases.load_invariants() if each.invariant == "determinism"}
    assert repeated == {op.name for op in operation_table.OPS}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"size": {}}, "rmsnorm_fn: edge: size is not known"),
        ({"name": "Edge"}, "lower case letters"),
        ({"dtypes": ["fp16"]}, "dtypes: fp16 is not known; write some of float32, float16, bfloat16"),
        ({"where": ["cpu"]}, "where: cpu is not known"),
        ({"layouts": {"x": "reversed"}}, "layouts: reversed is not known"),
        ({"model": ["mamba-9b"]}, "rmsnorm_fn: edge: model mamba-9b is not in the table of models"),
        ({"rows": True, "backward": True}, "leave one of the two out"),
        ({"sizes": {"b": [1, 1]}}, "two cases have the same id: rmsnorm_fn-edge-b1"),
        ({"sizes": [1]}, "rmsnorm_fn: edge: sizes: input should be a valid dictionary"),
        ({"sizes": {"b": "x"}}, "sizes.b: input should be a valid integer"),
        ({"sizes": {"b": -1}}, "sizes.b: input should be greater than or equal to 0"),
        ({"sizes": {"d": [4, 0]}}, "sizes.d: only b and l may be 0"),
        ({"segments": [[1, 2], [3]], "with": ["cu_seqlens"]}, "cu_seqlens is of one row"),
        ({"segments": [1, [2]]}, "segments"),
        ({"sizes": {"b": []}}, "sizes.b"),
        ({"with": "z"}, "with: input should be a valid list"),
        ({"raises": "x"}, "raises is the error of what is known: write known: as well"),
        ({"known": {"fp16": {}}}, "known.fp16: input should be 'float32', 'float16' or 'bfloat16'"),
        ({"known": {"float16": "x"}}, "edge: known.float16: write because: and the bounds of what is wrong, rms: or"),
        ({"known": {"float16": {"rms": {"out": 1}}}}, "known.float16.because: field required"),
        ({"known": {"float16": {"because": ""}}}, "known.float16.because: string should have at least 1 character"),
        ({"known": {"float16": {"because": "x"}}}, "known.float16: names no result: write rms: {RESULT: BOUND}"),
        ({"known": {"float16": {"because": "x", "times": {"out": 1}}}}, "known.float16.times.out: input should be gre"),
        ({"known": {"float16": {"because": "x", "rms": {"out": "much"}}}}, "rms.out: input should be a valid number"),
        (
            {"known": {"float16": {"because": "x", "rms": {"out": math.inf}}}},
            "rms.out: input should be a finite",
        ),
        ({"known": {"float16": {"because": "x", "at": 3}}}, "known.float16.at: extra inputs are not permitted"),
        (
            {"known": {"float16": {"because": "x", "rms": {"out": 1}, "times": {"out": 2}}}},
            "known.float16: out has two bounds",
        ),
        (
            {"raises": "KeyError: x", "known": {"float16": {"because": "x", "rms": {"out": 1}}}},
            "known.float16: the row says raises:, and an operation that raises has no results",
        ),
        (
            {"alone": True, "known": {"float16": {"because": "x", "wraps": True, "rms": {"out": 1}}}},
            "known.float16: where offsets wrap, nothing else can be known",
        ),
        (
            {"known": {"float16": {"because": "x", "wraps": True}}},
            "known.float16: offsets that wrap may break the GPU for the process: write alone: true",
        ),
        *(
            ({"raises": text, "known": {"float16": {"because": "x"}}}, "raises: write a type of Python's own and words")
            for text in ("wrong", "RuntimeError: ", "SystemExit: 1", "MemoryError: all", "AcceleratorError: CUDA error")
        ),
        ({"types": {"x": "complex63"}}, "types.x: input should be"),
    ],
)
def test_mistakes_name_the_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(cases.CaseError, match=message):
        cases.load(table(tmp_path, **row))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cases: {x", "is not YAML"),
        ("", "has no parts"),
        ("cases: []", "cases: is missing or not a table"),
        ("{cases: {x: []}, models: {}, triton: []}", "x: write a list of rows, one at least"),
        ("{cases: {x: [a]}, models: {}, triton: []}", "x: row 'a': is not a row"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(text)
    with pytest.raises(cases.CaseError, match=message):
        cases.load(path)
    with pytest.raises(cases.CaseError, match="cannot be read"):
        cases.load(tmp_path / "none.yaml")


def test_contiguous_channels_stay_contiguous_at_one_position() -> None:
    (case,) = [case for case in ALL if case.id == "causal_conv1d_fn-states_one-float32"]
    given = compare.draw_inputs(operation_table.find_operation(case.op), case)
    assert given["x"].stride() == (16, 1, 16)
    assert given["initial_states"].stride() == (48, 1, 16)


def test_blocks_of_nan_fit_the_room_they_are_given() -> None:
    room = 2**28
    blocks = poisoned_memory.allocate_nan_blocks("cpu", room)
    large = [block for block in blocks if block.numel() >= 2**19]
    assert room // 2 <= 4 * sum(block.numel() for block in large) + 2**21 <= room
    assert all(block.isnan().all() for block in blocks)


@pytest.mark.parametrize("workers", [None, 1, 4, 16])
def test_processes_that_share_a_gpu_share_the_room_for_nan(
    monkeypatch: pytest.MonkeyPatch, workers: int | None
) -> None:
    """Each process keeps its blocks until it ends; together they leave three quarters of the memory free."""
    import torch

    free, small, taken = 80 * 2**30, 2**25, []

    def full(size: tuple[int], value: float, device: str) -> object:
        taken.append(4 * size[0])
        return object()

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    monkeypatch.setattr(torch, "full", full)
    if workers is None:
        monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    else:
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(workers))
    with poisoned_memory.poison_new_memory("cuda", needed=free):
        pass
    assert free / 8 - small <= (workers or 1) * sum(taken) <= free / 4 + (workers or 1) * small


def test_a_small_case_fills_no_more_memory_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes may use the same GPU."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    assert poisoned_memory.nan_room(80 * 2**30, needed=2**32) == 2**31
    assert poisoned_memory.nan_room(80 * 2**30, needed=2**40) == 20 * 2**30


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"with": ["w"]}, "with: rmsnorm_fn has no argument w; write one of bias, weight, x, z"),
        ({"values": {"wieght": "normal"}}, "values: rmsnorm_fn has no argument wieght; did you mean weight?"),
        ({"values": {"x": "near1"}}, "values: x: no values are called near1; did you mean near_one?"),
        ({"axes": {"outt": "b l d"}}, "axes: rmsnorm_fn has no argument or result outt; did you mean out?"),
        ({"axes": {"x": "b L d"}}, "axes: x: no size has the letter L; write one of N, S, b, d, l"),
        ({"types": {"wieght": "float32"}}, "types: rmsnorm_fn has no argument or result wieght; did you mean weight?"),
        ({"layouts": {"xx": "padded"}}, "layouts: rmsnorm_fn has no argument or result xx; did you mean x?"),
        (
            {"known": {dtype: {"because": "x", "rms": {"outt": 2}} for dtype in cases.DTYPES}},
            "known: rmsnorm_fn has here no result outt; did you mean out?",
        ),
    ],
)
def test_an_unknown_name_is_reported_with_the_most_similar_one(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    (case, *_) = cases.load(table(tmp_path, **{"sizes": {"b": 1, "l": 2, "d": 4}, **row}))
    with pytest.raises(cases.CaseError, match=f"^cases.yaml: rmsnorm_fn: edge: {re.escape(message)}"):
        compare.draw_inputs(operation_table.find_operation("rmsnorm_fn"), case)


@pytest.mark.parametrize("name", sorted({case.op for case in ALL}))
def test_the_rows_name_what_their_operation_has(name: str) -> None:
    op = operation_table.find_operation(name)
    timed = [each.case for each in latency_cases.load()]
    for case in [each for each in (*ALL, *timed) if each.op == name]:
        inputs.check_names(case, op.arguments, op.outputs, op.sizes(case))


def test_one_more_argument_does_not_change_the_others(tmp_path: Path) -> None:
    (plain, *_) = cases.load(table(tmp_path, sizes={"b": 1, "l": 2, "d": 4}))
    (gated, *_) = cases.load(table(tmp_path, sizes={"b": 1, "l": 2, "d": 4}, **{"with": ["z"]}))
    op = operation_table.find_operation("rmsnorm_fn")
    assert torch.equal(compare.draw_inputs(op, plain)["x"], compare.draw_inputs(op, gated)["x"])


@pytest.mark.parametrize(("layout", "strides"), [("transposed", (6, 1, 2)), ("padded", (22, 11, 1))])
def test_layouts_change_strides_and_not_values(tmp_path: Path, layout: str, strides: tuple[int, ...]) -> None:
    sizes = {"b": 1, "l": 2, "d": 3}
    (plain, *_) = cases.load(table(tmp_path, sizes=sizes))
    (other, *_) = cases.load(table(tmp_path, sizes=sizes, layouts={"x": layout}))
    first, second = (
        compare.draw_inputs(operation_table.find_operation("rmsnorm_fn"), case)["x"] for case in (plain, other)
    )
    assert torch.equal(first, second)
    assert second.stride() == strides


def test_positions_and_heads_are_swapped_in_memory() -> None:
    """x of Mamba2InLlama, (b, l, h, p), lies as (b, h, l, p)."""
    (case,) = [case for case in ALL if case.id == "mamba_chunk_scan_combined-heads_first-float32"]
    plain = replace(case, layouts={})
    first, second = (compare.draw_inputs(operation_table.find_operation(each.op), each)["x"] for each in (plain, case))
    assert torch.equal(first, second)
    assert (first.stride(), second.stride()) == ((2560, 64, 16, 1), (2560, 16, 640, 1))


def test_steps_near_a_millionth_are_drawn() -> None:
    (case,) = [case for case in ALL if case.id == "mamba_chunk_scan_combined-tiny_steps-float32"]
    steps = torch.nn.functional.softplus(
        compare.draw_inputs(operation_table.find_operation(case.op), case)["dt"].double()
    )
    assert steps.min() > 0.9e-6
    assert steps.max() < 2.2e-6


def test_a_gradient_comes_in_the_layout_that_the_case_gives_the_output(tmp_path: Path) -> None:
    sizes, seen = {"b": 1, "l": 2, "d": 3}, []
    op = operation_table.find_operation("rmsnorm_fn")

    def watched(**given: Any) -> Any:
        (y,) = op.reference(**given)
        y.register_hook(lambda gradient: seen.append(gradient))
        return y

    for layouts in ({}, {"out": "transposed"}):
        (case, *_) = cases.load(table(tmp_path, sizes=sizes, layouts=layouts, backward=True))
        compare.run_op(op, case, compare.draw_inputs(op, case), watched)
    plain, strided = seen
    assert torch.equal(plain, strided)
    assert [gradient.stride() for gradient in seen] == [(6, 3, 1), (6, 1, 2)]


def test_an_argument_that_no_gradient_reaches_is_named(tmp_path: Path) -> None:
    op = operation_table.find_operation("rmsnorm_fn")
    (case, *_) = cases.load(table(tmp_path, sizes={"b": 1, "l": 2, "d": 4}, backward=True, **{"with": ["z"]}))

    def ungated(**given: Any) -> Any:
        return op.reference(**{**given, "z": None})

    with pytest.raises(compare.WrongResult, match="no gradient reaches z"):
        compare.run_op(op, case, compare.draw_inputs(op, case), ungated)


def test_only_one_row_passes_the_inner_function_a_bias_and_has_its_gradient() -> None:
    """The published models have no such bias, and mamba-ssm raises when its gradient is computed."""
    rows = [case for case in ALL if case.op == "mamba_inner_fn" and "out_proj_bias" in case.values]
    assert len(rows) > 1
    assert {case.name for case in rows if case.backward or case.known} == {"bias_gradient"}
    assert all(case.known for case in rows if case.name == "bias_gradient")
    for case in ALL:
        if case.op == "mamba_inner_fn" and case.sizes["l"] < 100:
            drawn = compare.draw_inputs(operation_table.find_operation(case.op), case)
            assert (drawn["out_proj_bias"] is None) is ("out_proj_bias" not in case.values)

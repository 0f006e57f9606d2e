"""The exam: kernel checks detect every planted fault, and raise no alarm where no fault is planted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from scanproof.plugin.kernel_fixtures import Missing
from tests.support import planted_page
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.faults import catalogue, exam, fault, implementations
    from scanproof.kernels import compare, operation_table
    from scanproof.kernels.operation import Op
else:
    torch, operation_table, compare = (
        Late("torch"),
        Late("scanproof.kernels.operation_table"),
        Late("scanproof.kernels.compare"),
    )
    catalogue, exam = Late("scanproof.faults.catalogue"), Late("scanproof.faults.exam")
    fault, implementations = Late("scanproof.faults.fault"), Late("scanproof.faults.implementations")

OPERATIONS = sorted({case.op for case in cases.load()})
FRESH_SEEDS = range(2)
"""Each takes some cases of every operation and dtype; at its own seed `tests/kernels` runs every one."""


@pytest.fixture(scope="module")
def suite() -> exam.ExamSuite:
    return exam.build_suite(implementations.prepare_implementations("reference"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_fault_of_an_operation_is_seen_by_a_kernel_check(suite: exam.ExamSuite, operation: str) -> None:
    planted = [each for each in catalogue.FAULTS if each.op == operation]
    assert len([each for each in planted if each.links]) >= 1, "a reported fault of each operation"
    assert len([each for each in planted if not each.links]) >= 2, "and generic ones"
    # The page says which check sees a fault first.  Begun with, it has to see the fault again: all of them in order
    # take ten times as long.  Whether the others pass without a fault is not asked here: tests/kernels runs them.
    first = planted_page.read_first_checks()
    answers = [exam.examine(each, suite, until_caught=True, start_with=first[each.id, each.op]) for each in planted]
    assert [answer.fault.id for answer in answers if not answer.caught] == []
    untrue = [
        f"{answer.fault.id} is not seen by {name}, but by {answer.checks[-1].id}"
        for answer in answers
        if (name := first[answer.fault.id, operation]) != answer.checks[0].id or not answer.checks[0].message
    ]
    # What changes at random is seen by one check or another.
    assert [line for line in untrue if not line.startswith("unrepeatable-")] == [], "docs/planted-faults.md says so"
    assert [check.without for answer in answers for check in answer.not_judged] == []
    messages = [check.message for answer in answers for check in answer.checks]
    assert not [message for message in messages if exam.RAISED in message], (
        "a plant that cannot be called shows nothing"
    )


def test_a_fault_of_later_or_of_first_calls_is_made_anew_each_time_it_is_planted() -> None:
    """As a kernel that is compiled wrong only where it is the first one of its process."""
    op = operation_table.find_operation("rmsnorm_fn")
    (case,) = [each for each in cases.load() if each.id == "rmsnorm_fn-grouped-float32"]

    def first_call_gives_zeros() -> fault.Spoil:
        calls: list[int] = []

        def spoil(call: fault.Call, arguments: fault.Arguments) -> Any:
            calls.append(len(calls))
            return call(**arguments) * (len(calls) > 1)

        return spoil

    planted = fault.Fault("zeros", op.name, "The first call gives zeros.", fault.WithMemory(first_call_gives_zeros))
    for _ in range(2):
        call = fault.plant(planted, implementations.prepare_implementations("reference").call(op, 1))
        messages = [exam.check_numerics(case, call, "cpu").message for _ in range(2)]
        assert "rmsnorm_fn-grouped-float32" in messages[0]
        assert messages[1] == ""


def test_a_clean_run_raises_no_alarm(suite: exam.ExamSuite) -> None:
    runs = list(exam.run_clean(FRESH_SEEDS, suite))
    groups = {(case.op, case.dtype) for case in suite.cases}
    assert len(runs) == len(FRESH_SEEDS)
    assert all(run.checks > len(groups) for run in runs), "of every operation and dtype some cases, and invariants"
    assert [alarm.message or alarm.id for each in runs for alarm in each.alarms] == []


def test_a_clean_run_of_a_wrong_implementation_raises_alarms(suite: exam.ExamSuite) -> None:
    (late,) = [each for each in catalogue.FAULTS if each.id == "late-causal_conv1d_fn"]

    def wrong(op: Op, seed: int) -> fault.Call:
        call = suite.implementations.call(op, seed)
        return fault.plant(late, call) if op.name == late.op else call

    tested = exam.Implementations("reference", "cpu", wrong)
    only = exam.ExamSuite(tested, tuple(each for each in suite.cases if each.op == late.op), ())
    (clean,) = exam.run_clean([3], only)
    assert clean.alarms
    assert {alarm.id.partition("-")[0] for alarm in clean.alarms} == {late.op}


def test_what_cannot_be_imported_is_left_out_with_the_invariants_that_call_it() -> None:
    def call(op: Op, seed: int) -> fault.Call:
        if op.name == "selective_state_update":
            raise ImportError("no module")
        return op.reference

    tested = exam.Implementations("interpreter", "cpu", call, {"selective_state_update": "no module"})
    here = exam.build_suite(tested)
    assert "mamba_chunk_scan_combined" in here.operations
    assert "selective_state_update" not in here.operations
    assert here.invariants
    assert not [row.id for row, used in here.invariants if "selective_state_update" in used]


def test_a_dtype_that_is_refused_does_not_say_for_the_others_which_operations_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check of that row stops at its first call, and the operation of the steps is not met."""
    sound = implementations.prepare_implementations("reference")
    rows = [row for row in exam.select_small_invariants(sound) if row.id.startswith("causal_conv1d_fn-steps-")]
    monkeypatch.setattr("scanproof.faults.exam.select_small_invariants", lambda tested: tuple(rows))
    first = rows[0].case.dtype

    def call(op: Op, seed: int) -> fault.Call:
        def refuse(**arguments: Any) -> Any:
            if str(arguments["x"].dtype) == f"torch.{first}":
                raise RuntimeError("not in this dtype")
            return sound.call(op, seed)(**arguments)

        return refuse

    whole = exam.build_suite(sound).invariants
    refused = exam.build_suite(exam.Implementations("reference", "cpu", call)).invariants
    assert len(rows) > 1
    assert {used for _, used in whole} == {frozenset({"causal_conv1d_fn", "causal_conv1d_update"})}
    assert refused[1:] == whole[1:]


def harmless(call: Any, arguments: dict[str, Any]) -> Any:
    return call(**arguments)


def test_a_fault_that_does_nothing_is_not_caught_and_the_command_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from scanproof.cli.app import app

    nothing = fault.Fault("nothing", "layer_norm_fn", "It does nothing.", harmless)
    (real,) = [each for each in catalogue.FAULTS if each.id == "one_element-layer_norm_fn"]
    sound = implementations.prepare_implementations("reference")
    few = [case for case in exam.select_small_cases(sound) if case.op == real.op]
    rows = [row for row in exam.select_small_invariants(sound) if row.case.op == real.op]
    monkeypatch.setattr("scanproof.faults.exam.select_small_cases", lambda tested: few)
    monkeypatch.setattr("scanproof.faults.exam.select_small_invariants", lambda tested: rows)
    monkeypatch.setattr("scanproof.faults.catalogue.FAULTS", (real, nothing))
    result = CliRunner().invoke(app, ["exam"])
    assert result.exit_code == 1
    assert "2 faults: 1 caught, 1 by numerics, 1 by invariants; NOT CAUGHT: nothing" in result.output
    monkeypatch.setattr("scanproof.faults.catalogue.FAULTS", (real,))
    assert CliRunner().invoke(app, ["exam"]).exit_code == 0


@pytest.mark.parametrize("raises", [False, True])
def test_a_check_that_fails_without_the_fault_shows_nothing(monkeypatch: pytest.MonkeyPatch, raises: bool) -> None:
    """The kernel is wrong, or raises, before anything is planted: nothing is caught, and the command fails."""
    from typer.testing import CliRunner

    from scanproof.cli.app import app

    (real,) = [each for each in catalogue.FAULTS if each.id == "one_element-layer_norm_fn"]
    nothing = fault.Fault("nothing", "layer_norm_fn", "It does nothing.", harmless)
    sound = implementations.prepare_implementations("reference")

    def wrong(op: Op, seed: int) -> fault.Call:
        def call(**arguments: Any) -> Any:
            if raises:
                raise RuntimeError("the kernel is not there")
            return fault.plant(real, sound.call(op, seed))(**arguments)

        return call

    tested = exam.Implementations("reference", "cpu", wrong)
    monkeypatch.setattr("scanproof.faults.implementations.prepare_implementations", lambda name: tested)
    monkeypatch.setattr("scanproof.faults.catalogue.FAULTS", (nothing, real))
    monkeypatch.setattr("scanproof.faults.exam.select_small_invariants", lambda tested: ())
    monkeypatch.setattr(
        "scanproof.faults.exam.select_small_cases",
        lambda tested: tuple(case for case in cases.load() if case.id == "layer_norm_fn-edge-d7-float32"),
    )
    result = CliRunner().invoke(app, ["exam"])
    assert result.exit_code == 1
    assert "2 faults: 0 caught, 0 by numerics" in result.output
    assert "cannot be judged: fails without the fault: nothing, one_element-layer_norm_fn" in result.output
    assert "checks that fail without a fault: numerics layer_norm_fn-edge-d7-float32" in result.output


def test_a_fault_that_another_check_sees_is_caught_but_the_failing_check_fails_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from typer.testing import CliRunner

    from scanproof.cli.app import app

    (real,) = [each for each in catalogue.FAULTS if each.id == "one_element-layer_norm_fn"]
    sound = implementations.prepare_implementations("reference")
    calls: list[str] = []

    def wrong(op: Op, seed: int) -> fault.Call:
        correct = sound.call(op, seed)

        def call(**arguments: Any) -> Any:
            calls.append(str(arguments["x"].dtype))
            spoiled = arguments["x"].dtype == torch.bfloat16
            return (fault.plant(real, correct) if spoiled else correct)(**arguments)

        return call

    tested = exam.Implementations("reference", "cpu", wrong)
    rows = tuple(case for case in cases.load() if case.id.startswith("layer_norm_fn-edge-d7-"))
    suite = exam.ExamSuite(tested, rows, ())
    answers = [exam.examine(real, suite), exam.examine(real, suite)]
    assert [answer.caught for answer in answers] == [True, True]
    assert [[check.id for check in answer.not_judged] for answer in answers] == [["layer_norm_fn-edge-d7-bfloat16"]] * 2
    assert [len(answer.seen_by(numerics=True)) for answer in answers] == [2, 2]
    assert calls.count("torch.bfloat16") == 1, "a check is run once without a fault, and its result is kept"
    monkeypatch.setattr("scanproof.faults.implementations.prepare_implementations", lambda name: tested)
    monkeypatch.setattr("scanproof.faults.catalogue.FAULTS", (real,))
    monkeypatch.setattr("scanproof.faults.exam.build_suite", lambda tested: suite)
    assert CliRunner().invoke(app, ["exam"]).exit_code == 1


STEPS = ("selective_scan_fn", "mamba_inner_fn", "selective_state_update", "mamba_chunk_scan_combined",
         "mamba_split_conv1d_scan_combined")  # fmt: skip


@pytest.mark.parametrize("cut", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("operation", STEPS)
def test_a_softplus_that_is_cut_too_early_is_seen(
    suite: exam.ExamSuite, operation: str, cut: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    op, softplus = operation_table.find_operation(operation), torch.nn.functional.softplus

    def early(value: torch.Tensor) -> torch.Tensor:
        return torch.where(value <= cut, softplus(value), value)

    def call(**arguments: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr("torch.nn.functional.softplus", early)
            return suite.implementations.call(op, 7)(**arguments)

    rows = [case for case in suite.cases if case.op == operation and case.dtype == "float32" and not case.types]
    spread = [case for case in rows if case.values] or rows
    assert any(exam.check_numerics(case, call, "cpu").message for case in spread)


def test_clean_runs_are_printed_as_data() -> None:
    from typer.testing import CliRunner

    from scanproof.cli.app import app

    result = CliRunner().invoke(app, ["exam", "--clean", "1", "--format", "json"])
    assert result.exit_code == 0
    (run,) = json.loads(result.stdout)
    assert run["results"] > 0
    assert (run["seed"], run["alarms"]) == (1000, [])


def test_results_of_other_shapes_break_an_invariant_and_the_comparison(suite: exam.ExamSuite) -> None:
    """None is repeated until it fits the other."""
    (sliced,) = [each for each in catalogue.FAULTS if each.id == "conv_last_slice"]
    (row,) = [row for row, _ in suite.invariants if row.id == "causal_conv1d_fn-split-float32"]

    def calls(name: str) -> fault.Call:
        return fault.plant(sliced, suite.implementations.call(operation_table.find_operation(name), 0))

    assert "y: the shapes (2, 16, 3) and (2, 16, 4) should agree" in exam.check_invariant(row, calls, "cpu").message
    assert "expected (" in exam.examine(sliced, suite, until_caught=True).seen_by(numerics=True)[0].message


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_implementation_under_test_is_not_the_form_it_is_judged_by(suite: exam.ExamSuite, operation: str) -> None:
    """It rounds differently from the form, so that a clean run is a real test; equal calls still give equal bits.

    What an operation only copies is not rounded.
    """
    is_rounded = operation != "causal_conv1d_varlen_states"
    op = operation_table.find_operation(operation)
    wide = [case for case in suite.cases if case.op == operation and case.dtype == op.dtypes[0]]
    case = max(wide, key=lambda each: each.sizes.get("l", 1) * each.sizes.get("d", 1))
    arguments = compare.draw_inputs(op, case)
    first, again, other = (
        compare.run_op(op, case, arguments, suite.implementations.call(op, seed)) for seed in (1, 1, 2)
    )
    form = compare.run_form(op, case, arguments)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first) is is_rounded
    assert any(not torch.equal(first[name], form[name]) for name in first) is is_rounded


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["ssd_initial_not_decayed", "step_row_wraps", "gated_norm_one_group"])
def test_a_fault_in_an_installed_kernel_is_seen(
    scanproof_interpreter: str | None, scanproof_missing: Missing, name: str
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    tested = exam.Implementations("interpreter", "cpu", implementations.load_installed)
    (planted,) = [each for each in catalogue.FAULTS if each.id == name]
    float32 = tuple(
        case for case in exam.select_small_cases(tested) if case.op == planted.op and case.dtype == "float32"
    )
    assert exam.examine(planted, exam.ExamSuite(tested, float32, ()), until_caught=True).caught

"""`-m "gpu and quick"`: something of everything, and few enough tunings for ten minutes.  Counted, not timed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from scanproof.kernels.latency import latency_cases
from scanproof.plugin.kernel_fixtures import Missing
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels import compare, invariants, operation_table
else:
    invariants, operation_table, compare = (
        Late("scanproof.kernels.invariants"), Late("scanproof.kernels.operation_table"),
        Late("scanproof.kernels.compare"),
    )  # fmt: skip

ROWS = [case for case in cases.load() if case.quick]
INVARIANTS = [row for row in cases.load_invariants() if row.quick]
LATENCIES = [row for row in latency_cases.load() if row.quick]
MOST_TUNINGS = 856
"""Configurations that Triton's autotuner compiles and times when nothing is cached, at about a second each: 741 of
mamba-ssm's kernels and 115 of fla's, which has more of them where it finds a GPU of its own kind."""


def test_every_operation_is_selected_forward_and_backward() -> None:
    for op in {case.op for case in cases.load()}:
        chosen = [case for case in ROWS if case.op == op and case.known is None]
        # A case with gradients compares the results of the forward pass as well.
        assert chosen, op
        assert any(case.backward for case in chosen) is any(case.backward for case in cases.load() if case.op == op), op
    assert all("gpu" in case.where and not case.alone for case in ROWS)


def test_every_invariant_of_every_operation_is_selected() -> None:
    chosen = {(row.invariant, row.case.op) for row in INVARIANTS}
    assert chosen == {(row.invariant, row.case.op) for row in cases.load_invariants()}


def test_latencies_of_every_operation_that_tunes_nothing_are_selected_in_every_direction() -> None:
    tuned = {case.op for case in cases.load() if case.tuned}
    there = {(row.case.op, row.direction) for row in latency_cases.load() if row.place == "gpu"}
    assert sorted((row.case.op, row.direction) for row in LATENCIES) == sorted(
        each for each in there if each[0] not in tuned
    )


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    table = cases.TABLE.read_text()
    wrong = tmp_path / "cases.yaml"
    wrong.write_text(table.replace("[edge, block, gate_only]", "[edge, blocks]"))
    with pytest.raises(cases.CaseError, match="tuned: mamba_split_conv1d_scan_combined has no row blocks"):
        cases.load(wrong)


@pytest.mark.interpreted
def test_the_selection_tunes_few_configurations(
    scanproof_interpreter: str | None, scanproof_missing: Missing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of Triton's autotuner are those of a GPU: values of the key's arguments and dtypes of all tensors."""
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    from triton.runtime.autotuner import Autotuner

    tuned: dict[tuple[str, ...], int] = {}
    launch = Autotuner.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        values = [given[name] for name in self.keys if name in given]
        dtypes = [str(given[name].dtype) for name in self.arg_names if hasattr(given.get(name), "dtype")]
        kernel = getattr(self.base_fn, "fn", self.base_fn)
        tuned[kernel.__name__, *map(str, values), *dtypes] = len(self.configs)
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(Autotuner, "run", noted)
    for case in ROWS:
        if case.tuned:
            op = operation_table.find_operation(case.op)
            compare.run_op(op, case, compare.draw_inputs(op, case), op.load_implementation())
    for row in INVARIANTS:
        if row.case.tuned and row.invariant != "determinism":
            op = operation_table.find_operation(row.case.op)
            pairs = invariants.PAIRS[row.invariant, op.name]
            pairs(
                lambda name: compare.return_tuples(operation_table.find_operation(name).load_implementation()),
                compare.draw_inputs(op, row.case),
            )
    assert {case.op for case in ROWS if case.tuned} >= {"mamba_chunk_scan_combined", "layer_norm_fn"}
    assert 0 < sum(tuned.values()) <= MOST_TUNINGS, sum(tuned.values())


@pytest.mark.interpreted
def test_what_is_not_marked_as_tuned_has_no_autotuner(
    scanproof_interpreter: str | None, scanproof_missing: Missing, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    from triton.runtime.autotuner import Autotuner

    launched: list[Any] = []
    launch = Autotuner.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        launched.append(self)
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(Autotuner, "run", noted)
    first = {case.op: case for case in reversed(cases.load()) if "interpreter" in case.where}
    for case in first.values():
        launched.clear()
        op = operation_table.find_operation(case.op)
        try:
            installed = op.load_implementation()
        except ImportError as error:
            scanproof_missing(f"{op.name} of {op.package} cannot be imported ({error})")
        compare.run_op(op, case, compare.draw_inputs(op, case), installed)
        assert bool(launched) is case.tuned, case.id

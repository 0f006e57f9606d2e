"""The invariants of a state that is handed on hold for a correct implementation, and each sees faults of states."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.faults import attention, batches, convolutions, correct
    from scanproof.kernels import compare, invariants, operation_table
    from scanproof.kernels.references import papers
else:
    torch, correct, compare = Late("torch"), Late("scanproof.faults.correct"), Late("scanproof.kernels.compare")
    attention, convolutions = Late("scanproof.faults.attention"), Late("scanproof.faults.convolutions")
    batches = Late("scanproof.faults.batches")
    invariants, operation_table = Late("scanproof.kernels.invariants"), Late("scanproof.kernels.operation_table")
    papers = Late("scanproof.kernels.references.papers")

Call = Callable[..., Any]
Spoil = Callable[[Call, dict[str, Any]], Any]
STEP, CONV, CACHE = "selective_state_update", "causal_conv1d_update", "flash_attn_with_kvcache"
SSD, PREFILL = "mamba_chunk_scan_combined", "causal_conv1d_fn"
ROWS = {(row.invariant, row.case.op): row for row in reversed(cases.load_invariants())}
"""In the first dtype of each, float32 but for attention."""
KINDS = ("slots", "tenant", "rollback", "ring_rollback", "joining", "eviction")


def violations(invariant: str, op: str, spoil: Spoil) -> list[str]:
    """What the invariant says of correct implementations, of which this operation's calls go through `spoil`."""
    row = ROWS[invariant, op]

    def calls(name: str) -> Call:
        call = correct.make_correct(operation_table.find_operation(name), seed=1)
        return compare.return_tuples((lambda **given: spoil(call, given)) if name == op else call)

    inputs = compare.draw_inputs(operation_table.find_operation(op), row.case)
    return invariants.find_violations(row.case, invariants.PAIRS[invariant, op](calls, inputs))


def as_it_is(call: Call, given: dict[str, Any]) -> Any:
    return call(**given)


def index_of(given: dict[str, Any]) -> str:
    return next(name for name in given if name in ("state_batch_indices", "conv_state_indices", "cache_batch_idx"))


def rows_wrap(call: Call, given: dict[str, Any]) -> Any:
    """A slot's number is taken modulo the batch."""
    rows = given[index_of(given)]
    return call(**{**given, index_of(given): torch.where(rows >= 0, rows % len(rows), rows)})


def padding_written(call: Call, given: dict[str, Any]) -> Any:
    """A padded row writes into the last slot."""
    rows, state = given[index_of(given)], next(name for name in ("state", "conv_state") if name in given)
    y = call(**given)
    if (rows < 0).any():
        given[state][-1] += 1
    return y


def one_key_too_many(call: Call, given: dict[str, Any]) -> Any:
    """New keys are written one place late, behind one of the former tenant's."""
    return call(**{**given, "cache_seqlens": given["cache_seqlens"] + 1})


def state_dropped(call: Call, given: dict[str, Any]) -> Any:
    """A call over several positions ignores the state, if it is no prefill."""
    lost = {"initial_states": None} if given["x"].shape[1] < 10 else {}
    return call(**{**given, **lost})


def state_of_the_draft(call: Call, given: dict[str, Any]) -> Any:
    """Of a part of a draft the state is one position old."""
    y, state = call(**given)
    if 1 < given["x"].shape[1] < 5:
        part = {name: given[name][:, :-1] for name in ("x", "dt", "B", "C", "z")}
        state = call(**{**given, **part})[1]
    return y, state


def one_row_in_the_first_slot(call: Call, given: dict[str, Any]) -> Any:
    """A batch of one row has no need of a slot's number."""
    rows = given[index_of(given)]
    return call(**{**given, index_of(given): torch.zeros_like(rows) if len(rows) == 1 else rows})


def counted_together(call: Call, given: dict[str, Any]) -> Any:
    """All rows of a batch are where its first row is."""
    seen = given["cache_seqlens"]
    return call(**{**given, "cache_seqlens": seen[:1].expand_as(seen).contiguous()})


def states_in_another_order(call: Call, given: dict[str, Any]) -> Any:
    """The states come in the order in which rows were numbered, and not in that of the batch."""
    return call(**{**given, "initial_states": given["initial_states"].flip(0)})


FAULTS: list[tuple[str, str, str, Callable[[], Spoil]]] = [
    ("slots", STEP, "rows_wrap", lambda: rows_wrap),
    ("slots", STEP, "padding_written", lambda: padding_written),
    ("slots", CONV, "rows_wrap", lambda: rows_wrap),
    ("slots", CONV, "padding_written", lambda: padding_written),
    ("slots", CACHE, "rows_wrap", lambda: rows_wrap),
    ("tenant", CACHE, "one_key_too_many", lambda: one_key_too_many),
    ("rollback", "mamba_chunk_scan_combined", "state_dropped", lambda: state_dropped),
    ("rollback", "mamba_chunk_scan_combined", "state_of_the_draft", lambda: state_of_the_draft),
    ("rollback", CONV, "first_token_only", lambda: convolutions.first_token_only),
    ("rollback", CONV, "outputs_in_cache", lambda: convolutions.outputs_in_cache),
    ("ring_rollback", CONV, "first_token_only", lambda: convolutions.first_token_only),
    ("split", CACHE, "history_ignored", lambda: attention.history_ignored),
    ("split", CACHE, "not_written", lambda: attention.not_written),
    ("rollback", CACHE, "history_ignored", lambda: attention.history_ignored),
    ("rollback", CACHE, "not_written", lambda: attention.not_written),
    *(
        (invariant, op, name, spoil)
        for invariant in ("joining", "eviction")
        for op in (STEP, CONV, CACHE)
        for name, spoil in (
            ("slots_kept", lambda: batches.slots_of_an_earlier_batch()),
            ("state_kept", lambda: batches.state_of_the_last_call()),
        )
    ),
    *(("joining", op, "one_row", lambda: one_row_in_the_first_slot) for op in (STEP, CONV, CACHE)),
    *(("joining", op, "counted_together", lambda: counted_together) for op in (CONV, CACHE)),
    *(("joining", op, "states_in_another_order", lambda: states_in_another_order) for op in (SSD, PREFILL)),
]


@pytest.mark.parametrize(("invariant", "op"), [row for row in ROWS if row[0] in KINDS or row == ("split", CACHE)])
def test_a_correct_implementation_keeps_it(invariant: str, op: str) -> None:
    assert violations(invariant, op, as_it_is) == []


@pytest.mark.parametrize(("invariant", "op", "name", "spoil"), FAULTS, ids=["-".join(row[:3]) for row in FAULTS])
def test_it_sees_the_fault(invariant: str, op: str, name: str, spoil: Callable[[], Spoil]) -> None:
    assert violations(invariant, op, spoil())


def test_a_selective_scan_in_two_pieces_is_the_whole_wherever_it_is_cut() -> None:
    """The operation takes no state to begin with; its reference does: cut at every offset of a chunk of 8."""
    draw = torch.Generator().manual_seed(0)
    u, delta, z, B, C = (torch.randn(2, 4, 20, generator=draw, dtype=torch.float64) for _ in range(5))
    A, D = -torch.rand(4, 4, generator=draw, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    start = torch.randn(2, 4, 4, generator=draw, dtype=torch.float64)

    def scan(first: int, end: int, state: Any) -> Any:
        parts = (part[..., first:end] for part in (u, delta, B, C, z))
        u_p, delta_p, B_p, C_p, z_p = parts
        return papers.selective_scan(
            u_p, delta_p, A, B_p, C_p, D, z_p, delta_softplus=True, initial_state=state, chunk_size=8
        )

    y, last = scan(0, 20, start)
    for cut in range(21):
        first, state = scan(0, cut, start)
        second, end = scan(cut, 20, state)
        assert (torch.cat([first, second], dim=-1) - y).abs().max() < 1e-13
        assert (end - last).abs().max() < 1e-13

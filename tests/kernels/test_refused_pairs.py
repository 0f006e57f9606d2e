"""What an operation refuses by an error it does refuse: on the day that it takes such a pair, rows are due for it.

These are the pairs under `refused:` in cases.yaml with the reason that the operation raises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.cases import KernelCase, load
from scanproof.kernels.known import split_error
from scanproof.plugin.kernel_fixtures import Kernels, Require
from scanproof.plugin.kernel_parameters import MARKS, load_table
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels import compare, operation_table, pairs
else:
    compare, operation_table = Late("scanproof.kernels.compare"), Late("scanproof.kernels.operation_table")
    pairs = Late("scanproof.kernels.pairs")

REASON = "the operation raises"
ROWS = {case.id: case for case in load_table(load)}


@dataclass(frozen=True)
class RefusedCall:
    """A row that is right, and what makes a refused call of it."""

    op: str
    row: str
    changes: dict[str, Any]
    error: str
    """`TYPE: WORDS`, as the last line of a traceback has them; without words `TYPE`."""

    def case(self) -> KernelCase:
        """In bfloat16, which every operation takes."""
        return replace(ROWS[f"{self.op}-{self.row}-bfloat16"], **self.changes)


def passed_as_none(name: str) -> dict[str, Any]:
    """A required argument that is None."""
    return {"axes": {name: ""}, "values": {name: "none"}}


SSD, CACHE, STEP = "mamba_chunk_scan_combined", "flash_attn_with_kvcache", "selective_state_update"
DELTA, DELTA_STEPS = "chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"
UNPACKED = "TypeError: Value after * must be an iterable, not int"
CALLS = (
    RefusedCall(STEP, "dstate-n16", passed_as_none("D"), UNPACKED),
    RefusedCall(STEP, "dstate-n16", passed_as_none("dt_bias"), UNPACKED),
    RefusedCall(
        SSD, "packed_states", {"given": frozenset({"seq_idx", "dt_bias"})},
        "AssertionError: cu_seqlens must be provided",
    ),
    RefusedCall(
        SSD, "packed_states", {"backward": True}, "AssertionError: return_varlen_states is not supported in backward"
    ),
    RefusedCall(
        "mamba_split_conv1d_scan_combined", "no_norm",
        {"given": frozenset({"seq_idx", "outproj_bias"}), "axes": {"D": "h p", "outproj_bias": "i"}},
        "AssertionError",
    ),
    *(
        RefusedCall(
            "mamba3_siso_combined", "states-l32", {"given": frozenset(states)},
            "AssertionError: Input states must be provided together or all be None.",
        )
        for states in (("Input_Angle_State", "Input_K_State"), ("Input_SSM_State", "Input_V_State"))
    ),
    RefusedCall(
        "causal_conv1d_fn", "packed", {"options": {"return_final_states": True}},
        "AssertionError: If seq_idx is not None, we don't return final_states_out",
    ),
    RefusedCall(
        CACHE, "several", {"given": frozenset({"k", "cache_seqlens"})},
        "RuntimeError: If key is supplied, value must also be passed in",
    ),
    RefusedCall(
        CACHE, "several", {"given": frozenset({"k", "v"})},
        "RuntimeError: If key is supplied, seqlens_k must also be passed in",
    ),
    RefusedCall(
        CACHE, "rotary-l5", {"given": frozenset({"rotary_cos", "rotary_sin", "cache_seqlens"})},
        "RuntimeError: If rotary cos/sin are provided, new key / value to be appended to KV cache must also be",
    ),
    RefusedCall(
        CACHE, "rotary-l5", {"given": frozenset({"k", "v", "rotary_cos", "cache_seqlens"})},
        "RuntimeError: If rotary cos is provided, rotary sin must also be provided",
    ),
    RefusedCall(
        DELTA, "without_states", {"options": {"use_gate_in_kernel": True}},
        "AssertionError: A_log must be provided when use_gate_in_kernel=True",
    ),
    RefusedCall(
        DELTA_STEPS, "packed_without_states", {"options": {"use_gate_in_kernel": True}},
        "ValueError: `A_log` must be provided when `use_gate_in_kernel=True`",
    ),
    *(
        RefusedCall(
            op, "packed_without_states", {"options": {"allow_neg_eigval": True}},
            "ValueError: `allow_neg_eigval=True` requires `use_beta_sigmoid_in_kernel=True`",
        )
        for op in (DELTA, DELTA_STEPS)
    ),
)  # fmt: skip


def parameters() -> list[Any]:
    return [
        pytest.param(call, place, id=f"{call.op}-{number}-{place}", marks=MARKS[place])
        for number, call in enumerate(CALLS)
        for place in call.case().where
    ]


@pytest.mark.parametrize(("refused", "scanproof_place"), parameters())
def test_what_an_operation_refuses_it_refuses(
    refused: RefusedCall, scanproof_place: str, scanproof_kernels: Kernels, scanproof_require: Require
) -> None:
    case = refused.case()
    op = operation_table.find_operation(case.op)
    scanproof_require(op, case)
    kind, words = split_error(refused.error) if ": " in refused.error else (AssertionError, "")
    arguments = compare.draw_inputs(op, case, scanproof_kernels.device)
    with pytest.raises(kind) as raised:
        compare.run_op(op, case, arguments, scanproof_kernels.call(op), scanproof_kernels.device)
    assert type(raised.value) is kind
    assert words in str(raised.value)


def test_every_refusal_by_an_error_is_asked_for() -> None:
    asked: dict[str, list[dict[str, bool]]] = {op: [] for op in pairs.load_refusals()}
    for call in CALLS:
        asked[call.op].append(pairs.take_choices(operation_table.find_operation(call.op), call.case()))
    for op, refusals in pairs.load_refusals().items():
        due = [refusal.choices.items() for refusal in refusals if REASON in refusal.because]
        for taken in asked[op]:
            assert any(choices <= taken.items() for choices in due), f"{op}: {taken} is not refused"
        for choices in due:
            assert any(choices <= taken.items() for taken in asked[op]), f"{op}: no call has {dict(choices)}"

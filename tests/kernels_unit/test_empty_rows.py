"""Every operation is asked with no rows, no position and an empty sequence, or there is a reason why it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scanproof.kernels import cases
from scanproof.kernels.cases import KernelCase
from tests.support.late import Late

operation_table = Late("scanproof.kernels.operation_table")

ALL = cases.load()
NAMES = sorted({case.op for case in ALL})
PACKING = {"seq_idx", "cu_seqlens", "cu_seqlens_q"}
KINDS: dict[str, Callable[[KernelCase], bool]] = {
    "no rows": lambda case: case.sizes.get("b") == 0,
    "no position": lambda case: case.sizes.get("l") == 0,
    "an empty sequence": lambda case: any(0 in lengths for lengths in (case.segments, *case.segments_of_rows)),
}
NOT_TRIED = "a CUDA extension, whose grid has no block then: what it does was not tried on a GPU"
SEGMENTATION_FAULT = "it ends its process: tests/kernels/test_no_position.py"
BY_POSITION = "seq_idx names the sequence of each position, and an empty sequence has none"
NO_ROWS_ALIKE = "the norms take rows: none of a batch and none of its positions are the same call"
WHY_NOT = {
    **{
        (name, kind): NOT_TRIED
        for name in (
            "selective_scan_fn", "mamba_inner_fn", "causal_conv1d_fn", "causal_conv1d_update", "flash_attn_func",
            "flash_attn_with_kvcache",
        )
        for kind in ("no rows", "no position")
    },
    **{(name, "an empty sequence"): BY_POSITION for name in ("causal_conv1d_fn", "mamba_split_conv1d_scan_combined")},
    **{
        (name, "no position"): SEGMENTATION_FAULT
        for name in ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")
    },
    **{(name, "no position"): NO_ROWS_ALIKE for name in ("layer_norm_fn", "rms_norm_fn", "rmsnorm_fn")},
    ("causal_conv1d_varlen_states", "no position"): "its row of empty sequences has sequences without a position",
    ("flash_attn_varlen_func", "no position"): "its row of empty sequences has sequences without a position",
}  # fmt: skip
"""(operation, kind) -> why it has no row."""


def can_be(name: str, kind: str) -> bool:
    """Whether an operation can be called so: its arguments have rows, positions, or packed sequences."""
    arguments = operation_table.find_operation(name).arguments
    axes = {axis for argument in arguments for axis in argument.axes.split()}
    packs = any(argument.name in PACKING for argument in arguments)
    return {"no rows": "b" in axes, "no position": "l" in axes, "an empty sequence": packs}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_has_its_empty_rows_or_a_reason(name: str, kind: str) -> None:
    rows = [case.id for case in ALL if case.op == name and KINDS[kind](case)]
    if not can_be(name, kind):
        assert (rows, WHY_NOT.get((name, kind))) == ([], None), "its arguments have no such axis"
    elif reason := WHY_NOT.get((name, kind)):
        assert not rows, f"{name} has {rows}: it needs no reason ({reason})"
    else:
        assert rows, f"{name} is not asked with {kind}: write a row in cases.yaml, or here why there is none"

"""Reported faults of the fused norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanproof.faults.changes import with_argument, with_arguments, with_output
from scanproof.faults.fault import Arguments, Call, Fault
from scanproof.faults.scans import FLA, MAMBA, at_size, gate_order_swapped

LAYER, RMS, GATED = "layer_norm_fn", "rms_norm_fn", "rmsnorm_fn"


def wrapped_rows(value: Tensor) -> Tensor:
    """Read the second half of the rows from the beginning."""
    rows = value.flatten(0, -2)
    positions = torch.arange(len(rows), device=value.device) % max(1, -(-len(rows) // 2))
    return rows.index_select(0, positions).view_as(value)


def one_group(call: Call, arguments: Arguments) -> Any:
    """All channels share one mean square."""
    return call(**{**arguments, "group_size": None})


def smaller_groups(call: Call, arguments: Arguments) -> Any:
    """Groups are half as large as they should be, as when the group size is divided by two ranks twice."""
    size = arguments.get("group_size")
    return call(**({**arguments, "group_size": size // 2} if size else arguments))


def gradient_of_one_group(call: Call, arguments: Arguments) -> Any:
    """The backward pass is that of a norm over all channels."""
    right = call(**arguments)
    if arguments.get("group_size") is None or not arguments["x"].requires_grad:
        return right
    other = call(**{**arguments, "group_size": None})
    return with_output(right, lambda y: y.detach() + (other - other.detach()))


FAULTS = (
    Fault(
        "layer_norm_rows_wrap", LAYER, "Row offsets wrap: late rows are read from the beginning.",
        with_arguments(("x", "residual"), wrapped_rows), (f"{MAMBA}/issues/1015",),
        at_size("2^31 elements", "past_2_31"),
    ),
    Fault(
        "rms_norm_rows_wrap", RMS, "Row offsets wrap: late rows are read from the beginning.",
        with_arguments(("x", "residual"), wrapped_rows), (f"{MAMBA}/issues/1015",),
        at_size("2^31 elements", "past_2_31"),
    ),
    Fault(
        "gated_norm_rows_wrap", GATED, "Row offsets of the gate wrap: late rows have early rows' gates.",
        with_argument("z", wrapped_rows), (f"{MAMBA}/issues/1015",), at_size("2^31 elements", "past_2_31"),
    ),
    Fault(
        "gated_norm_backward_groups", GATED, "The backward pass ignores group_size.",
        gradient_of_one_group, (f"{MAMBA}/pull/547",),
    ),
    Fault(
        "gated_norm_one_group", GATED, "A grouped norm is one over all channels.",
        one_group, (f"{MAMBA}/pull/910",),
    ),
    Fault(
        "gated_norm_small_groups", GATED, "Groups are too small by the number of ranks.",
        smaller_groups, (f"{MAMBA}/pull/908", f"{MAMBA}/pull/951"),
    ),
    Fault(
        "gated_norm_gate_order", GATED, "The gate goes on the other side of the norm.",
        gate_order_swapped, (f"{FLA}/issues/63",),
    ),
)  # fmt: skip

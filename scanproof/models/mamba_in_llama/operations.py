"""The operations that the mixers call: the installed kernels on a GPU, their references on the CPU.

Both have the signature of the rows in `scanproof.kernels.operation_table`, so the mixers are written once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels import operation_table
from scanproof.kernels.launches import kernel_table
from scanproof.kernels.operation import FLOAT32, Op

Call = Callable[..., Any]


@dataclass(frozen=True)
class Operations:
    """One callable per operation, with the operation's name and arguments."""

    selective_scan_fn: Call
    mamba_chunk_scan_combined: Call
    causal_conv1d_fn: Call
    selective_state_update: Call
    causal_conv1d_update: Call
    rms_norm_fn: Call
    rmsnorm_fn: Call


def operations(device: torch.device) -> Operations:
    """The operations that compute on `device`.

    Raises:
        ImportError: the device is a GPU and a package with its kernels is not installed; the message says which.
    """
    choose = as_operation if device.type == "cpu" else find_installed
    return Operations(*(choose(operation_table.find_operation(item.name)) for item in fields(Operations)))


def find_installed(row: Op) -> Call:
    """The installed kernel of a row; there is no fallback."""
    try:
        return row.load_implementation()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"scoring on a GPU needs {row.name} of {row.package}: {error}; use device=cpu, or install it: "
            f"{kernel_table.find_package(row.package).advice}"
        ) from error


def as_operation(row: Op, *, exact: bool = False) -> Call:
    """A row's reference that behaves like the operation: same dtypes of results, states changed in place.

    It computes in float32, or in float64 where an input is float64 or `exact` is true.  Results that the operation
    returns in the dtype of its input are rounded to that dtype once, at the end.
    """
    signature = inspect.signature(row.reference)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        numbers = {key: value for key, value in given.items() if _is_number(value)}
        wide = torch.float64 if torch.float64 in {value.dtype for value in numbers.values()} else torch.float32
        inside = torch.float64 if exact else wide
        narrow = next(value.dtype for key, value in numbers.items() if key not in row.changes)
        results = row.reference(**{**given, **{key: value.to(inside) for key, value in numbers.items()}})
        returned_count = len(results) - len(row.changes)
        for name, value in zip(row.changes, results[returned_count:], strict=True):
            given[name].copy_(value)
        wanted = [item for item in row.outputs if item.option is None or given.get(item.option)]
        returned = tuple(
            value.to(wide if item.dtype == FLOAT32 else narrow)
            for item, value in zip(wanted, results[:returned_count], strict=False)
        )
        return returned[0] if len(returned) == 1 else returned

    return call


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()

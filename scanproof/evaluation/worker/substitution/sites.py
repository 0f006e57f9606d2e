"""Find where a model calls its operations, and replace them there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest import mock

from scanproof.evaluation.worker.substitution import replacements as second_forms
from scanproof.kernels import operation_table
from scanproof.models.mamba_in_llama.operations import Operations, as_operation

Call = Callable[..., Any]
LAYERS = "scanproof.models.layers"


@dataclass(frozen=True)
class Site:
    """A name in a module through which a model calls an operation."""

    operation: str
    """Name in triage's findings: the stand-ins' function, or the operation of `scanproof.kernels.operation_table`."""
    module: str
    attribute: str


ON_CPU = (
    Site("selective_scan", LAYERS, "selective_scan"),
    Site("ssd", LAYERS, "ssd"),
    Site("causal_conv1d", LAYERS, "causal_conv1d"),
    Site("rms_norm", LAYERS, "rms_norm"),
    Site("gated_rms_norm", LAYERS, "gated_rms_norm"),
    Site("scaled_dot_product_attention", "torch.nn.functional", "scaled_dot_product_attention"),
)
ON_GPU = (
    Site("selective_scan_fn", "mamba_ssm.modules.mamba_simple", "selective_scan_fn"),
    Site("mamba_inner_fn", "mamba_ssm.modules.mamba_simple", "mamba_inner_fn"),
    Site("causal_conv1d_fn", "mamba_ssm.modules.mamba_simple", "causal_conv1d_fn"),
    Site("causal_conv1d_fn", "mamba_ssm.modules.mamba2", "causal_conv1d_fn"),
    Site("causal_conv1d_fn", "mamba_ssm.modules.mha", "causal_conv1d_fn"),
    Site("mamba_chunk_scan_combined", "mamba_ssm.modules.mamba2", "mamba_chunk_scan_combined"),
    Site("mamba_split_conv1d_scan_combined", "mamba_ssm.modules.mamba2", "mamba_split_conv1d_scan_combined"),
    Site("layer_norm_fn", "mamba_ssm.modules.block", "layer_norm_fn"),
    Site("layer_norm_fn", "mamba_ssm.models.mixer_seq_simple", "layer_norm_fn"),
    Site("rmsnorm_fn", "mamba_ssm.ops.triton.layernorm_gated", "rmsnorm_fn"),
)
"""Names in mamba_ssm 2.2 and 2.3; a module that is not loaded or lacks the name is skipped."""


@dataclass(frozen=True)
class Replacement:
    """An attribute that holds an operation, and the function that can replace it."""

    operation: str
    owner: Any
    """Module or mixer that has the attribute."""
    attribute: str
    function: Call
    """The reference; in a mixer's `ops` it replaces the field of the operation."""


def find_replacements(network: Any, on_gpu: bool) -> list[Replacement]:
    """Replacements for all operations that a model may call: in loaded modules, and in the `ops` of its mixers."""
    if not on_gpu:
        importlib.import_module("torch.nn.functional")
    replacements = []
    for site in ON_GPU if on_gpu else ON_CPU:
        module = sys.modules.get(site.module)
        if module is not None and getattr(module, site.attribute, None) is not None:
            function = float64_reference(site.operation) if on_gpu else getattr(second_forms, site.attribute)
            replacements.append(Replacement(site.operation, module, site.attribute, function))
    for module in network.modules():
        if isinstance(getattr(module, "ops", None), Operations):
            names = [field.name for field in fields(Operations)]
            replacements += [Replacement(name, module, "ops", float64_reference(name)) for name in names]
    return replacements


def float64_reference(operation: str) -> Call:
    """The float64 reference of an operation, with the arguments and results of the operation."""
    return as_operation(operation_table.find_operation(operation), exact=True)


@contextlib.contextmanager
def replace_operations(replacements: Collection[Replacement], operations: Collection[str]) -> Iterator[None]:
    """Within the block, the model calls the references in place of these operations."""
    with contextlib.ExitStack() as stack:
        for replacement in replacements:
            if replacement.operation in operations:
                stack.enter_context(_patch(replacement, replacement.function))
        yield


@contextlib.contextmanager
def count_calls(replacements: Collection[Replacement]) -> Iterator[Counter[str]]:
    """Count how often each operation is called within the block; replaces none."""
    calls: Counter[str] = Counter()

    def counting(operation: str, function: Call) -> Call:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[operation] += 1
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for replacement in replacements:
            function = counting(replacement.operation, _current_function(replacement))
            stack.enter_context(_patch(replacement, function))
        yield calls


def _current_function(replacement: Replacement) -> Call:
    """The function that the model calls at present."""
    value = getattr(replacement.owner, replacement.attribute)
    function: Call = getattr(value, replacement.operation) if isinstance(value, Operations) else value
    return function


def _patch(replacement: Replacement, function: Call) -> contextlib.AbstractContextManager[Any]:
    """Within the returned context, the model calls `function` for the operation."""
    value = getattr(replacement.owner, replacement.attribute)
    patched = replace(value, **{replacement.operation: function}) if isinstance(value, Operations) else function
    return mock.patch.object(replacement.owner, replacement.attribute, patched)

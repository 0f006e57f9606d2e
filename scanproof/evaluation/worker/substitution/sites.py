"""Where models call their operations, and how one is replaced there."""

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

from scanproof.evaluation.worker.substitution import replacements
from scanproof.kernels import operation_table
from scanproof.models.mamba_in_llama.operations import Operations, as_operation

Call = Callable[..., Any]
LAYERS = "scanproof.models.layers"


@dataclass(frozen=True)
class Site:
    """A name in a module through which a model calls an operation."""

    operation: str
    """As findings name it: the function of the stand-ins, or the operation of `scanproof.kernels.operation_table`."""
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
"""mamba_ssm 2.2 and 2.3; a module that is not loaded, or lacks the name, is passed over."""


@dataclass(frozen=True)
class Place:
    """One attribute that holds an operation, and what replaces it."""

    operation: str
    owner: Any
    attribute: str
    form: Any
    """A callable; for a mixer's `ops`, the field's replacement is made from it."""


def places(network: Any, on_gpu: bool) -> list[Place]:
    """Everything that this model may call: names in loaded modules, and the operations that its mixers hold."""
    if not on_gpu:
        importlib.import_module("torch.nn.functional")
    found = []
    for site in ON_GPU if on_gpu else ON_CPU:
        module = sys.modules.get(site.module)
        if module is not None and getattr(module, site.attribute, None) is not None:
            form = in_float64(site.operation) if on_gpu else getattr(replacements, site.attribute)
            found.append(Place(site.operation, module, site.attribute, form))
    for module in network.modules():
        if isinstance(getattr(module, "ops", None), Operations):
            found += [Place(item.name, module, "ops", in_float64(item.name)) for item in fields(Operations)]
    return found


def in_float64(operation: str) -> Call:
    """A row's reference in float64, with the manners of its operation."""
    return as_operation(operation_table.find_operation(operation), exact=True)


@contextlib.contextmanager
def replaced(found: Collection[Place], operations: Collection[str]) -> Iterator[None]:
    """While it lasts, these operations are their references, wherever the model calls them."""
    with contextlib.ExitStack() as stack:
        for place in found:
            if place.operation in operations:
                stack.enter_context(mock.patch.object(place.owner, place.attribute, bound(place, place.form)))
        yield


@contextlib.contextmanager
def counted(found: Collection[Place]) -> Iterator[Counter[str]]:
    """How often each operation is called while it lasts."""
    calls: Counter[str] = Counter()

    def counting(place: Place, function: Call) -> Call:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[place.operation] += 1
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for place in found:
            kept = current(place)
            stack.enter_context(mock.patch.object(place.owner, place.attribute, bound(place, counting(place, kept))))
        yield calls


def current(place: Place) -> Call:
    """What is called there now."""
    held = getattr(place.owner, place.attribute)
    call: Call = getattr(held, place.operation) if isinstance(held, Operations) else held
    return call


def bound(place: Place, call: Call) -> Any:
    """What the attribute has to be for the operation to be `call`."""
    held = getattr(place.owner, place.attribute)
    return replace(held, **{place.operation: call}) if isinstance(held, Operations) else call

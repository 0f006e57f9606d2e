"""The catalogue: all faults that are planted, and reported faults that cannot be planted."""

from __future__ import annotations

from collections.abc import Sequence

from scanproof.faults import (
    argument_faults,
    attention,
    batches,
    convolutions,
    gated_delta,
    generic,
    kept,
    mamba3,
    norms,
    scans,
)
from scanproof.faults.fault import Fault, NotPlanted

REPORTED: tuple[Fault, ...] = (
    *scans.FAULTS, *mamba3.FAULTS, *convolutions.FAULTS, *attention.FAULTS, *norms.FAULTS, *gated_delta.FAULTS,
    *batches.FAULTS,
)  # fmt: skip
FAULTS: tuple[Fault, ...] = (*REPORTED, *generic.FAULTS, *argument_faults.FAULTS, *kept.FAULTS)

PYTORCH = "https://github.com/pytorch/pytorch/issues"
NOT_PLANTED: tuple[NotPlanted, ...] = (
    NotPlanted(
        "A forward pass is corrupt on Blackwell GPUs with more than one pipeline stage",
        (f"{scans.MAMBA}/pull/997",),
        "a compiler does it to one choice of the autotuner of `mamba3_siso_combined`, and the report does not say what "
        "comes out; wrong elements and values that differ from call to call are `one_element` and `unrepeatable`",
    ),
    NotPlanted(
        "torch.compile changes the results of Triton kernels",
        (f"{PYTORCH}/136550", f"{PYTORCH}/146129"),
        "it lies in the compiler around the operation; the suite compiles nothing",
    ),
    NotPlanted(
        "Left padding pollutes the state",
        (f"{scans.TRANSFORMERS}/pull/32677", f"{scans.TRANSFORMERS}/pull/41790"),
        "the operation does what it is told; the caller feeds it the padding",
    ),
    NotPlanted(
        "A prefill padded on the right leaves a wrong cache",
        (f"{scans.TRANSFORMERS}/issues/48256",),
        "the caller again; that padding on the right does not reach the outputs before it is the invariant `padding`",
    ),
)


def select_faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    """Select the faults whose id or operation contains one of `texts`; all faults if there are no texts."""
    return tuple(fault for fault in FAULTS if not texts or any(text in fault.id or text in fault.op for text in texts))

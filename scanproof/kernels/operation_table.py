"""The table of operations under test: one row each.

A new operation needs a reference (`scanproof.kernels.references`), a row in `scanproof.kernels.operations`, its cost
(`scanproof.kernels.costs`), its kernels (`scanproof.kernels.launches.kernel_table`), and cases in `cases.yaml`.  Axes
are letters, explained there.
"""

from __future__ import annotations

from scanproof.kernels.operation import Op
from scanproof.kernels.operations import attention, convolution, gated_delta, mamba3, norms, scans

OPS: tuple[Op, ...] = (
    *scans.SCANS, *mamba3.MAMBA3_SCANS, *convolution.CONVOLUTIONS, *attention.ATTENTIONS, *norms.NORMS,
    *gated_delta.DELTA_RULES,
)  # fmt: skip


def find_operation(name: str) -> Op:
    """The row of an operation.

    Raises:
        KeyError: there is no such operation; the message lists all names.
    """
    for op in OPS:
        if op.name == name:
            return op
    raise KeyError(f"no operation {name!r}; there are {', '.join(op.name for op in OPS)}")

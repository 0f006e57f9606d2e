"""Known defect of fla-core (docs/defects.md): lengths that are written anew are cut into chunks as they were before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scanproof.plugin.kernel_fixtures import Missing
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import operation_table, poisoned_memory
else:
    torch, operation_table = Late("torch"), Late("scanproof.kernels.operation_table")
    poisoned_memory = Late("scanproof.kernels.poisoned_memory")


@pytest.mark.interpreted
def test_lengths_in_the_same_tensor_are_cut_as_they_were(
    scanproof_interpreter: str | None, scanproof_missing: Missing
) -> None:
    """It passes as long as fla is wrong: with a tensor of its own the same lengths are right.

    The last two positions are never written.  Without NaN in new memory they may hold what another call left there.
    """
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    op = operation_table.find_operation("chunk_gated_delta_rule")
    try:
        call = op.load_implementation()
    except ImportError as error:
        scanproof_missing(f"{op.name} of {op.package} cannot be imported ({error})")
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 66, 1, 16, generator=draw) for _ in range(3))
    arguments = {
        "q": q, "k": torch.nn.functional.normalize(k, dim=-1), "v": v, "g": torch.full((1, 66, 1), -0.1),
        "beta": torch.full((1, 66, 1), 0.5),
    }  # fmt: skip
    ends = torch.tensor([0, 64, 66])
    call(**arguments, cu_seqlens=ends)
    ends[1] = 66
    expected = op.reference(**arguments, cu_seqlens=ends)[0]
    torch.testing.assert_close(call(**arguments, cu_seqlens=ends.clone())[0], expected, rtol=1e-4, atol=1e-4)
    with poisoned_memory.poison_new_memory("cpu", 0):
        again = call(**arguments, cu_seqlens=ends)[0]
    torch.testing.assert_close(again[:, :64], expected[:, :64], rtol=1e-4, atol=1e-4)
    assert again[:, 64:].isnan().all()

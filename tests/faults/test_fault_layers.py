"""A fault that is planted into the layers of a stand-in can be called by the layers and changes the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scanproof.plugin import options
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.faults import catalogue, layers
    from scanproof.models import loading
else:
    torch, loading = Late("torch"), Late("scanproof.models.loading")
    catalogue, layers = Late("scanproof.faults.catalogue"), Late("scanproof.faults.layers")

OPERATIONS = (
    "selective_scan_fn", "mamba_chunk_scan_combined", "causal_conv1d_fn", "rms_norm_fn", "rmsnorm_fn",
    "flash_attn_func",
)  # fmt: skip


def test_these_are_the_operations() -> None:
    assert set(OPERATIONS) == set(layers.LAYERS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_wrong_element_moves_the_logits_of_the_stand_in(operation: str) -> None:
    (fault,) = [each for each in catalogue.FAULTS if each.id == f"one_element-{operation}"]
    model = loading.load(options.EMBEDDED_MIRROR / "scanproof" / layers.LAYERS[operation].model)
    tokens = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        right = model(tokens).logits
        with layers.plant_in_layers(fault):
            wrong = model(tokens).logits
        again = model(tokens).logits
    assert torch.equal(right, again)
    assert (right - wrong).abs().max() > 1e-3

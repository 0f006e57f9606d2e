"""The rows of Hugging Face's hub, run where they are named: `--scanproof-provider causal_conv1d_fn=hub`.

Repositories and versions are those of transformers 5.23, names those of the repositories' sources.  None was loaded
from the hub here.
"""

from __future__ import annotations

from functools import partial

from scanproof.kernels.providers.provider import HubKernel, Provider

NAME = "hub"
_hub = partial(Provider, name=NAME, distribution="kernels")
_CONVOLUTION = HubKernel("kernels-community/causal-conv1d", 1)
_MAMBA = HubKernel("kernels-community/mamba-ssm", 4)
_FLA = HubKernel("kernels-community/fla", 2)
_ATTENTION = HubKernel("kernels-community/flash-attn2", 4)
_SAME = {
    _CONVOLUTION: ("causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"),
    _MAMBA: (
        "selective_scan_fn", "mamba_inner_fn", "selective_state_update", "mamba_chunk_scan_combined",
        "mamba_split_conv1d_scan_combined",
    ),
    _ATTENTION: ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"),
}  # fmt: skip
"""Kernels whose functions have the operations' own names and arguments."""

HUB: tuple[Provider, ...] = (
    *(_hub(operation=name, function=name, hub=kernel) for kernel, names in _SAME.items() for name in names),
    *(
        _hub(operation=name, function=f"ops.gated_delta_rule.{name}", hub=_FLA)
        for name in ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")
    ),
)


def find_row(operation: str) -> Provider | None:
    """The kernel of the hub for an operation; None: there is none."""
    return next((row for row in HUB if row.operation == operation), None)

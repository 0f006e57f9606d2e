"""The modules of mamba_ssm under test, and the ways in which each can compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scanproof.kernels.known import KnownDefect

WAYS = ("fast path", "slow path", "steps", "prefill, then steps")


@dataclass(frozen=True)
class Module:
    """One module of mamba_ssm and its settings."""

    name: str
    target: str
    """Module and class."""
    layer: str
    """The mixer of `scanproof.models.language_model` that computes the same."""
    fast: str
    """Name of the argument that chooses the fast path."""
    settings: Mapping[str, Any]
    interpreted: tuple[str, ...] = WAYS
    """Ways that Triton's interpreter can run."""
    known: Mapping[str, KnownDefect] = field(default_factory=dict)
    """Way -> why and how far mamba_ssm fails the criterion in every dtype.  When it passes, the entry must go."""

    def operations(self, way: str) -> tuple[str, ...]:
        """Names in `scanproof.kernels.operation_table` of the operations that a way calls."""
        mamba2 = self.layer == "Mamba2"
        fused = "mamba_split_conv1d_scan_combined" if mamba2 else "mamba_inner_fn"
        prefill = ("causal_conv1d_fn", "mamba_chunk_scan_combined" if mamba2 else "selective_scan_fn")
        steps = ("causal_conv1d_update", "selective_state_update")
        called = {"fast path": (fused,), "slow path": prefill, "steps": steps}
        return called.get(way, (*prefill, *steps))

    def why_not(self, way: str, place: str) -> str:
        """Why a way cannot run in a place (`interpreter` or another); empty where it can."""
        if place == "interpreter" and way not in self.interpreted:
            return f"{self.name}, {way}: its scan is a CUDA extension; Triton's interpreter runs Triton kernels"
        return ""


# Eight heads: the slow path gives causal_conv1d a slice of its projection, whose width must be a multiple of 8.
MAMBA2 = {"d_state": 16, "headdim": 8, "chunk_size": 16}
NO_LIMIT = "Mamba2.step does not pass dt_limit on to the update: it decodes with other step sizes than the prefill"
UNLIMITED = {
    # Twice what came out on an H100 and in Triton's interpreter.
    way: KnownDefect(f"{NO_LIMIT}; rms {rms}", {f"mamba2-limits, {way}": 2 * rms}, {})
    for way, rms in (("steps", 0.37), ("prefill, then steps", 0.23))
}
MODULES = (
    Module("mamba", "mamba_ssm.modules.mamba_simple:Mamba", "Mamba1", "use_fast_path", {"d_state": 8}, ("steps",)),
    Module("mamba2", "mamba_ssm.modules.mamba2:Mamba2", "Mamba2", "use_mem_eff_path", MAMBA2),
    Module(
        "mamba2-groups", "mamba_ssm.modules.mamba2:Mamba2", "Mamba2", "use_mem_eff_path",
        {**MAMBA2, "ngroups": 2, "expand": 4, "d_ssm": 64, "norm_before_gate": True},
    ),
    Module(
        "mamba2-unnormed", "mamba_ssm.modules.mamba2:Mamba2", "Mamba2", "use_mem_eff_path",
        {**MAMBA2, "rmsnorm": False},
    ),
    Module(
        "mamba2-limits", "mamba_ssm.modules.mamba2:Mamba2", "Mamba2", "use_mem_eff_path",
        {**MAMBA2, "dt_limit": (0.0, 0.1)}, known=UNLIMITED,
    ),
)  # fmt: skip

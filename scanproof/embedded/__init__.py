"""The stand-ins: small task data about an invented world, and small checkpoints trained on it.

`MIRROR` is an ordinary mirror folder: datasets and models by hub name.
"""

from __future__ import annotations

from pathlib import Path

MIRROR: Path = Path(__file__).parent / "mirror"
"""Folder with `allenai/ai2_arc/...` (datasets) and `scanproof/<model>/` (checkpoints)."""

MEGATRON = "scanproof/megatron-hybrid-tiny"
"""The checkpoint in Megatron's folder layout."""
CONVERTED = "scanproof/mamba-7b-tiny"
"""The checkpoint that is not trained, but converted from another to transformers' layout."""
MODELS: tuple[str, ...] = (
    "scanproof/mamba1-tiny",
    "scanproof/mamba2-tiny",
    "scanproof/mamba2attn-tiny",
    "scanproof/pythia-tiny",
    "scanproof/mamba-hybrid-tiny",
    "scanproof/mamba2-hybrid-tiny",
    MEGATRON,
    CONVERTED,
)
"""Names of the checkpoints inside `MIRROR`."""

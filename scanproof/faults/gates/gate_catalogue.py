"""All faults of the gates."""

from __future__ import annotations

from collections.abc import Sequence

from scanproof.faults.gates import checkpoints, data, evidence, harness, hooks, sessions
from scanproof.faults.gates.gate_fault import GateFault

FAULTS: tuple[GateFault, ...] = (
    *harness.FAULTS,
    *data.FAULTS,
    *checkpoints.FAULTS,
    *evidence.FAULTS,
    *hooks.FAULTS,
    *sessions.FAULTS,
)


def select_gate_faults(texts: Sequence[str]) -> tuple[GateFault, ...]:
    """The faults whose id or area holds one of `texts`; all of them if there are no texts."""
    return tuple(
        fault for fault in FAULTS if not texts or any(text in fault.id or text in fault.area for text in texts)
    )

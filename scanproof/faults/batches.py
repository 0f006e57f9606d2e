"""Faults of batches whose rows change from call to call.  They keep something of a call, and show in a later one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from scanproof.faults.fault import Arguments, Call, Fault, Spoil, WithMemory
from scanproof.faults.scans import SGLANG

INDICES = ("state_batch_indices", "conv_state_indices", "cache_batch_idx")
STATES = ("state", "conv_state", "k_cache", "v_cache")
STEPS = {
    "selective_state_update": "step",
    "causal_conv1d_update": "conv_update",
    "flash_attn_with_kvcache": "cache",
}
"""Operation that goes on from a state in a slot -> beginning of the ids of its faults."""


def _index_of(arguments: Arguments) -> str | None:
    """Name of the argument that says which slot is whose; None if the call has none."""
    return next((name for name in INDICES if arguments.get(name) is not None), None)


def slots_of_an_earlier_batch() -> Spoil:
    """Make the fault: the slots are those of the first batch of as many rows, as where a graph captured them."""
    captured: dict[int, Tensor] = {}

    def spoil(call: Call, arguments: Arguments) -> Any:
        index = _index_of(arguments)
        if index is None:
            return call(**arguments)
        slots = captured.setdefault(len(arguments[index]), arguments[index].clone())
        return call(**{**arguments, index: slots})

    return spoil


def state_of_the_last_call() -> Spoil:
    """Make the fault: a slot goes on from what the last call left there, whatever was put there since."""
    left: dict[int, dict[str, Tensor]] = {}

    def spoil(call: Call, arguments: Arguments) -> Any:
        index = _index_of(arguments)
        if index is None:
            return call(**arguments)
        states = {name: arguments[name] for name in STATES if name in arguments}
        slots = [slot for slot in arguments[index].tolist() if slot >= 0]
        for slot in slots:
            for name, state in left.get(slot, {}).items():
                states[name][slot] = state
        result = call(**arguments)
        left.update({slot: {name: state[slot].clone() for name, state in states.items()} for slot in slots})
        return result

    return spoil


def _faults() -> Iterator[Fault]:
    for op, name in STEPS.items():
        yield Fault(
            f"{name}_slots_kept", op, "The slots are those of the first batch that had as many rows.",
            WithMemory(slots_of_an_earlier_batch), ("https://github.com/wtdcode/vllm-backport/pull/63",),
            "the report is of a stale mapping of rows to requests, outside of the operation",
        )  # fmt: skip
        yield Fault(
            f"{name}_state_kept", op, "A slot goes on from what its last call left, whatever was put there since.",
            WithMemory(state_of_the_last_call),
            ("https://github.com/vllm-project/vllm-metal/issues/488", f"{SGLANG}/pull/30986"),
            "in the reports a former state stays in a slot because its return was left out or broken off",
        )  # fmt: skip


FAULTS: tuple[Fault, ...] = tuple(_faults())

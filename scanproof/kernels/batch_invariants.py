"""Invariants of a batch that changes from call to call: rows join and leave, states are evicted and return.

A server of a language model does both at every step: a request that ends leaves its slot to the next, one that has to
wait is taken out with its state, and goes on later in another slot, beside others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scanproof.kernels.state_invariants import call_with_states

if TYPE_CHECKING:
    from scanproof.kernels.invariants import Calls, Inputs, Pair

Batch = Sequence[tuple[int, int]]
"""The rows of one call: number of the request, and the slot that its state is in."""

JOINING: Sequence[Batch] = (
    [(0, 0), (1, 1), (2, 2)],
    # Request 1 has ended.
    [(0, 0), (2, 2)],
    # Request 3 has its slot; the others are in another order.
    [(2, 2), (0, 0), (3, 1)],
    [(3, 1)],
    [(3, 1), (2, 2), (0, 0)],
)
EVICTION: Sequence[Batch] = (
    [(0, 0), (1, 1)],
    # Request 0 is out, and its slot another's.
    [(2, 0), (1, 1)],
    # It goes on in a slot that nobody had.
    [(1, 1), (0, 3)],
    # Two have changed places, and one is out.
    [(0, 1), (1, 3)],
    # The last one goes on where it was.
    [(2, 0), (0, 1)],
)


@dataclass(frozen=True)
class SlottedStep:
    """An operation that goes on from a state in a slot."""

    name: str
    states: tuple[str, ...]
    """Its arguments that have a slot for each request, and more."""
    index: str
    """Its argument that says which slot is whose."""
    rows: tuple[str, ...]
    """Its arguments that have a row for each row of the batch."""
    time: int | None = None
    """Axis of the positions of the first of `rows`, counted from the end; None: a call is of one position."""
    counts: str = ""
    """Its argument that says how many positions came before each row, where it has one."""


def serve(
    step: SlottedStep, call: Callable[..., Any], inputs: Inputs, batches: Sequence[Batch]
) -> dict[int, dict[str, Tensor]]:
    """Run batches one after another; the outputs and the states of each request.

    Request r begins with the state in slot r of the inputs.  Its call number t has the row r + t of the inputs, where
    they begin again at their end.  Whenever it is not in the slot that it was in, or another one was there since, its
    state is put there from the host's memory, where it is copied after every call.
    """
    tables, device = {name: inputs[name].clone() for name in step.states}, inputs[step.states[0]].device
    requests = sorted({request for batch in batches for request, _ in batch})
    kept = {request: {name: _to_host(inputs[name][request]) for name in step.states} for request in requests}
    outputs: dict[int, list[Tensor]] = {request: [] for request in requests}
    tenants: dict[int, int] = {}
    for batch in batches:
        for request, slot in batch:
            if tenants.get(slot) != request:
                tenants = {place: tenant for place, tenant in tenants.items() if tenant != request} | {slot: request}
                for name, table in tables.items():
                    table[slot] = kept[request][name].to(device)
        given = _rows_of(step, inputs, [(request, len(outputs[request])) for request, _ in batch])
        given[step.index] = torch.tensor([slot for _, slot in batch], dtype=inputs[step.index].dtype, device=device)
        out, tables = call_with_states(call, {**inputs, **given, **tables}, step.states)
        for row, (request, slot) in enumerate(batch):
            outputs[request].append(out[row])
            kept[request] = {name: _to_host(tables[name][slot]) for name in step.states}
    return {request: {"out": torch.stack(outputs[request]).cpu(), **kept[request]} for request in requests}


def _to_host(state: Tensor) -> Tensor:
    """A copy in the host's memory, also of what is there already."""
    return state.to("cpu", copy=True)


def _rows_of(step: SlottedStep, inputs: Inputs, turns: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The arguments of a batch, of which each row is a request and the number of its call."""
    batch = len(inputs[step.rows[0]])
    chosen = [(request + turn) % batch for request, turn in turns]
    given = {name: inputs[name][chosen] for name in step.rows if name in inputs}
    if step.counts in inputs:
        new = 1 if step.time is None else inputs[step.rows[0]].shape[step.time]
        # Half, so that there is room for what comes.
        seen = [int(inputs[step.counts][request % batch]) // 2 + turn * new for request, turn in turns]
        given[step.counts] = torch.tensor(seen, dtype=inputs[step.counts].dtype, device=inputs[step.counts].device)
    return given


def served_as_alone(step: SlottedStep, batches: Sequence[Batch]) -> Callable[[Calls, Inputs], list[Pair]]:
    """Make the invariant: each request has the outputs and the state that it has alone, in a slot of its own."""

    def pairs(calls: Calls, inputs: Inputs) -> list[Pair]:
        call = calls(step.name)
        together, compared = serve(step, call, inputs, batches), []
        for request, results in together.items():
            alone = serve(step, call, inputs, [[(request, request)]] * len(results["out"]))[request]
            compared += [(f"request {request}: {name}", alone[name], results[name]) for name in results]
        return compared

    return pairs


def prefill_joined(name: str, times: dict[str, int], out: int, state: str) -> Callable[[Calls, Inputs], list[Pair]]:
    """Make the invariant: a prefill in pieces is the whole, whichever rows are in the batch of a piece.

    Row 0 leaves after the first piece, its state is kept in the host's memory, and it comes back behind row 1, which is
    then at a later position.

    Args:
        name: the operation.
        times: argument -> its time axis.
        out: the time axis of the result.
        state: the argument with the states to begin with; the operation returns those that it ends with.
    """

    def pairs(calls: Calls, inputs: Inputs) -> list[Pair]:
        call, option = calls(name), "return_final_states"
        whole, last = call(**{**inputs, option: True})
        length, first = whole.shape[out], whole.shape[out] // 3
        later = first + length // 5
        pieces = [
            [(0, 0, first), (1, 0, first)],
            [(1, first, later)],
            [(1, later, length), (0, first, first + length - later)],
            [(0, first + length - later, length)],
        ]
        kept = {row: inputs[state][row : row + 1] for row in (0, 1)}
        results: dict[int, list[Tensor]] = {0: [], 1: []}
        for piece in pieces:
            given = {
                key: _as_laid_out(inputs[key], [inputs[key][row : row + 1].narrow(axis, start, end - start)
                                                for row, start, end in piece])
                for key, axis in times.items() if key in inputs
            }  # fmt: skip
            given[state] = _as_laid_out(inputs[state], [kept[row].to(inputs[state].device) for row, _, _ in piece])
            y, ends = call(**{**inputs, **given, option: True})
            for number, (row, _, _) in enumerate(piece):
                results[row].append(y[number : number + 1])
                kept[row] = _to_host(ends[number : number + 1])
        compared = []
        for row in (0, 1):
            compared.append((f"row {row}: out", whole[row : row + 1], torch.cat(results[row], dim=out)))
            compared.append((f"row {row}: state", last[row : row + 1].cpu(), kept[row]))
        return compared

    return pairs


def _as_laid_out(like: Tensor, parts: list[Tensor]) -> Tensor:
    """Put rows together, with channels contiguous where those of `like` are."""
    joined = torch.cat(parts)
    return joined.mT.contiguous().mT if like.dim() == 3 and like.stride(-1) != 1 else joined

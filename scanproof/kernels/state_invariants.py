"""Invariants of a state that is handed from call to call: in other slots, beside other tenants, and rolled back.

Reports of 2026 are of these: prefix caches, slots that a next request reuses, drafts of which a part is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scanproof.kernels.invariants import Calls, Inputs, Pair

SSD_TIME = ("x", "dt", "B", "C", "z")
PREFILLED = 33
"""Positions before a draft: a chunk of 32 and one more."""
DRAFT = 5


def call_with_states(
    call: Callable[..., Any], inputs: Inputs, states: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the states after the call, which an installed operation changes and a reference returns."""
    copies = {name: inputs[name].clone() for name in states}
    out, *new = call(**{**inputs, **copies})
    return out, dict(zip(states, new, strict=True)) if new else copies


def slots(name: str, states: tuple[str, ...], index: str) -> Callable[[Calls, Inputs], list[Pair]]:
    """Make the invariant: it does not matter in which slot a state is, nor what others left in the other slots.

    Args:
        name: the operation.
        states: its arguments that have a slot for each row, and more.
        index: its argument that says which slots are used; negative: none.
    """

    def pairs(calls: Calls, inputs: Inputs) -> list[Pair]:
        call, rows = calls(name), inputs[index]
        out, after = call_with_states(call, inputs, states)
        used = torch.zeros(len(inputs[states[0]]), dtype=torch.bool, device=rows.device)
        used[rows[rows >= 0].long()] = True
        # From the last slot to the first; and numbers that are finite, but not those of the case.
        moved = {state: inputs[state].flip(0) for state in states}
        places = torch.where(rows >= 0, len(used) - 1 - rows, rows)
        others = {state: inputs[state].clone() for state in states}
        for state in states:
            others[state][~used] = 1 - 3 * others[state][~used]
        out_moved, after_moved = call_with_states(call, {**inputs, **moved, index: places}, states)
        out_beside, after_beside = call_with_states(call, {**inputs, **others}, states)
        compared = [("in other slots: out", out, out_moved), ("beside other tenants: out", out, out_beside)]
        for state in states:
            compared += [
                (f"in other slots: {state}", after[state], after_moved[state].flip(0)),
                (f"beside other tenants: {state}", after[state][used], after_beside[state][used]),
                (f"slots of others: {state}", others[state][~used], after_beside[state][~used]),
            ]
        return compared

    return pairs


def cache_tenant(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Attention over a cache does not see what a former tenant left behind the positions that are filled."""
    call, states = calls("flash_attn_with_kvcache"), ("k_cache", "v_cache")
    out, _ = call_with_states(call, inputs, states)
    filled = inputs["cache_seqlens"] + inputs["k"].shape[1]
    behind = torch.arange(inputs["k_cache"].shape[1], device=filled.device) >= filled[:, None]
    others = {name: torch.where(behind[..., None, None], 1 - 3 * inputs[name], inputs[name]) for name in states}
    beside, after = call_with_states(call, {**inputs, **others}, states)
    left = [(f"left by the tenant: {name}", others[name][behind], after[name][behind]) for name in states]
    return [("after another tenant", out, beside), *left]


def conv_rollback(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The convolution: of new positions at once, any number accepted leaves the state of one by one."""
    update, x = calls("causal_conv1d_update"), inputs["x"]
    out, drafted = call_with_states(update, inputs, ("conv_state",))
    count, pairs, single, state = x.shape[-1], [], [], inputs["conv_state"]
    for k in range(1, count + 1):
        one, after = call_with_states(update, {**inputs, "x": x[..., k - 1 : k], "conv_state": state}, ("conv_state",))
        single.append(one)
        state = after["conv_state"]
        accepted = call_with_states(update, {**inputs, "x": x[..., :k]}, ("conv_state",))[1]
        pairs.append((f"accepted {k} of {count}: state", state, accepted["conv_state"]))
    pairs.append(("drafted: state", state, drafted["conv_state"]))
    return [("drafted and one by one", torch.cat(single, dim=-1), out), *pairs]


def ring_rollback(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A ring of inputs: a draft is rolled back by the count alone, as long as what the next step reads is kept."""
    update, x, seen = calls("causal_conv1d_update"), inputs["x"], inputs["cache_seqlens"]
    drafted = call_with_states(update, inputs, ("conv_state",))[1]
    pairs, state, new = [], inputs["conv_state"], x.flip(-1)[..., :1]
    for k in range(x.shape[-1]):
        here = {**inputs, "x": new, "cache_seqlens": seen + k}
        expected, _ = call_with_states(update, {**here, "conv_state": state}, ("conv_state",))
        got, _ = call_with_states(update, {**here, **drafted}, ("conv_state",))
        pairs.append((f"accepted {k} of {x.shape[-1]}: next step", expected, got))
        one = {**inputs, "x": x[..., k : k + 1], "cache_seqlens": seen + k, "conv_state": state}
        state = call_with_states(update, one, ("conv_state",))[1]["conv_state"]
    return pairs


def cache_split(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A cache of keys: new positions at once equal two pieces, cut at every offset, also where nothing was there."""
    call, states, count = calls("flash_attn_with_kvcache"), ("k_cache", "v_cache"), inputs["k"].shape[1]
    pairs, seen = [], inputs["cache_seqlens"]
    for what, before in (("", seen), ("from nothing, ", torch.zeros_like(seen))):
        given = {**inputs, "cache_seqlens": before}
        out, whole = call_with_states(call, given, states)
        for cut in range(1, count):
            first = {name: inputs[name][:, :cut] for name in ("q", "k", "v")}
            rest = {name: inputs[name][:, cut:] for name in ("q", "k", "v")}
            y, cache = call_with_states(call, {**given, **first}, states)
            end, cache = call_with_states(call, {**given, **rest, **cache, "cache_seqlens": before + cut}, states)
            pairs.append((f"{what}cut at {cut}: out", out, torch.cat([y, end], dim=1)))
            pairs += [(f"{what}cut at {cut}: {name}", whole[name], cache[name]) for name in states]
    return pairs


def cache_rollback(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A cache of keys: a draft is rolled back by the count; what it left behind is neither seen nor in the way."""
    call, states, seen = calls("flash_attn_with_kvcache"), ("k_cache", "v_cache"), inputs["cache_seqlens"]
    new, count = ("q", "k", "v"), inputs["k"].shape[1]
    out, drafted = call_with_states(call, inputs, states)
    pairs, single, cache = [], [], {name: inputs[name] for name in states}
    for k in range(count):
        # The next position is not the one that was drafted.
        next_ = {**inputs, **{name: inputs[name][:, k : k + 1].flip(-1) for name in new}, "cache_seqlens": seen + k}
        expected, got = (call_with_states(call, {**next_, **given}, states)[0] for given in (cache, drafted))
        pairs.append((f"accepted {k} of {count}: next step", expected, got))
        one = {**inputs, **{name: inputs[name][:, k : k + 1] for name in new}, "cache_seqlens": seen + k, **cache}
        y, cache = call_with_states(call, one, states)
        single.append(y)
    return [("drafted and one by one", torch.cat(single, dim=1), out), *pairs]


def ssd_rollback(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Mamba-2: a draft after a prefill equals decode steps, and so does any part of it that is accepted.

    The state is in float32, as the prefill returns it.
    """
    scan, update = calls("mamba_chunk_scan_combined"), calls("selective_state_update")

    def scan_part(start: int, end: int, state: Tensor) -> tuple[Tensor, Tensor]:
        part = {name: inputs[name][:, start:end] for name in SSD_TIME}
        y, last = scan(**{**inputs, **part, "initial_states": state, "return_final_states": True})
        return y, last

    _, prefilled = scan_part(0, PREFILLED, inputs["initial_states"])
    drafted, after = scan_part(PREFILLED, PREFILLED + DRAFT, prefilled)
    heads, headdim, states = prefilled.shape[1:]
    tied = {
        "A": inputs["A"][:, None, None].expand(heads, headdim, states),
        "D": inputs["D"][:, None].expand(heads, headdim),
        "dt_bias": inputs["dt_bias"][:, None].expand(heads, headdim),
    }
    pairs, single, state = [], [], prefilled
    for k, t in enumerate(range(PREFILLED, PREFILLED + DRAFT), start=1):
        one = {
            "state": state, "x": inputs["x"][:, t], "dt": inputs["dt"][:, t, :, None].expand(-1, -1, headdim),
            "B": inputs["B"][:, t], "C": inputs["C"][:, t], "z": inputs["z"][:, t],
            "dt_softplus": inputs["dt_softplus"], **tied,
        }  # fmt: skip
        y, stepped = call_with_states(update, one, ("state",))
        single.append(y)
        state = stepped["state"]
        accepted = after if k == DRAFT else scan_part(PREFILLED, PREFILLED + k, prefilled)[1]
        pairs.append((f"accepted {k} of {DRAFT}: state", state, accepted))
    return [("drafted and one by one", torch.stack(single, dim=1), drafted), *pairs]

"""Reported faults of the gated delta rule, in chunks and step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from scanproof.faults.changes import cut_time, output_of, with_argument, with_output
from scanproof.faults.fault import Arguments, Call, Fault, Spoil
from scanproof.faults.scans import FLA, TRANSFORMERS, VLLM

CHUNKS, STEPS = "chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"
TIME = {"q": -3, "k": -3, "v": -3, "g": -2, "beta": -2}


def is_packed(arguments: Arguments) -> bool:
    return arguments.get("cu_seqlens") is not None


def makes_its_gate(arguments: Arguments) -> bool:
    """Whether g and beta are not yet what the rule takes."""
    return bool(arguments.get("use_gate_in_kernel") or arguments.get("use_beta_sigmoid_in_kernel"))


def error_before_decay(call: Call, arguments: Arguments) -> Any:
    """What a key finds is read before the state decays: that is beta / alpha and alpha v in place of beta and v."""
    if makes_its_gate(arguments):
        return call(**arguments)
    alpha, v, beta = torch.exp(arguments["g"]), arguments["v"], arguments["beta"]
    later = {"v": (v * alpha[..., None]).to(v.dtype), "beta": (beta / alpha.clamp_min(1e-3)).to(beta.dtype)}
    return call(**{**arguments, **later})


def decays_what_it_writes(call: Call, arguments: Arguments) -> Any:
    """The state decays after a position has written to it: what is written decays at once."""
    if makes_its_gate(arguments) or is_packed(arguments) or not arguments["g"].shape[1]:
        return call(**arguments)
    g = arguments["g"]
    result = call(**{**arguments, "g": F.pad(g[:, :-1], (0, 0, 1, 0))})
    o = with_output(result, lambda y: (y * torch.exp(g)[..., None]).to(y.dtype))
    if not arguments.get("output_final_state"):
        return o
    return o[0], o[1] * torch.exp(g[:, -1])[..., None, None]


def goes_on_decaying(call: Call, arguments: Arguments) -> Any:
    """The positions that pad the last chunk decay the state as the last position does."""
    length, chunk = arguments["g"].shape[1], arguments.get("chunk_size", 64)
    if makes_its_gate(arguments) or is_packed(arguments) or not arguments.get("output_final_state") or not length:
        return call(**arguments)
    o, state = call(**arguments)
    return o, state * torch.exp(arguments["g"][:, -1] * (-length % chunk))[..., None, None]


def first_state(call: Call, arguments: Arguments) -> Any:
    """The state that is returned is that after the first position."""
    if is_packed(arguments) or not arguments.get("output_final_state") or not arguments["g"].shape[1]:
        return call(**arguments)
    return output_of(call(**arguments)), call(**cut_time(arguments, TIME, 0, 1))[1]


def leaks(call: Call, arguments: Arguments) -> Any:
    """The state of a packed sequence goes on into the next."""
    if not is_packed(arguments):
        return call(**arguments)
    state = arguments.get("initial_state")
    whole = call(
        **{
            **arguments, "cu_seqlens": None, "output_final_state": False,
            "initial_state": None if state is None else state[:1],
        }
    )  # fmt: skip
    return with_output(call(**arguments), lambda _: output_of(whole))


def begins_with_the_former(call: Call, arguments: Arguments) -> Any:
    """A sequence that begins without a state begins with what is left in its slot."""
    if arguments.get("initial_state") is not None:
        return call(**arguments)
    v, keys = arguments["v"], arguments["k"].shape[-1]
    rows = len(arguments["cu_seqlens"]) - 1 if is_packed(arguments) else len(v)
    left = torch.full((rows, v.shape[2], keys, v.shape[-1]), 0.1, device=v.device)
    return call(**{**arguments, "initial_state": left})


def state_of_neighbour(call: Call, arguments: Arguments) -> Any:
    """Each row, or packed sequence, has the initial state of the one before."""
    return with_argument("initial_state", lambda state: state.roll(1, 0))(call, arguments)


def heads_in_turns(call: Call, arguments: Arguments) -> Any:
    """Head i of the values reads head i mod g of the queries and keys instead of i // (h / g)."""
    heads = arguments["v"].shape[2]
    turns = torch.arange(heads, device=arguments["v"].device) % arguments["q"].shape[2]
    return call(**{**arguments, **{name: arguments[name].index_select(2, turns) for name in ("q", "k")}})


def no_beta(call: Call, arguments: Arguments) -> Any:
    """Each position overwrites all that its key finds: beta is 1."""
    inside = {"use_beta_sigmoid_in_kernel": False, "allow_neg_eigval": False}
    given = {name: value for name, value in inside.items() if name in arguments}
    beta = arguments["beta"]
    return call(**{**arguments, **given, "beta": torch.ones_like(beta) + 0 * beta})


def never_erases(call: Call, arguments: Arguments) -> Any:
    """What a key finds is not taken out, as in gated linear attention: each position writes as if alone."""
    if makes_its_gate(arguments) or is_packed(arguments):
        return call(**arguments)
    alone = []
    for t in range(arguments["v"].shape[1]):
        only = torch.zeros_like(arguments["beta"])
        only[:, t] = arguments["beta"][:, t]
        alone.append(output_of(call(**{**arguments, "beta": only, "initial_state": None})))
    return with_output(call(**arguments), lambda y: torch.stack(alone).sum(0) if alone else y)


def _both(name: str, what: str, spoil: Spoil, *links: str, note: str | None = None) -> Iterator[Fault]:
    """The fault in both forms."""
    for form, op in (("chunk", CHUNKS), ("recurrent", STEPS)):
        yield Fault(f"delta_{name}-{form}", op, what, spoil, links, note)


FAULTS = (
    *_both(
        "error_before_decay", "What a key finds is read before the state decays.", error_before_decay,
        f"{FLA}/issues/885", note="the report asks which of the two is meant",
    ),
    Fault(
        "delta_padding", CHUNKS, "Positions that pad the last chunk change the state.", goes_on_decaying,
        (f"{TRANSFORMERS}/issues/46190", f"{TRANSFORMERS}/pull/46873"),
        "the report suspects it; planted as a decay that goes on",
    ),
    Fault(
        "delta_first_state", STEPS, "The state that is returned is not that after the last position.", first_state,
        (f"{VLLM}/pull/28698",), "in the report there is a state for each position",
    ),
    *_both("leaks", "The state of a packed sequence goes on into the next.", leaks, f"{FLA}/pull/1184"),
    *_both(
        "former_state", "A sequence that begins has what the former left in its slot.", begins_with_the_former,
        "https://github.com/vllm-project/tpu-inference/pull/2431",
    ),
    *_both("decays_writes", "What a position writes decays at once.", decays_what_it_writes),
    *_both("neighbour", "A row has the state of its neighbour.", state_of_neighbour),
    *_both("heads_in_turns", "Heads read groups in turns.", heads_in_turns),
    *_both("no_beta", "beta is not used.", no_beta),
    Fault("delta_never_erases", STEPS, "What a key finds is never taken out of the state.", never_erases),
)  # fmt: skip

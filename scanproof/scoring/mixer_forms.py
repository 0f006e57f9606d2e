"""The mixers of every model class as maps from (tokens, state) to (tokens, state).

A form computes what the mixer's own `forward` computes, with the mixer's own parameters, and two things more: it goes
on from a state, and positions after a row's end change nothing that it leaves.  The operations are the installed
kernels on a GPU and their references on a CPU.

Letters: b batch, l seqlen, m d_model, d channels, n dstate, h heads, p headdim, g groups, w width of the convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanproof.models.layers import wide
from scanproof.models.mamba_in_llama.operations import Operations
from scanproof.models.states import ScanState
from scanproof.scoring.carried_state import Passage

STILL = -1e4
"""A step size before softplus that is 0 after it: the state neither decays nor takes anything in."""


@dataclass(frozen=True)
class Operators:
    """What the forms compute with."""

    ops: Operations
    convolution: Callable[..., Tensor]
    """`causal_conv1d_fn` of `ops`, or what a mixer uses in its place."""
    scan: Callable[..., tuple[Tensor, Tensor]]
    """`scans.reference` or one of the other ways to go on with a selective scan; see `scanproof.scoring.scans`."""
    states_at_once: Callable[[int], int] | None = None
    """States of each row that `scan` has in memory, by the number of positions; None for those that count anyway."""


Form = Callable[[Any, Tensor, ScanState, Passage, Operators], tuple[Tensor, ScanState]]
"""(mixer, (b, l, m), state before, the pass, operators) -> (b, l, m) and the state after."""


def convolve(
    conv: nn.Conv1d, x: Tensor, before: Tensor, passage: Passage, operators: Operators
) -> tuple[Tensor, Tensor]:
    """SiLU of the causal convolution of x (b, d, l) after `before` (b, d, w - 1), and the window at each row's end."""
    return convolve_plain(conv, x, before, passage, operators, "silu")


def convolve_plain(
    conv: nn.Conv1d,
    x: Tensor,
    before: Tensor,
    passage: Passage,
    operators: Operators,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`convolve` without an activation."""
    # Positions lie next to each other in it: causal_conv1d refuses some lengths where channels do.
    joined = torch.cat([before.to(x.dtype), x], dim=-1)
    width = before.shape[-1]
    y = operators.convolution(joined, conv.weight[:, 0], conv.bias, activation=activation)[..., width:]
    return y, window(joined, width, passage)


def window(joined: Tensor, width: int, passage: Passage) -> Tensor:
    """The `width` inputs before each row's end, from (b, d, width + l)."""
    if passage.ends is None:
        return joined[..., joined.shape[-1] - width :].clone()
    places = passage.ends[:, None] + torch.arange(width, device=joined.device)
    return joined.gather(2, places[:, None].expand(-1, joined.shape[1], -1))


def still(steps: Tensor, passage: Passage) -> Tensor:
    """Step sizes (b, l, ...) before softplus, without effect where a row is padded."""
    if passage.real is None:
        return steps
    return steps.masked_fill(~passage.real.view(*passage.real.shape, *[1] * (steps.dim() - 2)), STILL)


def mamba1(
    mixer: Any, hidden: Tensor, state: ScanState, passage: Passage, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba (arXiv 2312.00752, figure 3), of mamba_ssm, of transformers, and the reference."""
    rank, size = mixer.dt_proj.weight.shape[1], mixer.A_log.shape[1]
    x, z = mixer.in_proj(hidden).transpose(1, 2).chunk(2, dim=1)
    x, before = convolve(mixer.conv1d, x, state.conv, passage, operators)
    low, B, C = torch.split(mixer.x_proj(x.transpose(1, 2)), [rank, size, size], dim=-1)
    delta = still(F.linear(low, mixer.dt_proj.weight), passage).transpose(1, 2)
    y, last = operators.scan(
        x, delta, -torch.exp(full(mixer.A_log)), B.transpose(1, 2), C.transpose(1, 2), full(mixer.D), z,
        full(mixer.dt_proj.bias), state.ssm,
    )  # fmt: skip
    return mixer.out_proj(y.transpose(1, 2).to(hidden.dtype)), ScanState(before, last)


def mamba2(
    mixer: Any, hidden: Tensor, state: ScanState, passage: Passage, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-2 (arXiv 2405.21060, figure 6), of mamba_ssm and the reference."""
    sizes = [mixer.d_ssm, mixer.ngroups, mixer.d_state]
    beside = (mixer.in_proj.weight.shape[0] - 2 * sizes[0] - 2 * sizes[1] * sizes[2] - len(mixer.A_log)) // 2
    gate, x0, *rest = torch.split(
        mixer.in_proj(hidden),
        [beside, beside, sizes[0], sizes[0] + 2 * sizes[1] * sizes[2], len(mixer.A_log)],
        dim=-1,
    )
    y, z, after = ssd(mixer, rest, state, passage, operators, mixer.ngroups, mixer.dt_limit)
    norm = getattr(mixer, "norm", None)
    y = y * F.silu(z) if norm is None else norm(y, z)
    if beside:
        y = torch.cat([F.silu(gate) * x0, y], dim=-1)
    return mixer.out_proj(y), after


def nemotron(
    mixer: Any, hidden: Tensor, state: ScanState, passage: Passage, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-2 of transformers' NemotronH."""
    sizes = [mixer.intermediate_size, mixer.conv_dim, mixer.num_heads]
    parts = list(torch.split(mixer.in_proj(hidden), sizes, dim=-1))
    y, z, after = ssd(mixer, parts, state, passage, operators, mixer.n_groups, mixer.time_step_limit)
    return mixer.out_proj(mixer.norm(y, z).to(hidden.dtype)), after


def ssd(
    mixer: Any,
    parts: list[Tensor],
    state: ScanState,
    passage: Passage,
    operators: Operators,
    groups: int,
    limit: tuple[float, float],
) -> tuple[Tensor, Tensor, ScanState]:
    """Gate (b, l, d), xBC and step sizes (b, l, h) through convolution and scan: y (b, l, d), gate, state after."""
    z, xBC, dt = parts
    heads, size = len(mixer.A_log), state.ssm.shape[-1]
    xBC, before = convolve(mixer.conv1d, xBC.transpose(1, 2), state.conv, passage, operators)
    x, B, C = torch.split(xBC.transpose(1, 2), [z.shape[-1], groups * size, groups * size], dim=-1)
    D = full(mixer.D)
    y, last = operators.ops.mamba_chunk_scan_combined(
        torch.unflatten(x, -1, (heads, -1)), steps(dt, mixer.dt_bias, limit, passage),
        -torch.exp(full(mixer.A_log)), torch.unflatten(B, -1, (groups, size)), torch.unflatten(C, -1, (groups, size)),
        mixer.chunk_size, D=D if len(D) == heads else D.view(heads, -1), initial_states=state.ssm,
        return_final_states=True,
    )  # fmt: skip
    return y.flatten(-2), z, ScanState(before, last)


def steps(dt: Tensor, bias: Tensor, limit: tuple[float, float], passage: Passage) -> Tensor:
    """Step sizes (b, l, h) after bias, softplus and limits, in float32 or wider; 0 where a row is padded.

    They are finished here because a lower limit would make steps of what is padded.
    """
    finished = F.softplus(full(dt) + full(bias)).clamp(*limit)
    return finished if passage.real is None else finished * passage.real[..., None]


def llama1(
    mixer: Any, hidden: Tensor, state: ScanState, passage: Passage, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-1 of MambaInLlama: x and B repeated like key heads, heads of dstate channels, the step bias added twice."""
    x = mixer._heads(mixer.in_proj_x(hidden), mixer.repeat).flatten(-2).transpose(1, 2)
    x, before = convolve(mixer.conv1d, x, state.conv, passage, operators)
    B = mixer._heads(mixer.B_proj(hidden), mixer.repeat).permute(0, 2, 3, 1).contiguous()
    C = mixer._heads(mixer.C_proj(hidden)).permute(0, 2, 3, 1).contiguous()
    delta = still(mixer._delta(hidden), passage).transpose(1, 2)
    y, last = operators.scan(
        x, delta, -torch.exp(full(mixer.A_log)), B, C, full(mixer.D), mixer.in_proj_z(hidden).transpose(1, 2),
        full(mixer.dt_proj.bias), state.ssm,
    )  # fmt: skip
    return mixer.out_proj(y.transpose(1, 2).to(hidden.dtype)), ScanState(before, last)


def llama2(
    mixer: Any, hidden: Tensor, state: ScanState, passage: Passage, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-2 of MambaInLlama: x and B repeated after the convolution."""
    z, xBC, dt = mixer._project(hidden)
    xBC, before = convolve(mixer.conv1d, xBC.transpose(1, 2), state.conv, passage, operators)
    x, B, C = mixer._split(xBC.transpose(1, 2))
    y, last = operators.ops.mamba_chunk_scan_combined(
        x, steps(dt, mixer.dt_bias, (0.0, float("inf")), passage), -torch.exp(full(mixer.A_log)), B, C,
        mixer.chunk_size, D=full(mixer.D), initial_states=state.ssm, return_final_states=True,
    )  # fmt: skip
    return mixer.out_proj(mixer.norm(y.flatten(-2), z)), ScanState(before, last)


def full(parameter: Tensor) -> Tensor:
    """In float32, or float64: what the kernels take A, D and step sizes in."""
    return parameter.to(wide(parameter.dtype))


def empty(mixer: Any) -> ScanState:
    """The state, of one row, before a sequence's first position."""
    channels, _, width = mixer.conv1d.weight.shape
    window = mixer.conv1d.weight.new_zeros(1, channels, width - 1)
    return ScanState(window, window.new_zeros((1, *state_shape(mixer)), dtype=wide(window.dtype)))


def state_shape(mixer: Any) -> tuple[int, ...]:
    """(d, n) of a Mamba-1 mixer; (h, p, n) of a Mamba-2 mixer, whose A is a number per head."""
    if mixer.A_log.dim() == 2:
        return tuple(mixer.A_log.shape)
    heads, inner = len(mixer.A_log), mixer.out_proj.weight.shape[1]
    if hasattr(mixer, "d_ssm"):
        inner = mixer.d_ssm
    size = mixer.ssm_state_size if hasattr(mixer, "ssm_state_size") else mixer.d_state
    return heads, inner // heads, size


SELECTIVE = (mamba1, llama1)
"""Forms that call `Operators.scan`."""

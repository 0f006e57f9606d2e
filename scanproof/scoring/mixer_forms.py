"""A replacement for the `forward` of each class of mixers, called a form: (tokens, state) -> (tokens, state).

A form computes what the mixer's own `forward` computes, with the mixer's own parameters.  In addition it starts from a
given state, and padding at the end of a row does not change the state that it returns.  The operations are the
installed kernels on a GPU and their references on a CPU.

Letters: b batch, l seqlen, m d_model, d channels, n dstate, h heads, p headdim, g groups, w width of the convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanproof.models.layers import widen_dtype
from scanproof.models.mamba_in_llama.operations import Operations
from scanproof.models.states import ScanState
from scanproof.scoring.carried_state import CarriedState

MASKED_STEP = -1e4
"""A step size before softplus that is 0 after it: the state neither decays nor takes in the position's input."""


@dataclass(frozen=True)
class Operators:
    """The operations that the forms call."""

    ops: Operations
    convolution: Callable[..., Tensor]
    """`causal_conv1d_fn` of `ops`, or the convolution that the mixer's own `forward` calls instead."""
    scan: Callable[..., tuple[Tensor, Tensor]]
    """A selective scan that starts from a state, from `scanproof.scoring.scans`."""
    states_at_once: Callable[[int, int], float] | None = None
    """(positions, n) -> states of one row that `scan` has in memory at once; None where it is one state."""


MixerForm = Callable[[Any, Tensor, ScanState, CarriedState, Operators], tuple[Tensor, ScanState]]
"""(mixer, input (b, l, m), states before, the pass, operators) -> output (b, l, m) and the states after."""


def convolve(
    conv: nn.Conv1d,
    x: Tensor,
    before: Tensor,
    carried: CarriedState,
    operators: Operators,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The causal convolution that continues from a window of earlier inputs.

    Args:
        x: (b, d, l).
        before: (b, d, w - 1), the inputs before x.
        activation: `silu` or None.

    Returns:
        (b, d, l), and the window (b, d, w - 1) at each row's own end.
    """
    # The joined tensor is contiguous in positions: causal_conv1d refuses some lengths of one contiguous in channels.
    joined = torch.cat([before.to(x.dtype), x], dim=-1)
    width = before.shape[-1]
    y = operators.convolution(joined, conv.weight[:, 0], conv.bias, activation=activation)[..., width:]
    return y, cut_window(joined, width, carried)


def cut_window(joined: Tensor, width: int, carried: CarriedState) -> Tensor:
    """The last `width` inputs up to each row's own end, (b, d, width), from (b, d, width + l)."""
    if carried.ends is None:
        return joined[..., joined.shape[-1] - width :].clone()
    places = carried.ends[:, None] + torch.arange(width, device=joined.device)
    return joined.gather(2, places[:, None].expand(-1, joined.shape[1], -1))


def mask_steps(steps: Tensor, carried: CarriedState) -> Tensor:
    """Step sizes (b, l, ...) before softplus, with MASKED_STEP at the padded positions of a row."""
    if carried.real is None:
        return steps
    return steps.masked_fill(~carried.real.view(*carried.real.shape, *[1] * (steps.dim() - 2)), MASKED_STEP)


def run_mamba1(
    mixer: Any, hidden: Tensor, state: ScanState, carried: CarriedState, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba (arXiv 2312.00752, figure 3): the mixers of mamba_ssm, of transformers, and our reference."""
    rank, size = mixer.dt_proj.weight.shape[1], mixer.A_log.shape[1]
    x, z = mixer.in_proj(hidden).transpose(1, 2).chunk(2, dim=1)
    x, before = convolve(mixer.conv1d, x, state.conv, carried, operators, "silu")
    low, B, C = torch.split(mixer.x_proj(x.transpose(1, 2)), [rank, size, size], dim=-1)
    delta = mask_steps(F.linear(low, mixer.dt_proj.weight), carried).transpose(1, 2)
    y, last = operators.scan(
        x, delta, -torch.exp(widen(mixer.A_log)), B.transpose(1, 2), C.transpose(1, 2), widen(mixer.D), z,
        widen(mixer.dt_proj.bias), state.ssm if carried.longest else None,
    )  # fmt: skip
    return mixer.out_proj(y.transpose(1, 2).to(hidden.dtype)), ScanState(before, last)


def run_mamba2(
    mixer: Any, hidden: Tensor, state: ScanState, carried: CarriedState, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-2 (arXiv 2405.21060, figure 6): the mixers of mamba_ssm and our reference."""
    sizes = [mixer.d_ssm, mixer.ngroups, mixer.d_state]
    beside = (mixer.in_proj.weight.shape[0] - 2 * sizes[0] - 2 * sizes[1] * sizes[2] - len(mixer.A_log)) // 2
    gate, x0, *rest = torch.split(
        mixer.in_proj(hidden),
        [beside, beside, sizes[0], sizes[0] + 2 * sizes[1] * sizes[2], len(mixer.A_log)],
        dim=-1,
    )
    y, z, after = run_ssd(mixer, rest, state, carried, operators, mixer.ngroups, mixer.dt_limit)
    norm = getattr(mixer, "norm", None)
    y = y * F.silu(z) if norm is None else norm(y, z)
    if beside:
        y = torch.cat([F.silu(gate) * x0, y], dim=-1)
    return mixer.out_proj(y), after


def run_nemotron(
    mixer: Any, hidden: Tensor, state: ScanState, carried: CarriedState, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-2 of transformers' NemotronH."""
    sizes = [mixer.intermediate_size, mixer.conv_dim, mixer.num_heads]
    parts = list(torch.split(mixer.in_proj(hidden), sizes, dim=-1))
    y, z, after = run_ssd(mixer, parts, state, carried, operators, mixer.n_groups, mixer.time_step_limit)
    return mixer.out_proj(mixer.norm(y, z).to(hidden.dtype)), after


def run_ssd(
    mixer: Any,
    parts: list[Tensor],
    state: ScanState,
    carried: CarriedState,
    operators: Operators,
    groups: int,
    limit: tuple[float, float],
) -> tuple[Tensor, Tensor, ScanState]:
    """Convolution and scan of a Mamba-2 mixer.

    Args:
        parts: the input projection: gate z (b, l, d), xBC (b, l, d + 2 g n), step sizes (b, l, h).
        groups: g.
        limit: lowest and highest step size.

    Returns:
        y (b, l, d) before the norm, the gate, and the states after each row's end.
    """
    z, xBC, dt = parts
    heads, size = len(mixer.A_log), state.ssm.shape[-1]
    xBC, before = convolve(mixer.conv1d, xBC.transpose(1, 2), state.conv, carried, operators, "silu")
    x, B, C = torch.split(xBC.transpose(1, 2), [z.shape[-1], groups * size, groups * size], dim=-1)
    D = widen(mixer.D)
    y, last = operators.ops.mamba_chunk_scan_combined(
        torch.unflatten(x, -1, (heads, -1)), finish_steps(dt, mixer.dt_bias, limit, carried),
        -torch.exp(widen(mixer.A_log)), torch.unflatten(B, -1, (groups, size)), torch.unflatten(C, -1, (groups, size)),
        mixer.chunk_size, D=D if len(D) == heads else D.view(heads, -1), initial_states=state.ssm,
        return_final_states=True,
    )  # fmt: skip
    return y.flatten(-2), z, ScanState(before, last)


def finish_steps(dt: Tensor, bias: Tensor, limit: tuple[float, float], carried: CarriedState) -> Tensor:
    """Step sizes (b, l, h) after bias, softplus and limits, in float32 or wider; 0 at padded positions.

    The kernel could do this, but its lower limit would give padded positions a step above 0.
    """
    finished = F.softplus(widen(dt) + widen(bias)).clamp(*limit)
    return finished if carried.real is None else finished * carried.real[..., None]


def run_llama1(
    mixer: Any, hidden: Tensor, state: ScanState, carried: CarriedState, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-1 of MambaInLlama: x and B repeated like key heads, heads of n channels, the step bias added twice."""
    x = mixer._heads(mixer.in_proj_x(hidden), mixer.repeat).flatten(-2).transpose(1, 2)
    x, before = convolve(mixer.conv1d, x, state.conv, carried, operators, "silu")
    B = mixer._heads(mixer.B_proj(hidden), mixer.repeat).permute(0, 2, 3, 1).contiguous()
    C = mixer._heads(mixer.C_proj(hidden)).permute(0, 2, 3, 1).contiguous()
    delta = mask_steps(mixer._delta(hidden), carried).transpose(1, 2)
    y, last = operators.scan(
        x, delta, -torch.exp(widen(mixer.A_log)), B, C, widen(mixer.D), mixer.in_proj_z(hidden).transpose(1, 2),
        widen(mixer.dt_proj.bias), state.ssm if carried.longest else None,
    )  # fmt: skip
    return mixer.out_proj(y.transpose(1, 2).to(hidden.dtype)), ScanState(before, last)


def run_llama2(
    mixer: Any, hidden: Tensor, state: ScanState, carried: CarriedState, operators: Operators
) -> tuple[Tensor, ScanState]:
    """Mamba-2 of MambaInLlama: x and B are repeated after the convolution."""
    z, xBC, dt = mixer._project(hidden)
    xBC, before = convolve(mixer.conv1d, xBC.transpose(1, 2), state.conv, carried, operators, "silu")
    x, B, C = mixer._split(xBC.transpose(1, 2))
    y, last = operators.ops.mamba_chunk_scan_combined(
        x, finish_steps(dt, mixer.dt_bias, (0.0, float("inf")), carried), -torch.exp(widen(mixer.A_log)), B, C,
        mixer.chunk_size, D=widen(mixer.D), initial_states=state.ssm, return_final_states=True,
    )  # fmt: skip
    return mixer.out_proj(mixer.norm(y.flatten(-2), z)), ScanState(before, last)


def widen(parameter: Tensor) -> Tensor:
    """In float32, or float64 in a float64 model: the kernels take A, D and step sizes in this dtype."""
    return parameter.to(widen_dtype(parameter.dtype))


def make_empty_state(mixer: Any) -> ScanState:
    """The state of one row before the first position of a sequence: zeros."""
    channels, _, width = mixer.conv1d.weight.shape
    window = mixer.conv1d.weight.new_zeros(1, channels, width - 1)
    return ScanState(window, window.new_zeros((1, *state_shape(mixer)), dtype=widen_dtype(window.dtype)))


def state_shape(mixer: Any) -> tuple[int, ...]:
    """Shape of one row's SSM state: (d, n) for Mamba-1; (h, p, n) for Mamba-2, whose A is one number per head."""
    if mixer.A_log.dim() == 2:
        return tuple(mixer.A_log.shape)
    heads, inner = len(mixer.A_log), mixer.out_proj.weight.shape[1]
    if hasattr(mixer, "d_ssm"):
        inner = mixer.d_ssm
    size = mixer.ssm_state_size if hasattr(mixer, "ssm_state_size") else mixer.d_state
    return heads, inner // heads, size


SELECTIVE = (run_mamba1, run_llama1)
"""Forms that call `Operators.scan`."""

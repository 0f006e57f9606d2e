"""The mixers of MambaInLlama (arXiv 2408.15237, section 3): Mamba with the grouped heads of the replaced attention.

C takes the place of queries, B of keys and x of values.  Where r query heads share a key head and a value head, x and B
are repeated r times.  Parameter names are those of the published checkpoints.

Letters: b batch, l seqlen, m d_model, d d_inner, k d_xb, r repeat = d / k, n dstate, g heads = d / n, w width of the
convolution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanproof.models.layers import widen_dtype
from scanproof.models.mamba_in_llama.config import HybridConfig, Mamba1Settings, Mamba2Settings
from scanproof.models.mamba_in_llama.operations import Operations

NORM_EPS = 1e-5
"""Epsilon of the norm inside the Mamba-2 mixer; no config sets it."""


@dataclass
class MixerState:
    """The state that a mixer carries from one call to the next; empty before the first."""

    conv: Tensor | None = None
    """(b, channels of the convolution, w), the last inputs of the convolution, newest last."""
    ssm: Tensor | None = None
    """(b, g, n, n), one matrix per head; float32 or wider."""


class Mixer(nn.Module, ABC):
    """The part common to both mixers: a whole sequence at once, or one position at a time from a state."""

    conv1d: nn.Conv1d
    A_log: nn.Parameter
    D: nn.Parameter
    d_state: int

    def __init__(self, config: HybridConfig, ops: Operations) -> None:
        super().__init__()
        self.d_inner, self.d_xb, self.repeat = config.d_inner, config.d_xb, config.repeat
        self.d_state = config.ssm.d_state
        self.ops = ops

    def forward(self, hidden: Tensor, state: MixerState | None = None, real: Tensor | None = None) -> Tensor:
        """(b, l, m) -> (b, l, m).

        Args:
            hidden: the normalised residual stream.
            state: the start; it is changed in place.  None starts from zeros and stores no state.
            real: (b, l) bool, False where a position is padding before the text; padding does not change the state.
        """
        if state is None or state.conv is None:
            return self._sequence(hidden, state, real)
        return torch.cat([self._step_unless_padding(hidden, t, state, real) for t in range(hidden.shape[1])], dim=1)

    def _step_unless_padding(self, hidden: Tensor, t: int, state: MixerState, real: Tensor | None) -> Tensor:
        """`_step` of position t; where that is padding, the state stays as it was."""
        if real is None:
            return self._step(hidden[:, t], state)
        assert state.conv is not None
        assert state.ssm is not None
        conv, ssm = state.conv.clone(), state.ssm.clone()
        out = self._step(hidden[:, t], state)
        state.conv = torch.where(real[:, t, None, None], state.conv, conv)
        state.ssm = torch.where(real[:, t, None, None, None], state.ssm, ssm)
        return out

    @abstractmethod
    def _sequence(self, hidden: Tensor, state: MixerState | None, real: Tensor | None) -> Tensor:
        """`forward` of a whole sequence from its start; stores the state after it in `state`, unless that is None."""

    @abstractmethod
    def _step(self, hidden: Tensor, state: MixerState) -> Tensor:
        """`forward` of one position after `state`, (b, m) -> (b, 1, m)."""

    def _heads(self, x: Tensor, repeat: int = 1) -> Tensor:
        """(..., channels) -> (..., heads, n); each head occurs `repeat` times, one after the other."""
        return torch.unflatten(x, -1, (-1, self.d_state)).repeat_interleave(repeat, dim=-2)

    def _wide(self, parameter: Tensor) -> Tensor:
        """In float32, or float64 in a float64 model: the kernels take A, D and the step biases in this dtype."""
        return parameter.to(widen_dtype(parameter.dtype))

    def _convolve(self, x: Tensor, state: MixerState | None, real: Tensor | None) -> Tensor:
        """SiLU of the convolution of x (b, channels, l), 0 at padding; the last inputs are stored in `state`."""
        if real is not None:
            x = x * real[:, None]
        if state is not None:
            width = self.conv1d.weight.shape[-1]
            state.conv = nn.functional.pad(x, (width, 0))[..., -width:].clone()
        if x.stride(1) == 1 and x.stride(2) % 8:
            # Where channels are contiguous, causal_conv1d needs a stride between positions that is a multiple of 8.
            x = x.mT.clone(memory_format=torch.contiguous_format).mT
        x = self.ops.causal_conv1d_fn(x, self.conv1d.weight[:, 0], self.conv1d.bias, activation="silu")
        # The bias of the convolution gives padding a value other than 0.
        return x if real is None else x * real[:, None]

    def _convolve_step(self, x: Tensor, state: MixerState) -> Tensor:
        """`_convolve` for one position x (b, channels)."""
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        return torch.as_tensor(self.ops.causal_conv1d_update(x, state.conv, weight, bias, activation="silu"))


class GroupedMamba1(Mixer):
    """Five projections; x is repeated before the convolution; B and C have no convolution; heads have n channels."""

    def __init__(self, config: HybridConfig, ops: Operations) -> None:
        super().__init__(config, ops)
        settings = config.ssm
        assert isinstance(settings, Mamba1Settings)
        size, inner, channels = config.d_model, self.d_inner, self.d_xb
        rank = math.ceil(size / 16) if settings.dt_rank == "auto" else int(settings.dt_rank)
        self.in_proj_x = nn.Linear(size, channels, bias=False)
        self.in_proj_z = nn.Linear(size, inner, bias=False)
        self.B_proj = nn.Linear(size, channels, bias=False)
        self.C_proj = nn.Linear(size, inner, bias=False)
        self.dt_proj_down = nn.Linear(size, rank, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.conv1d = nn.Conv1d(inner, inner, settings.d_conv, groups=inner, bias=settings.conv_bias)
        self.A_log = nn.Parameter(torch.arange(1, self.d_state + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, size, bias=False)
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(rank**-0.5), rank**-0.5)
            # Half of it, because it is added twice; see `_delta`.
            self.dt_proj.bias.copy_(draw_step_biases(inner) / 2)

    def _sequence(self, hidden: Tensor, state: MixerState | None, real: Tensor | None) -> Tensor:
        x = self._heads(self.in_proj_x(hidden), self.repeat).flatten(-2).transpose(1, 2)
        x = self._convolve(x, state, real)
        B = self._heads(self.B_proj(hidden), self.repeat).permute(0, 2, 3, 1).contiguous()
        C = self._heads(self.C_proj(hidden)).permute(0, 2, 3, 1).contiguous()
        z = self.in_proj_z(hidden).transpose(1, 2)
        results = self.ops.selective_scan_fn(
            x, self._delta(hidden).transpose(1, 2), -torch.exp(self._wide(self.A_log)), B, C, self._wide(self.D),
            z=z, delta_bias=self._wide(self.dt_proj.bias), delta_softplus=True, return_last_state=state is not None,
        )  # fmt: skip
        if state is None:
            y = results
        else:
            y, last = results
            state.ssm = torch.unflatten(last, 1, (-1, self.d_state))
        return torch.as_tensor(self.out_proj(y.transpose(1, 2)))

    def _step(self, hidden: Tensor, state: MixerState) -> Tensor:
        x = self._heads(self.in_proj_x(hidden), self.repeat).flatten(-2)
        x = self._convolve_step(x, state)
        A, D, bias = (self._wide(part) for part in (self.A_log, self.D, self.dt_proj.bias))
        y = self.ops.selective_state_update(
            state.ssm, self._heads(x), self._heads(self._delta(hidden)),
            -torch.exp(torch.unflatten(A, 0, (-1, self.d_state))),
            self._heads(self.B_proj(hidden), self.repeat), self._heads(self.C_proj(hidden)), self._heads(D),
            z=self._heads(self.in_proj_z(hidden)), dt_bias=self._heads(bias), dt_softplus=True,
        )  # fmt: skip
        return torch.as_tensor(self.out_proj(y.flatten(-2)))[:, None]

    def _delta(self, hidden: Tensor) -> Tensor:
        """Step sizes (b, l, d) before softplus, with the bias added once.

        The scan adds the same bias again.  The published weights were trained with softplus(W dt + 2 b); with the bias
        added once, as in Mamba, the model would be another one.
        """
        return torch.as_tensor(self.dt_proj(self.dt_proj_down(hidden)))


class HeadNorm(nn.Module):
    """RMS norm of y silu(z) over each head."""

    def __init__(self, size: int, group_size: int, ops: Operations) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.group_size, self.ops = group_size, ops

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        normed = self.ops.rmsnorm_fn(
            y, self.weight, None, z=z, eps=NORM_EPS, group_size=self.group_size, norm_before_gate=False
        )
        return torch.as_tensor(normed)


class GroupedMamba2(Mixer):
    """One projection; the convolution runs over x, B and C, then x and B are repeated; the norm is per head."""

    def __init__(self, config: HybridConfig, ops: Operations) -> None:
        super().__init__(config, ops)
        settings = config.ssm
        assert isinstance(settings, Mamba2Settings)
        inner, heads = self.d_inner, settings.ngroups
        channels = inner + 2 * self.d_xb
        self.chunk_size = settings.chunk_size
        self.in_proj = nn.Linear(config.d_model, inner + channels + heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, settings.d_conv, groups=channels, bias=settings.conv_bias)
        self.dt_bias = nn.Parameter(draw_step_biases(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = HeadNorm(inner, self.d_state, ops)
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)

    def _sequence(self, hidden: Tensor, state: MixerState | None, real: Tensor | None) -> Tensor:
        z, xBC, dt = self._project(hidden)
        xBC = self._convolve(xBC.transpose(1, 2), state, real).transpose(1, 2)
        x, B, C = self._split(xBC)
        results = self.ops.mamba_chunk_scan_combined(
            x, dt, -torch.exp(self._wide(self.A_log)), B, C, self.chunk_size, D=self._wide(self.D),
            dt_bias=self._wide(self.dt_bias), dt_softplus=True, return_final_states=state is not None,
        )  # fmt: skip
        if state is None:
            y = results
        else:
            y, state.ssm = results
        return torch.as_tensor(self.out_proj(self.norm(y.flatten(-2), z)))

    def _step(self, hidden: Tensor, state: MixerState) -> Tensor:
        z, xBC, dt = self._project(hidden)
        x, B, C = self._split(self._convolve_step(xBC, state))
        n = self.d_state
        # Expanded, not copied: from the strides the kernel sees that the channels of a head share A, D and the step.
        D, bias = (self._wide(part)[:, None].expand(-1, n) for part in (self.D, self.dt_bias))
        A = -torch.exp(self._wide(self.A_log))[:, None, None].expand(-1, n, n)
        y = self.ops.selective_state_update(
            state.ssm, x, dt[..., None].expand(-1, -1, n), A, B, C, D, dt_bias=bias, dt_softplus=True
        )
        return torch.as_tensor(self.out_proj(self.norm(y.flatten(-2), z)))[:, None]

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (..., d), the input of the convolution (..., d + 2 k), and the step sizes before the bias (..., g)."""
        sizes = [self.d_inner, self.d_inner + 2 * self.d_xb, self.dt_bias.shape[0]]
        z, xBC, dt = torch.split(self.in_proj(hidden), sizes, dim=-1)
        return z, xBC, dt

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, B and C, each (..., g, n), from the output of the convolution."""
        x, B, C = torch.split(xBC, [self.d_xb, self.d_xb, self.d_inner], dim=-1)
        return self._heads(x, self.repeat), self._heads(B, self.repeat), self._heads(C)


def draw_step_biases(count: int, low: float = 0.001, high: float = 0.1) -> Tensor:
    """(count,), random biases whose softplus is log-uniform between `low` and `high`, as Mamba is initialised."""
    steps = torch.exp(torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low))
    return steps + torch.log(-torch.expm1(-steps))


def make_mixer(config: HybridConfig, ops: Operations) -> Mixer:
    """The mixer of a converted layer, of the kind that the config says."""
    return GroupedMamba1(config, ops) if isinstance(config.ssm, Mamba1Settings) else GroupedMamba2(config, ops)

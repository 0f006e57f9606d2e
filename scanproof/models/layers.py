"""The blocks of the state-spaces layout in plain PyTorch, on the references of `scanproof.kernels.references.papers`.

Parameter names and shapes are those of mamba_ssm's modules, so a published state dict loads as it is.
Letters: b batch, l seqlen, d channels, n dstate, h heads, p headdim, g groups.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanproof.kernels.references.papers import causal_conv1d, gated_rms_norm, rms_norm, selective_scan, ssd
from scanproof.models.states import ScanState


def widen_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for values that mamba_ssm keeps in float32: float32, or float64 in a float64 model."""
    return torch.promote_types(dtype, torch.float32)


def _draw_step_biases(count: int, low: float, high: float, floor: float, dtype: torch.dtype) -> Tensor:
    """(count,), random biases whose softplus is log-uniform between `low` and `high`, at least `floor`."""
    steps = torch.exp(torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low)).clamp(min=floor)
    return (steps + torch.log(-torch.expm1(-steps))).to(dtype)


def convolve(
    conv: nn.Conv1d, x: Tensor, before: Tensor | None, activation: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """The causal convolution of x (b, d, l), and `before` of the next call.

    Args:
        before: (b, d, w - 1), the inputs before x; None for zeros, and then None is returned for the next call too.
    """
    y = causal_conv1d(x, conv.weight[:, 0], conv.bias, activation, before)
    return y, None if before is None else cut_window(before, x)


def cut_window(before: Tensor, x: Tensor) -> Tensor:
    """The last w - 1 inputs of a convolution, (b, d, w - 1): from x, and from `before` where x is shorter."""
    joined = torch.cat([before, x[..., max(0, x.shape[-1] - before.shape[-1]) :]], dim=-1)
    return joined[..., joined.shape[-1] - before.shape[-1] :].contiguous()


def make_empty_window(conv: nn.Conv1d, batch: int) -> Tensor:
    """The inputs before a sequence's first position: zeros (b, d, w - 1)."""
    channels, _, width = conv.weight.shape
    return conv.weight.new_zeros(batch, channels, width - 1)


class RMSNorm(nn.Module):
    """Root mean square norm.  It computes in float32 or wider and returns the dtype of its weight."""

    def __init__(self, size: int, dtype: torch.dtype, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        precise = widen_dtype(self.weight.dtype)
        return rms_norm(x.to(precise), self.weight.to(precise), self.eps).to(self.weight.dtype)


class GatedRMSNorm(nn.Module):
    """The norm inside a Mamba-2 block."""

    def __init__(self, size: int, group_size: int, norm_before_gate: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype))
        self.group_size = group_size
        self.norm_before_gate = norm_before_gate

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        precise = widen_dtype(self.weight.dtype)
        normed = gated_rms_norm(
            x.to(precise),
            z.to(precise),
            self.weight.to(precise),
            group_size=self.group_size,
            norm_before_gate=self.norm_before_gate,
        )
        return normed.to(self.weight.dtype)


class Mamba1(nn.Module):
    """Mamba's block (arXiv 2312.00752, figure 3): in_proj, convolution, selective scan, gate, out_proj."""

    def __init__(
        self,
        d_model: int,
        dtype: torch.dtype,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        inner = int(expand * d_model)
        self.d_state = d_state
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias, dtype=dtype)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, bias=conv_bias, dtype=dtype)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False, dtype=dtype)
        self.dt_proj = nn.Linear(self.dt_rank, inner, dtype=dtype)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=widen_dtype(dtype)).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner, dtype=widen_dtype(dtype)))
        self.out_proj = nn.Linear(inner, d_model, bias=bias, dtype=dtype)
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
            self.dt_proj.bias.copy_(_draw_step_biases(inner, dt_min, dt_max, dt_init_floor, dtype))

    def initial_state(self, batch: int) -> ScanState:
        """The state before a sequence's first position."""
        return ScanState(make_empty_window(self.conv1d, batch), self.A_log.new_zeros(batch, *self.A_log.shape))

    def forward(self, hidden: Tensor, state: ScanState | None = None) -> tuple[Tensor, ScanState | None]:
        """(b, l, d_model), state before -> (b, l, d_model), state after; with no state before, there is none after."""
        x, z = self.in_proj(hidden).transpose(1, 2).chunk(2, dim=1)
        x, before = convolve(self.conv1d, x, None if state is None else state.conv, "silu")
        parts = self.x_proj(x.transpose(1, 2))
        low_rank, B, C = torch.split(parts, [self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(low_rank, self.dt_proj.weight).transpose(1, 2)
        # Like the kernel: inputs in half precision, arithmetic in float32.
        u, delta, B, C, z = (part.to(self.A_log.dtype) for part in (x, delta, B.transpose(1, 2), C.transpose(1, 2), z))
        bias = self.dt_proj.bias.to(self.A_log.dtype)
        A, ssm = -torch.exp(self.A_log), None if state is None else state.ssm
        y, last = selective_scan(u, delta, A, B, C, self.D, z, bias, delta_softplus=True, initial_state=ssm)
        out = self.out_proj(y.transpose(1, 2).to(hidden.dtype))
        return out, None if before is None else ScanState(before, last)


class Mamba2(nn.Module):
    """Mamba-2's block (arXiv 2405.21060, figure 6): one input projection, convolution, SSD, gated norm, out_proj."""

    def __init__(
        self,
        d_model: int,
        dtype: torch.dtype,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        A_init_range: tuple[float, float] = (1, 16),
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
    ) -> None:
        super().__init__()
        inner = expand * d_model
        self.d_ssm = inner if d_ssm is None else d_ssm
        self.d_mlp = inner - self.d_ssm
        self.headdim, self.ngroups, self.d_state = headdim, ngroups, d_state
        self.chunk_size, self.dt_limit = chunk_size, dt_limit
        heads = self.d_ssm // headdim
        self.conv_dim = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * inner + 2 * ngroups * d_state + heads, bias=bias, dtype=dtype)
        self.conv1d = nn.Conv1d(self.conv_dim, self.conv_dim, d_conv, groups=self.conv_dim, bias=conv_bias, dtype=dtype)
        self.dt_bias = nn.Parameter(_draw_step_biases(heads, dt_min, dt_max, dt_init_floor, dtype))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*A_init_range).log().to(dtype))
        self.D = nn.Parameter(torch.ones(self.d_ssm if D_has_hdim else heads, dtype=widen_dtype(dtype)))
        self.norm = GatedRMSNorm(self.d_ssm, self.d_ssm // ngroups, norm_before_gate, dtype) if rmsnorm else None
        self.out_proj = nn.Linear(inner, d_model, bias=bias, dtype=dtype)

    def initial_state(self, batch: int) -> ScanState:
        """The state before a sequence's first position."""
        shape = (batch, len(self.dt_bias), self.headdim, self.d_state)
        ssm = self.dt_bias.new_zeros(shape, dtype=widen_dtype(self.dt_bias.dtype))
        return ScanState(make_empty_window(self.conv1d, batch), ssm)

    def forward(self, hidden: Tensor, state: ScanState | None = None) -> tuple[Tensor, ScanState | None]:
        """(b, l, d_model), state before -> (b, l, d_model), state after; with no state before, there is none after."""
        precise = widen_dtype(self.A_log.dtype)
        heads = self.dt_bias.shape[0]
        sizes = [self.d_mlp, self.d_mlp, self.d_ssm, self.conv_dim, heads]
        z0, x0, z, xBC, dt = torch.split(self.in_proj(hidden), sizes, dim=-1)
        xBC, before = convolve(self.conv1d, xBC.transpose(1, 2), None if state is None else state.conv, "silu")
        states = self.ngroups * self.d_state
        x, B, C = torch.split(xBC.transpose(1, 2).to(precise), [self.d_ssm, states, states], dim=-1)
        dt = F.softplus(dt.to(precise) + self.dt_bias.to(precise)).clamp(*self.dt_limit)
        A = -torch.exp(self.A_log.to(precise))
        D = self.D if self.D.shape[0] == heads else self.D.view(heads, self.headdim)
        x = torch.unflatten(x, -1, (heads, self.headdim))
        B, C = (torch.unflatten(part, -1, (self.ngroups, self.d_state)) for part in (B, C))
        y, last = ssd(x, dt, A, B, C, self.chunk_size, D, initial_state=None if state is None else state.ssm)
        y = y.flatten(-2).to(hidden.dtype)
        y = y * F.silu(z) if self.norm is None else self.norm(y, z)
        if self.d_mlp:
            y = torch.cat([F.silu(z0) * x0, y], dim=-1)
        return self.out_proj(y), None if before is None else ScanState(before, last)


def rotate(x: Tensor, dim: int, base: float, interleaved: bool, start: int | Tensor = 0) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of the first `dim` channels of x (b, h, l, p).

    `start` is the number of the first of the l positions; as a tensor (b, 1, 1), it has a number for each row.
    """
    inverse = base ** (-torch.arange(0, dim, 2, dtype=widen_dtype(x.dtype), device=x.device) / dim)
    positions = start + torch.arange(x.shape[-2], device=x.device)
    angles = positions.to(inverse.dtype)[..., None] * inverse
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    rotated, rest = x[..., :dim], x[..., dim:]
    shape = (dim // 2, 2) if interleaved else (2, dim // 2)
    pairs = torch.unflatten(rotated, -1, shape)
    pairs = pairs if interleaved else pairs.transpose(-1, -2)
    first, second = pairs.unbind(-1)
    both = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1 if interleaved else -2)
    return torch.cat([both.flatten(-2), rest], dim=-1)


class GatedMLP(nn.Module):
    """fc2(y silu(gate)), where fc1 gives y and gate; the width is rounded up to a multiple of 128."""

    def __init__(self, d_model: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        width = -(-hidden // 128) * 128
        self.fc1 = nn.Linear(d_model, 2 * width, bias=False, dtype=dtype)
        self.fc2 = nn.Linear(width, d_model, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.fc1(x).chunk(2, dim=-1)
        return torch.as_tensor(self.fc2(y * F.silu(gate)))

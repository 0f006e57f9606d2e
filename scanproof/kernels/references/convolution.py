"""References of the causal convolutions; they take the arguments of causal-conv1d 1.7.

Not covered, because no published model has them: more than 65,535 channels, which is where CUDA's grid ends.
Letters: b batch, d channels, l seqlen, w width, s positions that a state keeps (at least w - 1), N rows of a state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.papers import causal_conv1d
from scanproof.kernels.references.precision import Hold, exact


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """y[t] = sum over k of weight[k] x[t - (w - 1) + k] + bias, where x is 0 outside of the position's own sequence.

    Args:
        x: (b, d, l).
        weight: (d, w).
        bias: (d,).
        seq_idx: (b, l), which sequence each position belongs to; negative: padding, its output is 0.
        initial_states: (b, d, w - 1), the inputs before the first one; zeros if None.  With `seq_idx` they are
            those of the first sequence of each row.
        activation: None or `silu`.
        hold: unused, because one kernel does everything.

    Returns:
        y (b, d, l); with `return_final_states` also the last w - 1 inputs (b, d, w - 1), which may begin in the initial
        state.
    """
    width, seqlen = weight.shape[-1], x.shape[-1]
    if seq_idx is None:
        y = causal_conv1d(x, weight, bias, activation, initial_states)
    else:
        y = _packed(x, weight, bias, seq_idx, initial_states)
        y = y if activation is None else F.silu(y)
    if not return_final_states:
        return (y,)
    before = x.new_zeros(*x.shape[:-1], width - 1) if initial_states is None else initial_states
    return y, torch.cat([before, x], dim=-1)[..., seqlen:]


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor, initial: Tensor | None) -> Tensor:
    """The convolution over rows that contain several sequences, without the activation."""
    width, seqlen = weight.shape[-1], x.shape[-1]
    before = x.new_zeros(*x.shape[:-1], width - 1) if initial is None else initial
    padded, numbers = torch.cat([before, x], dim=-1), torch.cat([seq_idx[:, :1].expand(-1, width - 1), seq_idx], dim=-1)
    y = torch.zeros_like(x) if bias is None else bias[:, None].expand_as(x)
    for k in range(width):
        same = (numbers[:, k : k + seqlen] == seq_idx)[:, None]
        y = y + weight[:, k, None] * torch.where(same, padded[..., k : k + seqlen], torch.zeros_like(x))
    return torch.where((seq_idx >= 0)[:, None], y, torch.zeros_like(y))


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int, *, hold: Hold = exact) -> tuple[Tensor]:
    """The last inputs of each of several sequences that follow one another, as a state of `causal_conv1d_update`.

    states[i, :, j] = x[end of sequence i - state_len + j], and 0 where that lies before the sequence.

    Args:
        x: (l, d), the inputs of all sequences, without padding.
        cu_seqlens: (s + 1,), where the sequences begin and end.  A sequence may be empty: its state is 0.
        state_len: positions of a state.
        hold: unused: nothing is computed.

    Returns:
        (s, d, state_len), newest last.
    """
    sequences = torch.split(x, torch.diff(cu_seqlens).tolist())
    return (torch.stack([F.pad(sequence.mT, (state_len, 0))[..., len(sequence) :] for sequence in sequences]),)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, Tensor]:
    """The convolution over l new positions, and the state with the new inputs.

    Args:
        x: (b, d) or (b, d, l).
        conv_state: (N, d, s), the latest inputs (not outputs), newest last.
        weight: (d, w).
        bias: (d,).
        activation: None or `silu`.
        cache_seqlens: (b,), how many inputs came before; then the state is a ring buffer with input i at i mod s.
        conv_state_indices: (b,), the row of `conv_state` that belongs to each row of x; negative: padding, its
            output is 0.
        hold: unused, because one kernel does everything.

    Returns:
        y, shaped like x, and all N states after the step.
    """
    new = x[..., None] if x.dim() == 2 else x
    rows = torch.arange(len(x), device=x.device) if conv_state_indices is None else conv_state_indices.long()
    state, width, seqlen = conv_state[rows], weight.shape[-1], new.shape[-1]
    if cache_seqlens is None:
        before = state[..., state.shape[-1] - (width - 1) :]
        updated = torch.cat([state, new], dim=-1)[..., seqlen:]
    else:
        before = state.gather(2, _ring(cache_seqlens, 1 - width, 0, state))
        # If there are more new inputs than the ring buffer holds, it keeps the latest.
        first = max(0, seqlen - state.shape[-1])
        updated = state.scatter(2, _ring(cache_seqlens, first, seqlen, state), new[..., first:])
    y = causal_conv1d(new, weight, bias, activation, before)
    real = rows >= 0
    y = torch.where(real[:, None, None], y, torch.zeros_like(y))
    return y.reshape(x.shape), conv_state.index_copy(0, rows[real], updated[real])


def _ring(lengths: Tensor, first: int, end: int, state: Tensor) -> Tensor:
    """Indices in a ring buffer of the inputs `first` to `end` - 1, where 0 is the next new one: (b, d, end - first)."""
    positions = lengths.long()[:, None] + torch.arange(first, end, device=state.device)
    return torch.remainder(positions, state.shape[-1])[:, None].expand(-1, state.shape[1], -1)

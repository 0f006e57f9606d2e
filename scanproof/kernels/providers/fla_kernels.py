"""How fla's Triton kernels of the operations are called, and what they do not take.  Imports no torch.

fla has channels last, packs sequences by `cu_seqlens` into a batch of one row, keeps w inputs of a convolution of width
w, and leaves what surrounds a kernel of the duality (steps, skip, gate) to PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.providers.provider import Call


def steps_far(case: KernelCase) -> bool:
    """Whether more than one position is new."""
    return case.sizes.get("l", 1) > 1


def has_no_position(case: KernelCase) -> bool:
    return case.sizes.get("l") == 0


def has_odd_chunks(case: KernelCase) -> bool:
    return int(case.options.get("chunk_size", 1)).bit_count() > 1


def has_steps_of_channels(case: KernelCase) -> bool:
    """Whether each channel of a head has a decay and steps of its own."""
    return case.layouts.get("A") != "tied"


def has_no_gate(case: KernelCase) -> bool:
    return "z" not in case.given


def has_group_norms(case: KernelCase) -> bool:
    return "group_size" in case.options


def gates_first(case: KernelCase) -> bool:
    return "z" in case.given and not case.options.get("norm_before_gate", True)


def attends_otherwise(case: KernelCase) -> bool:
    """Whether attention is not causal, or keys are more or fewer than queries."""
    other_keys = bool(case.key_segments) or case.sizes.get("m", case.sizes["l"]) != case.sizes["l"]
    return other_keys or not case.options.get("causal")


@dataclass(frozen=True)
class Packing:
    """Sequences in rows of a batch, as one row."""

    ends: Any
    """(S + 1,) int64, where they begin and end."""
    first: Any
    last: Any
    """(b,), which of them begins and ends each row."""

    def spread(self, initial: Any) -> Any:
        """States of rows (b, ...) as states of sequences (S, ...): zeros but for the first sequence of each row."""
        return initial.new_zeros(len(self.ends) - 1, *initial.shape[1:]).index_copy(0, self.first, initial)


def pack_rows(seq_idx: Any, cu_seqlens: Any = None) -> Packing:
    """Read which sequence each position belongs to: (b, l); with `cu_seqlens` one row, of which some may be empty."""
    import torch

    rows, seqlen = seq_idx.shape
    begins = torch.ones_like(seq_idx, dtype=torch.bool)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    if cu_seqlens is not None:
        ends = cu_seqlens.long()
        real = torch.diff(ends).nonzero().flatten()
        return Packing(ends, real[:1], real[-1:])
    starts = begins.flatten().nonzero().flatten()
    numbers = begins.flatten().cumsum(0).view(rows, seqlen) - 1
    return Packing(torch.cat([starts, starts.new_tensor([rows * seqlen])]), numbers[:, 0], numbers[:, -1])


def of_convolution(convolve: Call) -> Call:
    """The convolution of (b, d, l), with states of width - 1 inputs."""

    def call(
        *, x: Any, weight: Any, seq_idx: Any = None, initial_states: Any = None, return_final_states: bool = False,
        **same: Any,
    ) -> Any:  # fmt: skip
        import torch.nn.functional as F

        rows, channels, seqlen = x.shape
        positions, initial, ends = x.mT, initial_states, None
        if initial is not None:
            initial = F.pad(initial, (1, 0))
        if seq_idx is not None:
            packing = pack_rows(seq_idx)
            positions, ends = positions.reshape(1, rows * seqlen, channels), packing.ends
            initial = None if initial is None else packing.spread(initial)
        out, final = convolve(
            x=positions, weight=weight, initial_state=initial, output_final_state=return_final_states, cu_seqlens=ends,
            **same,
        )  # fmt: skip
        out = out.view(rows, seqlen, channels).mT
        return (out, final[..., 1:]) if return_final_states else out

    return call


def of_convolution_step(step: Call) -> Call:
    """The convolution of one new position, (b, d) or (b, d, 1); a state of s inputs is given as one of w.

    fla's kernel asks no tensor for its shape: with a state of other sizes it writes past it.
    """

    def call(*, x: Any, conv_state: Any, weight: Any, **same: Any) -> Any:
        import torch

        width, kept = weight.shape[-1], conv_state.shape[-1]
        cache = (
            conv_state if kept == width else torch.nn.functional.pad(conv_state, (width, 0))[..., -width:].contiguous()
        )
        out, cache = step(x=x if x.dim() == 2 else x[..., 0], cache=cache, weight=weight, **same)
        if kept != width:
            conv_state.copy_(torch.cat([conv_state, cache[..., -1:]], dim=-1)[..., 1:])
        return out if x.dim() == 2 else out[..., None]

    return call


def of_norm(norm: Call) -> Call:
    """The norm with the operation's own default of eps."""
    return lambda *, eps=1e-6, **same: norm(eps=eps, **same)


def of_duality(scan: Call) -> Call:
    """Mamba-2's scan as gated linear attention: q is C, k is B, v is x times its step, g is A times the step."""

    def call(
        *, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, dt_bias: Any = None,
        initial_states: Any = None, seq_idx: Any = None, cu_seqlens: Any = None, dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")), return_final_states: bool = False,
        return_varlen_states: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        import torch

        steps = make_steps(dt, dt_bias, dt_softplus).clamp(*dt_limit)
        heads, initial, packing = x.shape[2], initial_states, None
        k, q = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (B, C))
        inputs = q, k, (x * steps[..., None]).to(x.dtype), steps * A
        if seq_idx is not None:
            packing = pack_rows(seq_idx, cu_seqlens)
            inputs = tuple(part.flatten(0, 1)[None] for part in inputs)
            initial = None if initial is None else packing.spread(initial)
        q, k, v, g = inputs
        out, final = scan(
            q=q, k=k, v=v, g=g, scale=1.0, initial_state=initial, state_v_first=True,
            output_final_state=return_final_states or return_varlen_states,
            cu_seqlens=None if packing is None else packing.ends, **options,
        )  # fmt: skip
        out = out.view(x.shape).float()
        out = out if D is None else out + x * D.view(heads, -1)
        out = (out if z is None else out * torch.nn.functional.silu(z.float())).to(x.dtype)
        states = [final if packing is None else final[packing.last]] if return_final_states else []
        return (out, *states, *([final.to(x.dtype)] if return_varlen_states else []))

    return call


def of_duality_without_chunks(scan: Call) -> Call:
    """As `of_duality`, of a scan that has no chunks."""
    call = of_duality(scan)
    return lambda *, chunk_size, **same: call(**same)


def of_step(scan: Call) -> Call:
    """One step of Mamba-2 as a scan over one position; the state is changed in place."""

    def call(
        *, state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, dt_bias: Any, z: Any = None,
        dt_softplus: bool = False,
    ) -> Any:  # fmt: skip
        import torch

        heads = x.shape[1]
        steps = make_steps(dt[..., 0], dt_bias[:, 0], dt_softplus)
        k, q = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (B, C))
        positions = (part[:, None] for part in (q.float(), k.float(), x * steps[..., None], steps * A[:, 0, 0]))
        out, final = scan(
            **dict(zip("qkvg", positions, strict=True)), scale=1.0, initial_state=state.float(),
            output_final_state=True, state_v_first=True,
        )  # fmt: skip
        state.copy_(final)
        out = out[:, 0] + x * D
        return (out if z is None else out * torch.nn.functional.silu(z.float())).to(x.dtype)

    return call


def make_steps(dt: Any, bias: Any, softplus: bool) -> Any:
    """The steps (b, ..., h) in float32."""
    import torch

    steps = dt.float() if bias is None else dt.float() + bias.float()
    return torch.nn.functional.softplus(steps) if softplus else steps


def of_gated_norm(norm: Call) -> Call:
    """The norm with its gate, in one kernel, the gate being last."""

    def call(*, x: Any, weight: Any, bias: Any, z: Any, eps: float = 1e-6, norm_before_gate: bool = True) -> Any:
        return norm(x=x, g=z, weight=weight, bias=bias, eps=eps)

    return call


def of_attention(attend: Call) -> Call:
    """Causal attention; packed sequences are one row of a batch.

    fla's kernel takes the number of positions from the keys, and reads past queries that are fewer.
    """

    def call(
        *, q: Any, k: Any, v: Any, causal: bool, softmax_scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1), cu_seqlens_q: Any = None, **lengths: Any,
    ) -> Any:  # fmt: skip
        if q.shape[:-2] != k.shape[:-2] or not causal:
            raise ValueError("attention is causal here, with as many keys as queries")
        window = None if window_size[0] < 0 else window_size[0] + 1
        if cu_seqlens_q is None:
            return attend(q=q, k=k, v=v, scale=softmax_scale, window_size=window)
        q, k, v = (part[None] for part in (q, k, v))
        return attend(q=q, k=k, v=v, scale=softmax_scale, window_size=window, cu_seqlens=cu_seqlens_q.long())[0]

    return call


def of_rotation(rotate: Call) -> Call:
    """The rotation; what is in place is done to a copy, and returned a second time.

    Two of fla's defects are kept away, because they depend on what was called before (docs/defects.md): in place, the
    first call of a shape rotates once for each time that the autotuner tries, so it chooses elsewhere first; lengths
    that are written anew into a tensor are read as they were, so each call has them in a tensor of its own.
    """

    def call(*, x: Any, inplace: bool = False, seqlen_offsets: Any = None, cu_seqlens: Any = None, **same: Any) -> Any:
        same["seqlen_offsets"] = 0 if seqlen_offsets is None else seqlen_offsets
        same["cu_seqlens"] = None if cu_seqlens is None else cu_seqlens.clone()
        given = x.clone() if inplace else x
        if inplace:
            rotate(x=x, **same)
        out = rotate(x=given, inplace=inplace, **same)
        return (out, given.detach()) if inplace else out

    return call

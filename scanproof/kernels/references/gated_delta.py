"""References of the gated delta rule (Gated DeltaNet, arXiv 2412.06464); they take the arguments of fla-core 0.6.

All floating arguments have the same dtype, which is also the dtype of the results.
`hold`: see `scanproof.kernels.references.precision`.
Letters: b batch, l seqlen, h heads of values, p their size, g heads of queries and keys, n their size, s sequences
packed into a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.precision import Hold, exact

Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From q, k, v, g, beta of one head each and a state to outputs and the state after them."""
NORM_EPS = 1e-6
"""Added to the sum of squares that queries and keys are divided by the root of."""


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """The gated delta rule, one position after the other (arXiv 2412.06464, equation 10).

    Args:
        q, k: (b, l, g, n); head i of the values reads head i // (h / g) of both.
        v: (b, l, h, p).
        g: (b, l, h), the logarithm of the decay; with `use_gate_in_kernel` what it is made of.
        beta: (b, l, h), from 0 to 1; with `use_beta_sigmoid_in_kernel` before the sigmoid.
        scale: of the outputs; 1 / sqrt(n) if None.
        initial_state: (b, h, n, p), or (s, h, n, p) where sequences are packed; zeros if None.
        output_final_state: whether to return the states after the last positions.
        use_qk_l2norm_in_kernel: whether q and k are divided by their norms.
        use_gate_in_kernel: whether the logarithm of the decay is -exp(A_log) softplus(g + dt_bias).
        A_log, dt_bias: (h,).
        use_beta_sigmoid_in_kernel, allow_neg_eigval: whether beta goes through a sigmoid, and whether that is doubled.
        state_v_first: whether states have their last two axes swapped.
        cu_seqlens: (s + 1,), where the sequences packed into the only row begin and end.  An empty sequence leaves the
            state that it was given.
        hold: nothing is rounded here: the operation keeps all that it computes in float32.

    Returns:
        o (b, l, h, p); with `output_final_state` the last states, in the shape of `initial_state`.
    """
    if use_qk_l2norm_in_kernel:
        q, k = normalize(q), normalize(k)
    if use_gate_in_kernel:
        g = gate(g, A_log, dt_bias)
    if use_beta_sigmoid_in_kernel:
        beta = torch.sigmoid(beta) * (2 if allow_neg_eigval else 1)
    return _run(delta_recurrence, q, k, v, g, beta, scale, initial_state, output_final_state, state_v_first, cu_seqlens)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    chunk_size: int = 64,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """The gated delta rule in chunks (arXiv 2412.06464, section 3.3); arguments and results as of the recurrent form.

    Args:
        chunk_size: positions per chunk.  It does not change the exact result.
        hold: rounds operands of matrix products, and what one kernel hands to the next.
    """
    if use_qk_l2norm_in_kernel:
        q, k = hold(normalize(q)), hold(normalize(k))
    if use_gate_in_kernel:
        g = gate(g, A_log, dt_bias)
    if use_beta_sigmoid_in_kernel:
        beta = torch.sigmoid(beta) * (2 if allow_neg_eigval else 1)

    def in_chunks(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return delta_chunks(q, k, v, g, beta, state, chunk_size, hold=hold)

    return _run(in_chunks, q, k, v, g, beta, scale, initial_state, output_final_state, state_v_first, cu_seqlens)


def normalize(x: Tensor) -> Tensor:
    """x / |x|, of each head."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS)


def gate(g: Tensor, A_log: Tensor | None, dt_bias: Tensor | None) -> Tensor:
    """The logarithm of the decay, as Mamba-2 makes it: -exp(A_log) softplus(g + dt_bias)."""
    if A_log is None:
        raise ValueError("use_gate_in_kernel needs A_log")
    return -torch.exp(A_log) * F.softplus(g if dt_bias is None else g + dt_bias)


def _run(
    rule: Rule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    state_v_first: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run a rule over each row, or over each of the sequences that are packed into the only one."""
    heads, shared = v.shape[2], v.shape[2] // q.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k = (part.repeat_interleave(shared, dim=2) for part in (q, k))
    sequences = len(v) if cu_seqlens is None else len(cu_seqlens) - 1
    if initial_state is None:
        state = v.new_zeros(sequences, heads, q.shape[-1], v.shape[-1])
    else:
        state = initial_state.mT if state_v_first else initial_state
    if cu_seqlens is None:
        o, last = rule(q, k, v, g, beta, state)
    else:
        lengths = torch.diff(cu_seqlens).tolist()
        parts = (torch.split(part, lengths, dim=1) for part in (q, k, v, g, beta))
        pieces = zip(*parts, torch.split(state, 1), strict=True)
        outputs, states = zip(*(rule(*piece) for piece in pieces), strict=True)
        o, last = torch.cat(outputs, dim=1), torch.cat(states)
    if not output_final_state:
        return (scale * o,)
    return scale * o, last.mT if state_v_first else last


def delta_recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The gated delta rule as the paper writes it (arXiv 2412.06464, equation 10).

    S[t] = alpha[t] (I - beta[t] k[t] k[t]^T) S[t - 1] + beta[t] k[t] v[t]^T, alpha[t] = exp(g[t]);  o[t] = S[t]^T q[t].
    The paper's S is the transpose of this one.

    Args:
        q, k: (b, l, h, n).
        v: (b, l, h, p).
        g, beta: (b, l, h).
        state: (b, h, n, p), before the first position.

    Returns:
        o (b, l, h, p), and the last state (b, h, n, p): without a position, the one that was given.
    """
    outputs = []
    for q_t, k_t, v_t, g_t, beta_t in zip(*(part.unbind(1) for part in (q, k, v, g, beta)), strict=True):
        decayed = torch.exp(g_t)[..., None, None] * state
        known = (k_t[..., None] * decayed).sum(-2)
        state = decayed + k_t[..., None] * (beta_t[..., None] * (v_t - known))[..., None, :]
        outputs.append((q_t[..., None] * state).sum(-2))
    return (torch.stack(outputs, dim=1) if outputs else v), state


def delta_chunks(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, chunk_size: int, *, hold: Hold = exact
) -> tuple[Tensor, Tensor]:
    """The same map as `delta_recurrence` in chunks: its WY form (arXiv 2412.06464, section 3.3); same arguments.

    Args:
        chunk_size: positions per chunk; it changes the result only by rounding.
        hold: rounds operands of matrix products.
    """
    outputs = []
    chunks = zip(*(torch.split(part, chunk_size, 1) for part in (q, k, v, g, beta)), strict=True)
    for q_k, k_k, v_k, g_k, beta_k in chunks:
        if q_k.shape[1]:
            o, state = _delta_chunk(q_k, k_k, v_k, g_k, beta_k, state, hold)
            outputs.append(o)
    return (torch.cat(outputs, dim=1) if outputs else v), state


def _delta_chunk(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, hold: Hold
) -> tuple[Tensor, Tensor]:
    """One chunk of `delta_chunks` from a given state."""
    q, k, v, beta = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), beta.transpose(1, 2)[..., None]
    # The logarithm of the decay from the start of the chunk up to and including each position.
    log_decay = torch.cumsum(g.transpose(1, 2), dim=-1)[..., None]
    length = log_decay.shape[-2]
    one = torch.eye(length, dtype=v.dtype, device=v.device)
    future = torch.ones(length, length, dtype=torch.bool, device=v.device).triu(1)
    # Masked before exp, because above the diagonal the difference is positive and exp may overflow.
    between = torch.exp((log_decay - log_decay.mT).masked_fill(future, float("-inf")))
    # What each position writes depends on what those before it wrote: A x = b with A triangular.
    among = (beta * (hold(k) @ hold(k).mT) * between).tril(-1)
    inverse = hold(torch.linalg.solve_triangular(one + among, one.expand_as(among), upper=False, unitriangular=True))
    values = hold(inverse @ hold(beta * v))
    keys = hold(inverse @ hold(beta * torch.exp(log_decay) * k))
    written = values - keys @ hold(state)
    within = hold((hold(q) @ hold(k).mT) * between) @ hold(written)
    carried = torch.exp(log_decay) * (hold(q) @ hold(state))
    end = log_decay[..., -1:, :]
    last = torch.exp(end) * state + hold(k).mT @ hold(torch.exp(end - log_decay) * written)
    return (within + carried).transpose(1, 2), last

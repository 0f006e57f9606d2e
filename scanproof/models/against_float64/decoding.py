"""Run the reference model with its state: a sequence in pieces, and greedy generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scanproof.models.language_model import StateSpacesLM
from scanproof.models.states import State

Stop = Callable[[list[int]], bool]
"""Tokens that a row has generated so far -> whether it is finished."""


def run_in_pieces(
    model: StateSpacesLM, input_ids: Tensor, lengths: Sequence[int], state: State | None = None
) -> tuple[Tensor, State]:
    """Logits of a sequence that the model reads piece by piece; lengths `[1] * l` decode step by step.

    Args:
        input_ids: (b, l).
        lengths: tokens of each piece, at least 1; their sum is l.
        state: the state before the sequence; None at its start.

    Returns:
        logits (b, l, padded vocabulary), and the state after the last piece.
    """
    state = model.initial_state(len(input_ids)) if state is None else state
    logits = []
    for piece in torch.split(input_ids, list(lengths), dim=1):
        output = model(piece, state)
        state = output.state
        logits.append(output.logits)
    assert state is not None
    return torch.cat(logits, dim=1), state


def generate_greedily(model: StateSpacesLM, prompts: Sequence[list[int]], count: int, stop: Stop) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token.

    Prompts of the same length run as one batch.  No prompt is padded, because padding tokens would change the state.

    Args:
        prompts: token ids, at least one each.
        count: most tokens to generate.
        stop: whether a row is finished; the token that finished it is kept.

    Returns:
        The generated tokens of each prompt, in the order of the prompts.
    """
    continuations: dict[int, list[int]] = {}
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        generated = _generate_batch(model, torch.tensor([prompts[row] for row in rows]), count, stop)
        continuations |= dict(zip(rows, generated, strict=True))
    return [continuations[row] for row in range(len(prompts))]


@torch.no_grad()
def _generate_batch(model: StateSpacesLM, prompts: Tensor, count: int, stop: Stop) -> list[list[int]]:
    """`generate_greedily` for prompts (b, l) of one length; finished rows leave the batch."""
    generated: list[list[int]] = [[] for _ in prompts]
    active, tokens = list(range(len(prompts))), prompts.to(model.device)
    state: State | None = model.initial_state(len(prompts))
    for _ in range(count):
        hidden, state = model.backbone(tokens, state)
        # Of a prompt's logits, which are large, only the last are needed.
        tokens = model.lm_head(hidden[:, -1:])[..., : model.config.vocab_size].argmax(dim=-1)
        for row, token in zip(active, tokens[:, 0].tolist(), strict=True):
            generated[row].append(token)
        left = [place for place, row in enumerate(active) if not stop(generated[row])]
        if not left:
            break
        if len(left) < len(active):
            active, tokens = [active[place] for place in left], tokens[left]
            state = state.rows(left)
    return generated

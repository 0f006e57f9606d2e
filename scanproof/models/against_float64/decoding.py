"""A model used with its state: a sequence in pieces, and greedy generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scanproof.models.language_model import StateSpacesLM
from scanproof.models.states import State

Stop = Callable[[list[int]], bool]
"""Whether a row is finished, from the tokens that it has generated so far."""


def run_in_pieces(
    model: StateSpacesLM, input_ids: Tensor, lengths: Sequence[int], state: State | None = None
) -> tuple[Tensor, State]:
    """Logits of a sequence that the model gets piece by piece; `[1] * l` is decoding step by step.

    Args:
        input_ids: (b, l).
        lengths: of the pieces, l in all, each at least 1.
        state: what came before; the start of the sequence when None.

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

    Prompts of one length run as one batch.  None is padded: a padding token would enter the state.

    Args:
        prompts: token ids, at least one each.
        count: tokens to generate, at most.
        stop: ends a row; its last token is kept.

    Returns:
        the generated tokens of each prompt, in the order of the prompts.
    """
    found: dict[int, list[int]] = {}
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        generated = _generate_batch(model, torch.tensor([prompts[row] for row in rows]), count, stop)
        found |= dict(zip(rows, generated, strict=True))
    return [found[row] for row in range(len(prompts))]


@torch.no_grad()
def _generate_batch(model: StateSpacesLM, prompts: Tensor, count: int, stop: Stop) -> list[list[int]]:
    """`generate_greedily` of prompts (b, l); rows leave the batch as they finish."""
    generated: list[list[int]] = [[] for _ in prompts]
    active, tokens = list(range(len(prompts))), prompts.to(model.device)
    state: State | None = model.initial_state(len(prompts))
    for _ in range(count):
        hidden, state = model.backbone(tokens, state)
        # The prompt's logits but the last are not needed, and are large.
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

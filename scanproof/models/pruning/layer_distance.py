"""Measure how much a block of layers changes the hidden states of a text sample, for every start of the block.

    angular distance  arccos(cos(x, y)) / pi      Gromov and others, arXiv 2403.17887, equation 7
    block influence   1 - cos(x, y)               Men and others, arXiv 2403.03853, section 3 (BI), of a whole block

The block with the smallest change is removed.  There is one float64 sum for each start.  Hidden states are dropped
after each text, so memory does not grow with the sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scanproof.models.pruning.blocks import LayerBlock, PruningError
from scanproof.models.pruning.removal import find_layers

Metric = Literal["angular", "bi_score"]
EPS = 1e-6
"""The product of norms that divides a cosine is at least this, as in the published script."""


@dataclass(frozen=True)
class Definition:
    """Which hidden states are compared."""

    metric: Metric
    layers_between: int
    """Number of layers between the two states: the block's size; one more in the published script."""
    last_token: bool
    """Whether only the last token of each text is compared, else every token."""


def choose_definition(metric: Metric, size: int, script: bool) -> Definition:
    """The papers' definition for a block of `size` layers, or that of the published script of arXiv 2410.11042.

    The papers compare the input of layer s with the input of layer s + size: the angular distance on the last token,
    the block influence on all tokens.  The script compares it with the output of layer s + size, one layer later, on
    all tokens.

    Args:
        script: whether the script's definition is chosen.
    """
    return Definition(metric, size + 1, False) if script else Definition(metric, size, metric == "angular")


def read_sample(path: Path, count: int) -> Iterator[str]:
    """The first `count` texts of a file: of a .jsonl file the `text` of each line, else each line that is not blank.

    Raises:
        PruningError: the file cannot be read, or a line has no text; names the file and the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for number, line in islice(lines, count):
                yield _text(path, number, line) if path.suffix == ".jsonl" else line.rstrip("\n")
    except FileNotFoundError:
        raise PruningError(f"{path}: there is no such file; name a text sample with sample=FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PruningError(f"{path}: cannot be read as text: {error}") from error


def _text(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise PruningError(f"{path}:{number}: expected a JSON object with a string `text`")
    return text


def measure_distances(model: nn.Module, texts: Iterable[Sequence[int]], chosen: Definition) -> tuple[float, ...]:
    """Mean distance for each start of the block, over all compared tokens of all texts.  A text is one forward pass.

    Args:
        model: a language model whose layers `find_layers` finds; called with `input_ids` (1, l).
        texts: token ids of each text.
        chosen: which hidden states are compared.

    Raises:
        PruningError: the block is larger than the model, no text has a token, or a hidden state is not finite.
    """
    layers = find_layers(model)
    starts = len(layers) + 1 - chosen.layers_between
    if starts < 1:
        raise PruningError(f"the model has {len(layers)} layers, and {chosen.layers_between} were to be compared")
    totals = torch.zeros(starts, dtype=torch.float64)
    tokens = 0
    device = next(model.parameters()).device
    with torch.inference_mode(), capture_states(layers, chosen.last_token) as states:
        for ids in texts:
            if not len(ids):
                continue
            states.clear()
            model(input_ids=torch.tensor([list(ids)], device=device))
            totals += _sums(states, chosen)
            tokens += states[0].shape[0]
    if not tokens:
        raise PruningError("the text sample has no token; give it a line of text at least")
    bad = [start for start, total in enumerate(totals.tolist()) if not math.isfinite(total)]
    if bad:
        raise PruningError(f"the hidden states around layer {bad[0]} are not finite; run the model in another dtype")
    return tuple((totals / tokens).tolist())


@contextmanager
def capture_states(layers: nn.ModuleList, last_token: bool) -> Iterator[list[Tensor]]:
    """A forward pass in the context appends states (tokens, d): each layer's input, then the last layer's output."""
    states: list[Tensor] = []

    def keep(parts: tuple[Any, ...]) -> None:
        state = residual_stream(parts)
        states.append((state[0, -1:] if last_token else state[0]).detach())

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args or (kwargs["hidden_states"],))

    def after(_: nn.Module, __: Any, output: Any) -> None:
        keep(output if isinstance(output, tuple) else (output,))

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(after))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def residual_stream(parts: tuple[Any, ...]) -> Tensor:
    """The hidden state (b, l, d) from a layer's inputs or outputs; mamba_ssm's blocks pass it as two summands."""
    hidden: Tensor = parts[0]
    rest = parts[1] if len(parts) > 1 else None
    return hidden + rest if isinstance(rest, Tensor) and rest.shape == hidden.shape else hidden


def _sums(states: Sequence[Tensor], chosen: Definition) -> Tensor:
    """(starts,), the distance for each start of the block, summed over tokens."""
    pairs = zip(states, states[chosen.layers_between :], strict=False)
    # The two states may be on different devices where a model is split over several.
    return torch.stack([measure_distance(x, y.to(x.device), chosen.metric).sum().cpu() for x, y in pairs])


def measure_distance(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """(tokens, d) and (tokens, d) -> (tokens,), in float64."""
    cosine = torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1, eps=EPS).clamp(-1, 1)
    return torch.arccos(cosine) / math.pi if metric == "angular" else 1 - cosine


def find_least_changed(distances: Sequence[float], size: int) -> LayerBlock:
    """The block of `size` layers with the smallest distance; of equal ones the first."""
    start = min(range(len(distances)), key=distances.__getitem__)
    return LayerBlock(start, start + size - 1)

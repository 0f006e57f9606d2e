"""The model classes `depth_pruned` and `depth_pruned_mamba_ssm`: a checkpoint with a block of layers removed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from scanproof.models.hub_layout import check_folder, exact_checkpoint
from scanproof.models.pruning.blocks import LayerBlock, PruningError, choose_by_persistence
from scanproof.models.pruning.layer_distance import (
    Metric,
    choose_definition,
    find_least_changed,
    measure_distances,
    read_sample,
)
from scanproof.models.pruning.removal import count_layers, remove_block
from scanproof.models.state_spaces import StateSpaces

logger = logging.getLogger(__name__)

NEEDED = (
    ("full", ()),
    ("personalized", ("start_block", "end_block")),
    ("persistence", ("zigzag_output", "p")),
    ("angular", ("block_size", "sample")),
    ("bi_score", ("block_size", "sample")),
)
"""(method, arguments that it needs and that all other methods refuse)."""


@dataclass(frozen=True, kw_only=True)
class BlockChoice:
    """How the block is chosen; the fields are arguments of the model classes."""

    method: str
    start_block: int | None = None
    end_block: int | None = None
    """The last layer that is removed."""
    zigzag_output: str | None = None
    """File of a zigzag persistence diagram."""
    p: float | None = None
    """Share of the highest similarity from which a layer is removed; the paper's 10% and 20% cuts are 0.9 and 0.8."""
    block_size: int | None = None
    """Number of layers to remove."""
    sample: str | None = None
    """Text file, see `layer_distance.read_sample`."""
    definition: str = "paper"
    """`paper`, or `script`: see `layer_distance.choose_definition`."""
    sample_texts: int = 100
    sample_tokens: int = 1000
    """Most tokens of each text."""

    def check(self) -> None:
        """Raise PruningError where a method is unknown, or an argument is missing, not taken by it or out of range."""
        needed = dict(NEEDED)
        if self.method not in needed:
            raise PruningError(f"method={self.method}: unknown; one of {', '.join(needed)}")
        if missing := [name for name in needed[self.method] if getattr(self, name) is None]:
            raise PruningError(f"method={self.method} needs {' and '.join(missing)}")
        others = {name for names in needed.values() for name in names} - set(needed[self.method])
        if left := sorted(name for name in others if getattr(self, name) is not None):
            raise PruningError(f"method={self.method} takes no {left[0]}")
        if self.definition not in ("paper", "script"):
            raise PruningError(f"definition={self.definition}: unknown; paper or script")
        for name in ("block_size", "sample_texts", "sample_tokens"):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or count < 1):
                raise PruningError(f"{name}={count!r}: expected a whole number above 0")


CHOICE_FIELDS = frozenset(field.name for field in fields(BlockChoice))


class Pruned(HFLM):  # type: ignore[misc]
    """What both model classes add to the class that loads the checkpoint: the removal of a block."""

    removed: LayerBlock | None
    """The removed layers, by their numbers in the checkpoint; None for the full model."""

    def __init__(self, pretrained: str, method: str, **arguments: Any) -> None:
        """Arguments of `BlockChoice`; all others go to the class that loads the checkpoint.

        Raises:
            PruningError: because of an argument, a file or the model, no block can be removed.
        """
        choice = BlockChoice(method=method, **{name: arguments.pop(name) for name in CHOICE_FIELDS & set(arguments)})
        choice.check()
        super().__init__(pretrained=pretrained, **arguments)
        self.removed = self._choose_block(choice)
        if self.removed is not None:
            remove_block(self.model, self.removed)
            logger.info("%s: layers %s are removed", pretrained, self.removed)

    def _choose_block(self, choice: BlockChoice) -> LayerBlock | None:
        if choice.start_block is not None and choice.end_block is not None:
            return LayerBlock(choice.start_block, choice.end_block)
        if choice.zigzag_output is not None and choice.p is not None:
            return choose_by_persistence(Path(choice.zigzag_output), count_layers(self.model), choice.p)
        if choice.sample is not None and choice.block_size is not None:
            return self._choose_least_changed(choice, choice.block_size, Path(choice.sample))
        return None

    def _choose_least_changed(self, choice: BlockChoice, size: int, sample: Path) -> LayerBlock:
        metric: Metric = "angular" if choice.method == "angular" else "bi_score"
        compared = choose_definition(metric, size, choice.definition == "script")
        texts = self._encode_sample(sample, choice.sample_texts, choice.sample_tokens)
        return find_least_changed(measure_distances(self.model, texts, compared), size)

    def _encode_sample(self, sample: Path, texts: int, tokens: int) -> Iterator[Sequence[int]]:
        """Token ids of each text of the sample, with a progress bar."""
        for text in tqdm(read_sample(sample, texts), total=texts, desc="hidden states", unit="text"):
            yield self.tokenizer(text, truncation=True, max_length=tokens)["input_ids"]


class DepthPruned(Pruned):
    """A decoder-only checkpoint, loaded by lm-eval's `hf` class, without a block of its layers."""

    def __init__(self, pretrained: str, method: str, **arguments: Any) -> None:
        """See `Pruned`; raises CheckpointError for a local folder in which a file is missing or cannot be read."""
        if Path(pretrained).is_dir():
            check_folder(Path(pretrained), own_tokenizer=arguments.get("tokenizer") is None)
        super().__init__(pretrained, method, **arguments)

    def _create_model(self, pretrained: str, **arguments: Any) -> None:
        folder = Path(pretrained)
        with exact_checkpoint(folder) if folder.is_dir() else nullcontext():
            super()._create_model(pretrained=pretrained, **arguments)


class DepthPrunedStateSpaces(Pruned, StateSpaces):
    """A checkpoint of the `mamba_ssm` class, without a block of its layers."""

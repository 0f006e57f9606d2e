"""Remove a block of layers from a loaded model; the result equals a model loaded from a shallower checkpoint."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from torch import nn

from scanproof.models.pruning.blocks import LayerBlock, PruningError

INDICES = ("layer_idx", "layer_id", "layer_number", "layer_num")
"""Names of the attribute with a module's index in a cache."""


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a causal language model in order, from transformers' base model or mamba_ssm's backbone.

    Raises:
        PruningError: there is not exactly one list with as many modules as the config has layers.
    """
    base = getattr(model, getattr(model, "base_model_prefix", "") or "backbone", None)
    count = count_layers(model)
    children = base.named_children() if isinstance(base, nn.Module) else ()
    lists = [child for _, child in children if isinstance(child, nn.ModuleList) and len(child) == count]
    if len(lists) != 1:
        raise PruningError(
            f"{type(model).__name__}: cannot tell which modules are its {count} layers ({len(lists)} lists of that "
            f"length); blocks are removed from decoder-only models with one list of layers"
        )
    return lists[0]


def count_layers(model: nn.Module) -> int:
    """Number of layers in the model's config."""
    config: Any = model.config
    return int(getattr(config, _count_field(config)))


def remove_block(model: nn.Module, block: LayerBlock) -> None:
    """Remove the layers of `block` from `model`, in place.

    The remaining layers are numbered from 0.  The config's number of layers, its lists with one entry per layer, and
    the modules' indices in a cache are changed to fit.

    Raises:
        PruningError: the model has no such layers, or its config has settings per layer that cannot be shortened.
    """
    layers = find_layers(model)
    count = len(layers)
    block.check(count)
    _shorten_config(model, block, count)
    # From the end, because a deletion changes the numbers of the layers after it.
    for index in range(block.end, block.start - 1, -1):
        del layers[index]
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in INDICES:
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)


def _count_field(config: Any) -> str:
    return "n_layer" if is_dataclass(config) and hasattr(config, "n_layer") else "num_hidden_layers"


def _shorten_config(model: nn.Module, block: LayerBlock, count: int) -> None:
    config: Any = model.config
    if _count_field(config) == "n_layer":
        shorter = _remove_from_config(config, block)
        for module in model.modules():
            if getattr(module, "config", None) is config:
                module.config = shorter
        return
    if config.get_text_config() is not config:
        raise PruningError(f"{type(model).__name__}: its layers belong to a part of the model; that is not supported")
    for key, value in list(vars(config).items()):
        if "layer" in key and isinstance(value, (list, tuple)) and len(value) == count:
            setattr(config, key, type(value)(entry for index, entry in enumerate(value) if index not in block))
    config.num_hidden_layers = count - block.size
    _check_config(config)


def _remove_from_config(config: Any, block: LayerBlock) -> Any:
    """A config of the state-spaces layout, ours or mamba_ssm's own, without the layers of the block."""
    attention = [
        index - block.size if index > block.end else index for index in config.attn_layer_idx if index not in block
    ]
    return replace(config, n_layer=config.n_layer - block.size, attn_layer_idx=attention)


def _check_config(config: Any) -> None:
    """Raise PruningError where the config computes the kinds of its layers, for example from a period.

    After the removal it would compute the wrong kinds for the layers behind the block.
    """
    for name in ("layer_types", "layers_block_type"):
        kind = getattr(type(config), name, None)
        if isinstance(kind, property) and len(set(getattr(config, name))) > 1:
            raise PruningError(
                f"{type(config).__name__}.{name} is computed and names several kinds of layers; removing some of "
                f"them would shift the others"
            )

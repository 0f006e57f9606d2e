"""Remove a block of layers from a loaded model, so that it is what a shallower checkpoint would have loaded."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from torch import nn

from scanproof.models.pruning.blocks import Block, PruningError

INDICES = ("layer_idx", "layer_id", "layer_number", "layer_num")
"""Attributes by which a module finds its own entry of a cache."""


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a causal language model, in order: what transformers' base model or a backbone runs through.

    Raises:
        PruningError: not exactly one list of as many modules as the config has layers.
    """
    base = getattr(model, getattr(model, "base_model_prefix", "") or "backbone", None)
    count = count_layers(model)
    children = base.named_children() if isinstance(base, nn.Module) else ()
    found = [each for _, each in children if isinstance(each, nn.ModuleList) and len(each) == count]
    if len(found) != 1:
        raise PruningError(
            f"{type(model).__name__}: cannot tell which modules are its {count} layers ({len(found)} lists of that "
            f"length); blocks are removed from decoder-only models with one list of layers"
        )
    return found[0]


def count_layers(model: nn.Module) -> int:
    """Number of layers, as the config has it."""
    config: Any = model.config
    return int(getattr(config, _count_field(config)))


def remove_block(model: nn.Module, block: Block) -> None:
    """Take the layers of `block` out of `model`, in place.

    What is left counts its layers from 0: the config, everything in it that is said per layer, and the indices by
    which the modules find their keys and values or their state in a cache.

    Raises:
        PruningError: the model has no such layers, or its config says things per layer that cannot be shortened.
    """
    layers = find_layers(model)
    count = len(layers)
    block.check(count)
    _shorten_config(model, block, count)
    # From the end, so that each deletion leaves the numbers of the others.
    for index in range(block.end, block.start - 1, -1):
        del layers[index]
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in INDICES:
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)


def _count_field(config: Any) -> str:
    return "n_layer" if is_dataclass(config) and hasattr(config, "n_layer") else "num_hidden_layers"


def _shorten_config(model: nn.Module, block: Block, count: int) -> None:
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
            setattr(config, key, type(value)(each for index, each in enumerate(value) if index not in block))
    config.num_hidden_layers = count - block.size
    _check_config(config)


def _remove_from_config(config: Any, block: Block) -> Any:
    """A config of the state-spaces layout (ours, or mamba_ssm's own) without the block."""
    attention = [
        index - block.size if index > block.end else index for index in config.attn_layer_idx if index not in block
    ]
    return replace(config, n_layer=config.n_layer - block.size, attn_layer_idx=attention)


def _check_config(config: Any) -> None:
    """Lists per layer that a config computes, from a period for example, have to follow; which layers they name
    is not known then."""
    for name in ("layer_types", "layers_block_type"):
        kind = getattr(type(config), name, None)
        if isinstance(kind, property) and len(set(getattr(config, name))) > 1:
            raise PruningError(
                f"{type(config).__name__}.{name} is computed and names several kinds of layers; removing some of "
                f"them would shift the others"
            )

"""Run an lm-eval model from states: while a context lasts, forms replace the `forward` of its mixers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scanproof.kernels.references.papers import causal_conv1d
from scanproof.models import cache_names
from scanproof.models.mamba_in_llama.operations import operations
from scanproof.scoring import mixer_forms, scans
from scanproof.scoring.attention import attend
from scanproof.scoring.carried_state import CarriedState, Segment, state_bytes

COPIES = 3
"""Copies of its state that a layer has in memory: the one it reads, the one it computes, the one it stores."""


class Unsupported(Exception):
    """The model cannot be scored from states; the message says why."""


@dataclass(frozen=True)
class MixerKind:
    """A class of mixers, and what takes the place of its `forward`."""

    name: str
    """Module and class."""
    form: mixer_forms.MixerForm | None
    """The replacement; None for attention, which `scoring.attention` computes."""
    pair: bool = False
    """Whether its `forward` returns a pair."""
    convolution: Callable[..., Tensor] | None = None
    """The convolution that the class calls on a CPU, which rounds in its own way; None for that of the operations."""


KINDS = (
    MixerKind("scanproof.models.layers.Mamba1", mixer_forms.run_mamba1, pair=True, convolution=causal_conv1d),
    MixerKind("scanproof.models.layers.Mamba2", mixer_forms.run_mamba2, pair=True, convolution=causal_conv1d),
    MixerKind("scanproof.models.attention.Attention", None, pair=True, convolution=causal_conv1d),
    MixerKind("scanproof.models.mamba_in_llama.mixers.GroupedMamba1", mixer_forms.run_llama1),
    MixerKind("scanproof.models.mamba_in_llama.mixers.GroupedMamba2", mixer_forms.run_llama2),
    MixerKind("mamba_ssm.modules.mamba_simple.Mamba", mixer_forms.run_mamba1),
    MixerKind("mamba_ssm.modules.mamba2.Mamba2", mixer_forms.run_mamba2),
    MixerKind("mamba_ssm.modules.mha.MHA", None),
    MixerKind("transformers.models.mamba.modeling_mamba.MambaMixer", mixer_forms.run_mamba1),
    MixerKind("transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer", mixer_forms.run_nemotron),
)
"""The classes whose `forward` is replaced.  Other mixers must be transformers' attention; else the model is refused."""
CACHED_ARCHITECTURES = ("llama", "mistral", "gemma", "gpt_neox", "nemotron_h", "mamba")
"""transformers' `model_type`s whose other layers keep no state, or keep it in the cache that they are given."""


class Network:
    """A model that runs batches from states."""

    def __init__(self, model: Any, mixers: Sequence[tuple[Any, MixerKind]], call: Callable[..., Any]) -> None:
        """
        Args:
            mixers: the model's mixers with their kinds; a mixer's index is its slot.
            call: runs the model on token ids and keyword arguments; returns its output.
        """
        self.model, self.mixers, self._call = model, mixers, call
        self.device = next(model.parameters()).device
        self.weights: int = sum(weight.numel() for weight in model.parameters())
        # Only for the kinds that occur: a model with nothing but transformers' attention needs no kernels installed.
        by_kind = {kind: choose_operators(self.device, kind) for _, kind in mixers}
        self._operators = [by_kind[kind] for _, kind in mixers]
        self._empty = [None if kind.form is None else mixer_forms.make_empty_state(mixer) for mixer, kind in mixers]
        sizes = [state_bytes(first) for first in self._empty if first is not None]
        self._scan_bytes, self._largest_scan = sum(sizes), max(sizes, default=0)
        """Bytes of one row's states in all scan layers, and in the layer with the largest state."""
        self._at_once = [
            (ops.states_at_once, first.ssm.shape[-1], first.ssm.nbytes)
            for first, ops, (_, kind) in zip(self._empty, self._operators, mixers, strict=True)
            if first is not None and ops.states_at_once is not None and kind.form in mixer_forms.SELECTIVE
        ]
        """Of each layer with a selective scan: its `states_at_once`, n, and the bytes of one state."""
        self._carried: CarriedState | None = None
        self._places: tuple[Tensor, Tensor] | None = None
        config = getattr(model, "config", None)
        self._transformers = hasattr(config, "num_hidden_layers")
        count = config.num_hidden_layers if self._transformers else 0  # type: ignore[union-attr]
        self._slots = {index: len(mixers) + index for index in range(count)}
        self._attending = max(1, count, len(mixers))
        """Number of attention layers; until the first pass has run, the most that there can be."""
        scans_only = not count and len(sizes) == len(mixers)
        self._token_bytes = 0.0 if scans_only else float(most_token_bytes(model))
        """Bytes of a token's keys and values in all attention layers; until the first pass has run, an upper bound."""

    def run(
        self,
        tokens: Tensor,
        carried: CarriedState,
        places: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Logits at some positions of a batch; afterwards `carried` has the states after its rows.

        Args:
            tokens: (b, l) token ids, padded on the right.
            places: rows and positions, int64 (n,) each.

        Returns:
            (n, vocabulary), in the dtype of the model's output.

        Raises:
            RuntimeError: the model did not call its vocabulary projection.
        """
        options: dict[str, Any] = {}
        if self._transformers:
            # Imported here, because mamba_ssm's models do not need transformers.
            from scanproof.scoring.transformers_cache import CarriedStateCache

            options = {
                cache_names.name_cache(self.model.forward): CarriedStateCache(carried, self._slots),
                "use_cache": True,
                "position_ids": carried.positions,
                "attention_mask": carried.visible,
            }
        self._carried, self._places = carried, places
        try:
            logits = torch.as_tensor(self._call(tokens, **options).logits[0])
            if self._places is not None:
                raise RuntimeError(f"{class_name(self.model)} does not call its vocabulary projection")
        finally:
            self._carried = self._places = None
        segments = [state for state in carried.new_states.values() if isinstance(state, Segment)]
        if segments:
            self._attending = len(segments)
            self._token_bytes = sum(map(state_bytes, segments)) / tokens.numel()
        return logits

    def kept_bytes(self, nodes: int, tokens: int) -> float:
        """Memory of the states that some nodes of one row keep for their children; the nodes have `tokens` in all."""
        return nodes * self._scan_bytes + self._token_bytes * tokens

    def passing_bytes(self, seen: int, length: int) -> float:
        """Memory that one layer works on for a row of `length` tokens after `seen` earlier ones."""
        at_once = max((states(length, size) * nbytes for states, size, nbytes in self._at_once), default=0)
        keys = self._token_bytes / self._attending * (seen + length)
        return COPIES * max(self._largest_scan, keys) + at_once

    def mix(self, slot: int, mixer: Any, kind: MixerKind, hidden: Tensor, *_: Any, **__: Any) -> Any:
        """Replaces a mixer's `forward`."""
        carried = self._carried
        assert carried is not None
        first = self._empty[slot]
        if kind.form is None or first is None:
            out = attend(mixer, hidden, slot, carried, self._operators[slot])
        else:
            out, state = kind.form(mixer, hidden, carried.read_scan_states(slot, first), carried, self._operators[slot])
            carried.keep_scan_states(slot, state)
        return (out, None) if kind.pair else out

    def select_positions(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Runs before the vocabulary projection and leaves it only the scored positions: (b, l, m) -> (1, n, m)."""
        hidden, *rest = arguments
        assert self._places is not None
        rows, positions = self._places
        self._places = None
        return (hidden[rows, positions][None], *rest)


def choose_operators(device: torch.device, kind: MixerKind) -> mixer_forms.Operators:
    """The operations that forms call on a device; raises ImportError where a GPU's kernels are not installed."""
    ops = operations(device)
    if device.type == "cpu":
        return mixer_forms.Operators(ops, kind.convolution or ops.causal_conv1d_fn, scans.scan_with_reference)
    return mixer_forms.Operators(
        ops, ops.causal_conv1d_fn, scans.add_first_state(ops.selective_scan_fn), states_at_once=scans.states_at_once
    )


@contextmanager
def open_network(lm: Any) -> Iterator[Network]:
    """The network of an lm-eval model; after the block the model is as it was.

    Raises:
        Unsupported: see `find_mixers`.
    """
    model = lm.model
    mixers = find_mixers(model)
    head = vocabulary_projection(model)

    def call(tokens: Tensor, **options: Any) -> Any:
        dtype = lm.mixed_precision_dtype
        with torch.no_grad(), torch.autocast(lm.device.type, dtype, enabled=dtype is not None):
            return model(tokens, **options)

    network = Network(model, mixers, call)
    # A mixer may already have a `forward` in its instance, for example from a hook of accelerate.
    own = [mixer.__dict__.get("forward") for mixer, _ in mixers]
    hook = head.register_forward_pre_hook(network.select_positions)
    try:
        for slot, (mixer, kind) in enumerate(mixers):
            mixer.forward = partial(network.mix, slot, mixer, kind)
        yield network
    finally:
        hook.remove()
        for (mixer, _), forward in zip(mixers, own, strict=True):
            mixer.__dict__.pop("forward", None)
            if forward is not None:
                mixer.forward = forward


def find_mixers(model: Any) -> list[tuple[Any, MixerKind]]:
    """The mixers of a model whose `forward` is replaced, with their kinds.

    Raises:
        Unsupported: the model has a layer, an activation or positions with which it cannot be run from states.
    """
    kinds = {kind.name: kind for kind in KINDS}
    mixers = [(module, kinds[name]) for module in model.modules() if (name := class_name(module)) in kinds]
    if len(devices := {str(parameter.device) for parameter in model.parameters()}) > 1:
        raise Unsupported(f"its weights lie on several devices: {', '.join(sorted(devices))}")
    if any(not getattr(mixer, "causal", True) for mixer, _ in mixers):
        raise Unsupported("its attention is not causal: what follows changes what comes before")
    # `convolve` and the gates of the forms compute SiLU.
    activations = {getattr(mixer, "activation", "silu") for mixer, _ in mixers}
    if other := activations - {"silu", "swish"}:
        raise Unsupported(f"the activation of its mixers is {', '.join(map(str, other))}, not silu")
    config = getattr(model, "config", None)
    architecture = getattr(config, "model_type", None)
    if hasattr(config, "num_hidden_layers"):
        if architecture not in CACHED_ARCHITECTURES:
            raise Unsupported(f"nobody has taught it to go on from a state of the architecture {architecture!r}")
        # Code that came with a checkpoint may have the name of a known architecture and compute something else.
        if own := [module for module in model.modules() if type(module).__module__.startswith("transformers_modules.")]:
            raise Unsupported(f"it is code that came with the checkpoint: {class_name(own[0])}")
        # With these types of rotary embeddings, the angles of all positions change when the text gets longer.
        rotations = sorted({str(getattr(module, "rope_type", "")) for module in model.modules()})
        if turning := [kind for kind in rotations if "dynamic" in kind or "longrope" in kind]:
            raise Unsupported(f"its positions are of the type {turning[0]}: keys change with the length of a text")
    elif not mixers:
        raise Unsupported(f"{class_name(model)} has no layers that it knows")
    elif strange := [mixer for mixer in find_layer_mixers(model) if class_name(mixer) not in kinds]:
        raise Unsupported(f"nobody has taught it to go on from a state of {class_name(strange[0])}")
    return mixers


def find_layer_mixers(model: nn.Module) -> list[nn.Module]:
    """The mixers of all layers of a model in the state-spaces layout, of whatever class."""
    mixers = [getattr(module, "mixer", None) for module in model.modules()]
    return [mixer for mixer in mixers if isinstance(mixer, nn.Module)]


def class_name(module: object) -> str:
    """Module and class of an object, as in `MixerKind.name`."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def most_token_bytes(model: Any) -> int:
    """Upper bound of a token's keys and values in bytes: outputs of all linear layers but the vocabulary projection."""
    head = vocabulary_projection(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return sum(layer.out_features for layer in layers) * int(next(model.parameters()).element_size())


def vocabulary_projection(model: Any) -> nn.Module:
    """The layer that computes logits from hidden states."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else model.lm_head
    assert isinstance(head, nn.Module)
    return head

"""A model that goes on from states: lm-eval's model, its stateful layers answered by `forms` while the block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scanproof.kernels.references.papers import causal_conv1d
from scanproof.models.mamba_in_llama.operations import operations
from scanproof.scoring import mixer_forms, scans
from scanproof.scoring.attention import attend
from scanproof.scoring.carried_state import Passage, Segment, size

COPIES = 3
"""Of the states that a layer works on: what it reads, what it computes, what it leaves."""


class Unsupported(Exception):
    """A model that cannot be scored from states; the message says why."""


@dataclass(frozen=True)
class Kind:
    """A class of mixers, and how it is answered."""

    name: str
    """Module and class."""
    form: mixer_forms.Form | None
    """None for attention."""
    pair: bool = False
    """Whether its `forward` returns a pair."""
    convolution: Callable[..., Tensor] | None = None
    """Its own on a CPU, with its own rounding; None for that of the operations."""


KINDS = (
    Kind("scanproof.models.layers.Mamba1", mixer_forms.mamba1, pair=True, convolution=causal_conv1d),
    Kind("scanproof.models.layers.Mamba2", mixer_forms.mamba2, pair=True, convolution=causal_conv1d),
    Kind("scanproof.models.attention.Attention", None, pair=True, convolution=causal_conv1d),
    Kind("scanproof.models.mamba_in_llama.mixers.Mamba1", mixer_forms.llama1),
    Kind("scanproof.models.mamba_in_llama.mixers.Mamba2", mixer_forms.llama2),
    Kind("mamba_ssm.modules.mamba_simple.Mamba", mixer_forms.mamba1),
    Kind("mamba_ssm.modules.mamba2.Mamba2", mixer_forms.mamba2),
    Kind("mamba_ssm.modules.mha.MHA", None),
    Kind("transformers.models.mamba.modeling_mamba.MambaMixer", mixer_forms.mamba1),
    Kind("transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer", mixer_forms.nemotron),
)
"""A mixer that is not here belongs to transformers' attention, or makes a model unsupported."""
ATTENDING = ("llama", "mistral", "gemma", "gpt_neox", "nemotron_h", "mamba")
"""Architectures of transformers whose other layers keep nothing, or keep it in the cache that they are given."""


class Network:
    """One model, open for passes."""

    def __init__(self, model: Any, mixers: Sequence[tuple[Any, Kind]], call: Callable[..., Any]) -> None:
        """
        Args:
            mixers: of the model, with their kinds.
            call: runs the model; returns what it returns.
        """
        self.model, self.mixers, self._call = model, mixers, call
        self.device = next(model.parameters()).device
        self.weights = sum(weight.numel() for weight in model.parameters())
        # transformers' attention needs none of the kernels: they may be missing where a model has nothing else.
        made = {kind: operators(self.device, kind) for _, kind in mixers}
        self._operators = [made[kind] for _, kind in mixers]
        self._empty = [None if kind.form is None else mixer_forms.empty(mixer) for mixer, kind in mixers]
        scans = [size(first) for first in self._empty if first is not None]
        self._scan_bytes, self._largest_scan = sum(scans), max(scans, default=0)
        """States of all scan layers, of one row, and of the layer with most."""
        self._at_once = [
            (done.states_at_once, first.ssm.nbytes)
            for first, done, (_, kind) in zip(self._empty, self._operators, mixers, strict=True)
            if first is not None and done.states_at_once is not None and kind.form in mixer_forms.SELECTIVE
        ]
        self._passage: Passage | None = None
        self._places: tuple[Tensor, Tensor] | None = None
        config = getattr(model, "config", None)
        self._transformers = hasattr(config, "num_hidden_layers")
        count = config.num_hidden_layers if self._transformers else 0  # type: ignore[union-attr]
        self._slots = {index: len(mixers) + index for index in range(count)}
        self._attending = max(1, count, len(mixers))
        """Attention layers; as many as there may be until the first have run."""
        scans_only = not count and len(scans) == len(mixers)
        self._token_bytes = 0.0 if scans_only else float(most_bytes(model))
        """Keys and values of a token, in all attention layers; as much as there may be until the first have run."""

    def run(
        self,
        tokens: Tensor,
        passage: Passage,
        places: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Logits of some positions; `passage` has what is left behind the rows afterwards.

        Args:
            tokens: (b, l), padded on the right.
            places: rows and positions, (n,) each.

        Returns:
            (n, vocabulary).
        """
        options: dict[str, Any] = {}
        if self._transformers:
            # Where mamba_ssm is scored, transformers need not be installed.
            from scanproof.scoring.transformers_cache import PassageCache

            options = {
                "past_key_values": PassageCache(passage, self._slots),
                "use_cache": True,
                "position_ids": passage.positions,
                "attention_mask": passage.visible,
            }
        self._passage, self._places = passage, places
        try:
            logits = torch.as_tensor(self._call(tokens, **options).logits[0])
            if self._places is not None:
                raise RuntimeError(f"{class_name(self.model)} does not call its vocabulary projection")
        finally:
            self._passage = self._places = None
        segments = {slot: kept for slot, kept in passage.left.items() if isinstance(kept, Segment)}
        if segments:
            self._attending = len(segments)
            self._token_bytes = sum(map(size, segments.values())) / tokens.numel()
        return logits

    def kept_bytes(self, nodes: int, tokens: int) -> float:
        """Memory of what some nodes of one row leave for their children, tokens in all."""
        return nodes * self._scan_bytes + self._token_bytes * tokens

    def passing_bytes(self, seen: int, length: int) -> float:
        """Memory that one layer works on for a row with some tokens behind it."""
        at_once = max((states(length) * size for states, size in self._at_once), default=0)
        keys = self._token_bytes / self._attending * (seen + length)
        return COPIES * max(self._largest_scan, keys) + at_once

    def mix(self, slot: int, mixer: Any, kind: Kind, hidden: Tensor, *_: Any, **__: Any) -> Any:
        """Takes the place of a mixer's `forward`."""
        passage = self._passage
        assert passage is not None
        first = self._empty[slot]
        if kind.form is None or first is None:
            out = attend(mixer, hidden, slot, passage, self._operators[slot])
        else:
            out, state = kind.form(mixer, hidden, passage.before(slot, first), passage, self._operators[slot])
            passage.leave(slot, state)
        return (out, None) if kind.pair else out

    def choose(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before the vocabulary projection: (b, l, m) -> (1, n, m), the positions that are scored."""
        hidden, *rest = arguments
        assert self._places is not None
        rows, positions = self._places
        self._places = None
        return (hidden[rows, positions][None], *rest)


def operators(device: torch.device, kind: Kind) -> mixer_forms.Operators:
    """What forms compute with on a device; raises ImportError where a GPU's kernels are not installed."""
    ops = operations(device)
    if device.type == "cpu":
        return mixer_forms.Operators(ops, kind.convolution or ops.causal_conv1d_fn, scans.reference)
    return mixer_forms.Operators(
        ops, ops.causal_conv1d_fn, scans.superposed(ops.selective_scan_fn), states_at_once=scans.states_at_once
    )


@contextmanager
def opened(lm: Any) -> Iterator[Network]:
    """The network of an lm-eval model; the model is as it was afterwards.

    Raises:
        Unsupported: see there.
    """
    model = lm.model
    mixers = stateful(model)
    head = vocabulary_projection(model)

    def call(tokens: Tensor, **options: Any) -> Any:
        kind = lm.mixed_precision_dtype
        with torch.no_grad(), torch.autocast(lm.device.type, kind, enabled=kind is not None):
            return model(tokens, **options)

    network = Network(model, mixers, call)
    # An instance has a `forward` of its own where somebody else, accelerate for one, hooked into it.
    own = [mixer.__dict__.get("forward") for mixer, _ in mixers]
    hook = head.register_forward_pre_hook(network.choose)
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


def stateful(model: Any) -> list[tuple[Any, Kind]]:
    """The mixers of a model that are answered by forms; raises Unsupported."""
    kinds = {kind.name: kind for kind in KINDS}
    found = [(module, kinds[name]) for module in model.modules() if (name := class_name(module)) in kinds]
    if len(devices := {str(parameter.device) for parameter in model.parameters()}) > 1:
        raise Unsupported(f"its weights lie on several devices: {', '.join(sorted(devices))}")
    if any(not getattr(mixer, "causal", True) for mixer, _ in found):
        raise Unsupported("its attention is not causal: what follows changes what comes before")
    # Upstream's attribute; `convolve` and the gates have this one.
    activations = {getattr(mixer, "activation", "silu") for mixer, _ in found}
    if other := activations - {"silu", "swish"}:
        raise Unsupported(f"the activation of its mixers is {', '.join(map(str, other))}, not silu")
    config = getattr(model, "config", None)
    architecture = getattr(config, "model_type", None)
    if hasattr(config, "num_hidden_layers"):
        if architecture not in ATTENDING:
            raise Unsupported(f"nobody has taught it to go on from a state of the architecture {architecture!r}")
        # Such code may have an architecture's name and be another model.
        if own := [module for module in model.modules() if type(module).__module__.startswith("transformers_modules.")]:
            raise Unsupported(f"it is code that came with the checkpoint: {class_name(own[0])}")
        # transformers' rotary embeddings of these types turn all positions anew when a text gets longer.
        rotations = sorted({str(getattr(module, "rope_type", "")) for module in model.modules()})
        if turning := [kind for kind in rotations if "dynamic" in kind or "longrope" in kind]:
            raise Unsupported(f"its positions are of the type {turning[0]}: keys change with the length of a text")
    elif not found:
        raise Unsupported(f"{class_name(model)} has no layers that it knows")
    elif strange := [each for each in mixing(model) if class_name(each) not in kinds]:
        raise Unsupported(f"nobody has taught it to go on from a state of {class_name(strange[0])}")
    return found


def mixing(model: nn.Module) -> list[nn.Module]:
    """The mixers of the layers of a model in the state-spaces layout, whatever their classes."""
    mixers = [getattr(module, "mixer", None) for module in model.modules()]
    return [mixer for mixer in mixers if isinstance(mixer, nn.Module)]


def class_name(module: object) -> str:
    """Module and class, as `Kind.name` has them."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def most_bytes(model: Any) -> int:
    """No more keys and values can there be of a token than linear layers, but for the last, have outputs."""
    head = vocabulary_projection(model)
    layers = [each for each in model.modules() if isinstance(each, nn.Linear) and each is not head]
    return sum(each.out_features for each in layers) * int(next(model.parameters()).element_size())


def vocabulary_projection(model: Any) -> nn.Module:
    """The layer that makes logits of hidden states."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else model.lm_head
    assert isinstance(head, nn.Module)
    return head

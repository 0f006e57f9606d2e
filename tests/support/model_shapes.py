"""The shapes with which the published models call the operations, derived from their configurations.

A layer's sizes have the letters of `cases.yaml`.  Where the code that a checkpoint was published with and the mixers of
this project call an operation differently, both calls are derived.  Sources of the calls: mamba-ssm 2.3.2's `modules/`
and `models/mixer_seq_simple.py`; github.com/jxiw/MambaInLlama, commit 03047eb, `mamba_inference/hybrid_mamba_layer.py`,
`mamba2/hybrid_mamba_layer.py` and `mamba2_inference/hybrid_model.py`; transformers' `mamba`, `nemotron_h` and
`qwen3_next`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof.models.layout import StateSpacesConfig
from scanproof.models.mamba_in_llama.config import Mamba1Settings, Mamba2Settings
from scanproof.models.megatron import architecture
from tests.support.late import Late
from tests.support.published_configs import D_XB, HUB_MAMBA, HYBRIDS, MEGATRON, MODULES, QWEN, STATE_SPACES

if TYPE_CHECKING:
    from scanproof.models import layers
else:
    layers = Late("scanproof.models.layers")

Call = tuple[str, Mapping[str, Any]]
"""An operation's name; what its shape is: sizes by letter, options by name, layouts as `layout of ARGUMENT`."""


@dataclass(frozen=True)
class Mamba1Layer:
    """A Mamba-1 mixer; `grouped`: with heads of n channels, as MambaInLlama's."""

    m: int
    d: int
    n: int
    w: int
    r: int
    g: int = 1
    grouped: bool = False
    contiguous: bool = True
    """The positions of a channel are contiguous in the convolution's input."""


@dataclass(frozen=True)
class Mamba2Layer:
    """A Mamba-2 mixer; `channels` are those of its convolution, `repeated`: x and B are, as in Mamba2InLlama."""

    m: int
    h: int
    p: int
    g: int
    n: int
    w: int
    chunk_size: int
    channels: int
    fused: bool = True
    """Its whole block can be one operation."""
    repeated: bool = False


@dataclass(frozen=True)
class AttentionLayer:
    """An attention mixer; `channels` are those of the convolution of width w over q, k and v, 0 where it has none.

    Of a head's channels `rotated` are; r of them by the operation on the cache, which takes multiples of 16.
    """

    q: int
    k: int
    p: int
    channels: int = 0
    w: int = 0
    rotated: int = 0

    @property
    def r(self) -> int:
        """Others than multiples of 16 mamba_ssm rotates before it calls the operation."""
        return 0 if self.rotated % 16 else self.rotated


@dataclass(frozen=True)
class DeltaLayer:
    """A Gated DeltaNet mixer; `channels` are those of its convolution over q, k and v."""

    m: int
    h: int
    p: int
    g: int
    n: int
    w: int
    channels: int


@dataclass(frozen=True)
class NormLayer:
    """mamba-ssm's RMS norm before a layer; `prenorm`: together with the addition to the residual stream."""

    d: int
    prenorm: bool


@dataclass(frozen=True)
class Mamba3Layer:
    """A Mamba-3 mixer with one input per state; g groups are heads of q and k, a angles of a head are given."""

    m: int
    h: int
    p: int
    g: int
    n: int
    a: int
    chunk_size: int


Layer = Mamba1Layer | Mamba2Layer | Mamba3Layer | AttentionLayer | DeltaLayer | NormLayer


def published_layers(name: str) -> tuple[Layer, ...]:
    """The kinds of layers of a published model that call operations; none where no configuration is at hand."""
    if name in STATE_SPACES:
        return tuple(_state_spaces(StateSpacesConfig(**STATE_SPACES[name])))
    if name == MEGATRON:
        return tuple(_megatron(architecture.read_architecture(None, Path(name))))
    if name in MODULES:
        return (_mamba3(MODULES[name]),)
    if name in HYBRIDS:
        return tuple(_mamba_in_llama(*HYBRIDS[name]))
    if name in QWEN:
        return (_qwen(QWEN[name]),)
    return (_hub_mamba(HUB_MAMBA[name]),) if name in HUB_MAMBA else ()


def _state_spaces(config: StateSpacesConfig) -> Iterator[Layer]:
    """mamba_ssm's modules; a field that the config lacks has the default of this project's mixer, which is theirs."""
    m, cfg = config.d_model, {key: value for key, value in config.ssm_cfg.items() if key != "layer"}
    mixer = layers.Mamba2 if config.layer == "Mamba2" else layers.Mamba1
    cfg = {key: part.default for key, part in inspect.signature(mixer).parameters.items()} | cfg
    d, n, w = cfg["expand"] * m, cfg["d_state"], cfg["d_conv"]
    yield NormLayer(m, prenorm=config.fused_add_norm)
    if len(config.attn_layer_idx) < config.n_layer and config.layer == "Mamba1":
        yield Mamba1Layer(m, d, n, w, math.ceil(m / 16) if cfg["dt_rank"] == "auto" else cfg["dt_rank"])
    elif len(config.attn_layer_idx) < config.n_layer:
        p, g = cfg["headdim"], cfg["ngroups"]
        yield Mamba2Layer(m, d // p, p, g, n, w, cfg["chunk_size"], channels=d + 2 * g * n)
    if config.attn_layer_idx:
        q, p, w = (config.attn_cfg.get(key, 0) for key in ("num_heads", "head_dim", "d_conv"))
        k = config.attn_cfg.get("num_heads_kv", q)
        yield AttentionLayer(q, k, p, (q + 2 * k) * p if w else 0, w, config.attn_cfg.get("rotary_emb_dim", 0))


def _megatron(sizes: architecture.Architecture) -> Iterator[Layer]:
    """NVIDIA's hybrid; its other norms are torch's."""
    h, p, g, n = sizes.mamba_num_heads, sizes.mamba_head_dim, sizes.mamba_num_groups, sizes.mamba_state_dim
    channels = h * p + 2 * g * n
    yield Mamba2Layer(sizes.hidden_size, h, p, g, n, sizes.mamba_conv, sizes.mamba_chunk_size, channels)
    yield AttentionLayer(sizes.num_attention_heads, sizes.num_query_groups, sizes.kv_channels)


def _mamba3(config: Mapping[str, Any]) -> Layer:
    """mamba_ssm's module; of a head's channels it rotates the share `rope_fraction`, two with an angle."""
    m, p, n = config["d_model"], config["headdim"], config["d_state"]
    angles = int(n * config["rope_fraction"]) // 2
    return Mamba3Layer(m, config["expand"] * m // p, p, config["ngroups"], n, angles, config["chunk_size"])


def _mamba_in_llama(llama: Mapping[str, Any], d: int, groups: int | None) -> Iterator[Layer]:
    """Llama's attention, and mixers whose heads are the attention's; the norms of converted layers are mamba-ssm's."""
    m = llama["hidden_size"]
    if groups is None:
        one = Mamba1Settings()
        n = one.d_state
        yield Mamba1Layer(m, d, n, one.d_conv, math.ceil(m / 16), g=d // n, grouped=True)
    else:
        two = Mamba2Settings(ngroups=groups)
        sizes = (m, groups, d // groups, groups, two.d_state, two.d_conv, two.chunk_size)
        yield Mamba2Layer(*sizes, channels=d + 2 * D_XB, fused=False, repeated=True)
    yield AttentionLayer(llama["num_attention_heads"], llama["num_key_value_heads"], m // llama["num_attention_heads"])
    yield NormLayer(m, prenorm=False)


def _hub_mamba(config: Mapping[str, Any]) -> Layer:
    """transformers' Mamba, whose norms are torch's; its convolution gets the transposed projection as it is."""
    names = ("hidden_size", "intermediate_size", "state_size", "conv_kernel", "time_step_rank")
    m, d, n, w, r = (config[name] for name in names)
    return Mamba1Layer(m, d, n, w, r, contiguous=False)


def _qwen(config: Mapping[str, Any]) -> Layer:
    """Of Qwen3-Next its Gated DeltaNet only: in the other layers is attention, which has rows of other models."""
    g, n = config["linear_num_key_heads"], config["linear_key_head_dim"]
    h, p = config["linear_num_value_heads"], config["linear_value_head_dim"]
    w = config["linear_conv_kernel_dim"]
    return DeltaLayer(config["hidden_size"], h, p, g, n, w, channels=2 * g * n + h * p)


def layer_sizes(layer: Layer) -> dict[str, int]:
    """The layer's sizes by the letters of `cases.yaml`, as a row of its `models` may have them."""
    return {letter: size for letter, size in vars(layer).items() if len(letter) == 1}


def layer_calls(layer: Layer) -> Iterator[Call]:
    """The operations that a layer calls, forward, in training and in decoding, with their shapes."""
    if isinstance(layer, Mamba1Layer):
        return mamba1_calls(layer)
    if isinstance(layer, Mamba2Layer):
        return mamba2_calls(layer)
    if isinstance(layer, Mamba3Layer):
        return mamba3_calls(layer)
    if isinstance(layer, DeltaLayer):
        return delta_calls(layer)
    return attention_calls(layer) if isinstance(layer, AttentionLayer) else norm_calls(layer)


def mamba1_calls(layer: Mamba1Layer) -> Iterator[Call]:
    """Selective scan and its steps; a grouped mixer is no inner function, and was published with heads of 1 channel."""
    s = layer_sizes(layer)
    d, n, g = layer.d, layer.n, layer.g
    yield "selective_scan_fn", {"d": d, "n": n, "g": g}
    if layer.grouped:
        # As published, and as this project's mixer does it: once positions, once channels are contiguous.
        yield from convolution_calls(d, layer.w, "silu", contiguous=True)
        yield from convolution_calls(d, layer.w, "silu", contiguous=False)
        for h in (d, g):
            yield "selective_state_update", {"h": h, "p": d // h, "g": g, "n": n, "layout of A": None}
        return
    yield "mamba_inner_fn", {letter: s[letter] for letter in "dnwrm"}
    yield from convolution_calls(d, layer.w, "silu", layer.contiguous)
    yield "selective_state_update", {"h": None, "p": d, "g": None, "n": n, "layout of A": None}


def mamba2_calls(layer: Mamba2Layer) -> Iterator[Call]:
    """SSD and its steps, the gated norm, whose groups are those of B and C; `repeated`: as published, and as here."""
    s = layer_sizes(layer)
    heads = {letter: s[letter] for letter in "hpgn"}
    for layout in (None, "heads_first") if layer.repeated else (None,):
        layouts = {"layout of x": layout, "layout of B": layout}
        yield "mamba_chunk_scan_combined", {**heads, "chunk_size": layer.chunk_size, **layouts}
    if layer.fused:
        rest = {letter: s[letter] for letter in "wm"}
        yield "mamba_split_conv1d_scan_combined", {**heads, **rest, "chunk_size": layer.chunk_size}
        # mamba_ssm's module keeps as many inputs as its convolution is wide, of packed sequences as well.
        yield "causal_conv1d_varlen_states", {"d": layer.channels, "s": layer.w}
    yield from convolution_calls(layer.channels, layer.w, "silu", contiguous=False)
    yield "selective_state_update", {**heads, "layout of A": "tied"}
    d = layer.h * layer.p
    yield "rmsnorm_fn", {"d": d, "group_size": d // layer.g if layer.g > 1 else None, "norm_before_gate": False}


def mamba3_calls(layer: Mamba3Layer) -> Iterator[Call]:
    """The scan, whose steps are a transposed part of the projection, and the step, which mamba_ssm ships beside it."""
    heads = {letter: size for letter, size in layer_sizes(layer).items() if letter in "hpgna"}
    layouts = {"layout of V": "padded", "layout of DT": "transposed", "layout of Trap": "transposed"}
    yield "mamba3_siso_combined", {**heads, "chunk_size": layer.chunk_size, **layouts}
    yield "mamba3_siso_step", heads


def delta_calls(layer: DeltaLayer) -> Iterator[Call]:
    """The rule in chunks and step by step, with norms inside, as transformers calls both."""
    heads = {letter: layer_sizes(layer)[letter] for letter in "hpgn"}
    for name in ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"):
        yield name, {**heads, "use_qk_l2norm_in_kernel": True}
    yield from convolution_calls(layer.channels, layer.w, "silu", contiguous=False)


def attention_calls(layer: AttentionLayer) -> Iterator[Call]:
    """Every form of attention, as transformers, mamba_ssm's decoding and shared scoring call them."""
    heads = {"q": layer.q, "k": layer.k, "p": layer.p}
    yield "flash_attn_func", heads
    yield "flash_attn_varlen_func", heads
    yield "flash_attn_with_kvcache", {**heads, "r": layer.r or None}
    if layer.rotated:
        for count in {layer.q, layer.k}:
            yield "apply_rotary_emb", {"q": count, "p": layer.p, "r": layer.rotated, "interleaved": None}
    if layer.channels:
        yield from convolution_calls(layer.channels, layer.w, None, contiguous=False)


def norm_calls(layer: NormLayer) -> Iterator[Call]:
    """mamba-ssm's fused norm."""
    yield "rms_norm_fn", {"d": layer.d, "prenorm": layer.prenorm or None}


def convolution_calls(d: int, w: int, activation: str | None, contiguous: bool) -> Iterator[Call]:
    """The convolution of a sequence, and of a step, whose state keeps w positions."""
    layout = None if contiguous else "transposed"
    yield "causal_conv1d_fn", {"d": d, "w": w, "activation": activation, "layout of x": layout}
    yield "causal_conv1d_update", {"d": d, "w": w, "s": w, "activation": activation}

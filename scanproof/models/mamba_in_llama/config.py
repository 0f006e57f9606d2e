"""Read mamba_config.json and config.json of a MambaInLlama checkpoint, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scanproof.models.layout import CheckpointError, read_json_object

MAMBA_CONFIG = "mamba_config.json"
LLAMA_CONFIG = "config.json"
IGNORED_SETTINGS = (
    "expand", "headdim", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init",
    "use_fast_path", "use_mem_eff_path",
)  # fmt: skip
"""Keys of ssm_cfg without effect: an initial value, a kernel path, or a size that is also given outside ssm_cfg."""
MAMBA_KEYS: Mapping[str, type] = {
    "d_model": int, "d_inner": int, "d_xb": int, "n_layer": int, "intermediate_size": int, "attn_layers": list,
    "ssm_cfg": dict,
}  # fmt: skip
LLAMA_KEYS: Mapping[str, type] = {
    "vocab_size": int, "hidden_size": int, "intermediate_size": int, "num_hidden_layers": int,
    "num_attention_heads": int, "num_key_value_heads": int, "rms_norm_eps": float, "hidden_act": str,
}  # fmt: skip
"""Required fields of config.json: transformers would take a default of its own for them."""
LLAMA_OPTIONAL = (
    "head_dim", "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias", "pad_token_id",
    "bos_token_id", "eos_token_id", "initializer_range",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mamba1Settings:
    """ssm_cfg of `mamba_hybrid`, with the defaults of the published code."""

    d_state: int = 16
    d_conv: int = 4
    dt_rank: int | str = "auto"
    conv_bias: bool = True
    repeat_kv_before_conv: bool = True


@dataclass(frozen=True, kw_only=True)
class Mamba2Settings:
    """ssm_cfg of `mamba2_hybrid`, with the defaults of the published code; the head dimension is d_state."""

    ngroups: int
    d_state: int = 128
    d_conv: int = 4
    chunk_size: int = 256
    conv_bias: bool = True
    repeat_kv_before_conv: bool = False


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """The content of both files."""

    llama: Mapping[str, Any]
    """Fields of transformers' LlamaConfig; rope_theta and rope_scaling are spelled as in published checkpoints."""
    d_inner: int
    """Channels of the mixer."""
    d_xb: int
    """Channels of x, and of B, before they are repeated."""
    attn_layers: tuple[int, ...]
    """Indices of the layers that are still attention."""
    ssm: Mamba1Settings | Mamba2Settings

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.llama["hidden_size"])

    @property
    def repeat(self) -> int:
        """How often each head of x and B is repeated."""
        return self.d_inner // self.d_xb

    def llama_arguments(self) -> dict[str, Any]:
        """Arguments for LlamaConfig; a copy, because LlamaConfig changes what it is given."""
        return deepcopy(dict(self.llama))

    def mamba_fields(self) -> dict[str, Any]:
        """The content of mamba_config.json."""
        return {
            "d_model": self.d_model,
            "ssm_cfg": {"expand": 1, **asdict(self.ssm)},
            "rms_norm_eps": self.llama["rms_norm_eps"],
            "vocab_size": None,
            "d_inner": self.d_inner,
            "d_xb": self.d_xb,
            "intermediate_size": self.llama["intermediate_size"],
            "hidden_act": self.llama["hidden_act"],
            "n_layer": self.llama["num_hidden_layers"],
            "attn_layers": list(self.attn_layers),
        }

    def llama_fields(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **self.llama_arguments()}


def read_config(folder: Path, mixer: type[Mamba1Settings] | type[Mamba2Settings]) -> HybridConfig:
    """The configuration of the checkpoint in `folder`; `mixer` is the kind of its converted layers.

    Raises:
        CheckpointError: names the file and the key that is missing, unknown, of the wrong type, or that contradicts
            another key.
    """
    path, base = folder / MAMBA_CONFIG, folder / LLAMA_CONFIG
    mamba, llama = (read_json_object(file, "; a MambaInLlama checkpoint needs one") for file in (path, base))
    for key, kind in MAMBA_KEYS.items():
        _check(path, mamba, key, kind)
    fit = {"d_model": "hidden_size", "n_layer": "num_hidden_layers"} | {
        key: key for key in ("intermediate_size", "hidden_act", "rms_norm_eps") if key in mamba
    }
    fields_of_llama = _llama_fields(base, llama)
    for ours, theirs in fit.items():
        if mamba[ours] != fields_of_llama[theirs]:
            raise CheckpointError(f"{path}: {ours}: {mamba[ours]!r}, but {base.name} has {theirs} {llama[theirs]!r}")
    config = HybridConfig(
        llama=fields_of_llama,
        d_inner=mamba["d_inner"],
        d_xb=mamba["d_xb"],
        attn_layers=_attention_layers(path, mamba["attn_layers"], mamba["n_layer"]),
        ssm=_read_settings(path, mamba["ssm_cfg"], mixer),
    )
    _check_sizes(path, config)
    return config


def _check(path: Path, data: Mapping[str, Any], key: str, kind: type) -> None:
    if key not in data:
        raise CheckpointError(f"{path}: {key}: missing")
    value = data[key]
    fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    if not fits or (kind is int and value < 1):
        expected = "a whole number from 1" if kind is int else kind.__name__
        raise CheckpointError(f"{path}: {key}: expected {expected}, found {value!r}")


def _llama_fields(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of LlamaConfig that the checkpoint's config.json sets."""
    if missing := [key for key in LLAMA_KEYS if key not in data]:
        base = data.get("_name_or_path")
        reason = (
            f"; the base model {base} that it names is not downloaded: complete the file with the fields of its config"
            if base
            else ""
        )
        raise CheckpointError(f"{path}: {missing[0]}: missing{reason}")
    if (kind := data.get("model_type", "llama")) != "llama":
        raise CheckpointError(f"{path}: model_type: {kind!r}; only checkpoints made from a Llama are supported")
    for key, expected in LLAMA_KEYS.items():
        _check(path, data, key, expected)
    theta, scaling = _rotary_fields(path, data)
    chosen = {key: data[key] for key in (*LLAMA_KEYS, *LLAMA_OPTIONAL) if data.get(key) is not None}
    return {**chosen, "rope_theta": theta, "rope_scaling": scaling}


def _rotary_fields(path: Path, data: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotary frequencies and their scaling, from either of transformers' two spellings for them."""
    scaling = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise CheckpointError(f"{path}: rope_scaling: expected an object, found {scaling!r}")
    theta = data.get("rope_theta", scaling.get("rope_theta"))
    if isinstance(theta, bool) or not isinstance(theta, (int, float)):
        raise CheckpointError(
            f"{path}: rope_theta: {'missing' if theta is None else f'expected a number, found {theta!r}'}"
        )
    rest = {key: value for key, value in scaling.items() if key != "rope_theta"}
    kind = rest.get("rope_type", rest.get("type", "default" if not rest else None))
    if kind not in ("default", "linear", "llama3"):
        raise CheckpointError(f"{path}: rope_scaling.rope_type: {kind!r} is not supported; default, linear or llama3")
    needed = {"default": (), "linear": ("factor",)}.get(
        kind, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if missing := [key for key in needed if key not in rest]:
        raise CheckpointError(f"{path}: rope_scaling.{missing[0]}: missing; rope_type {kind} needs it")
    return float(theta), None if kind == "default" else {"rope_type": kind, **{key: rest[key] for key in needed}}


def _attention_layers(path: Path, layers: list[Any], count: int) -> tuple[int, ...]:
    for layer in layers:
        if type(layer) is not int or not 0 <= layer < count:
            raise CheckpointError(f"{path}: attn_layers: {layer!r} is not a layer; there are 0 to {count - 1}")
    return tuple(sorted(set(layers)))


def _read_settings(path: Path, given: Mapping[str, Any], mixer: type[Any]) -> Mamba1Settings | Mamba2Settings:
    known = {item.name for item in fields(mixer)}
    chosen = {key: value for key, value in given.items() if key not in IGNORED_SETTINGS}
    if mixer is Mamba1Settings and "ngroups" in chosen:
        raise CheckpointError(f"{path}: ssm_cfg.ngroups: these layers are Mamba-2; use the model class mamba2_hybrid")
    if mixer is Mamba2Settings and "ngroups" not in chosen:
        raise CheckpointError(
            f"{path}: ssm_cfg.ngroups: missing; Mamba-2 layers have it (for Mamba-1, the model class mamba_hybrid)"
        )
    for key, value in chosen.items():
        if key not in known:
            raise CheckpointError(f"{path}: ssm_cfg.{key}: not supported; known are {', '.join(sorted(known))}")
        default = getattr(mixer, key, 1)
        if key == "dt_rank" and value == "auto":
            continue
        switch = isinstance(default, bool)
        if switch != isinstance(value, bool) or not isinstance(value, int) or value < (0 if switch else 1):
            raise CheckpointError(f"{path}: ssm_cfg.{key}: {value!r} is not a value for it")
    settings: Mamba1Settings | Mamba2Settings = mixer(**chosen)
    if settings.repeat_kv_before_conv is not mixer.repeat_kv_before_conv:
        raise CheckpointError(f"{path}: ssm_cfg.repeat_kv_before_conv: no published checkpoint changes it")
    return settings


def _check_sizes(path: Path, config: HybridConfig) -> None:
    state = config.ssm.d_state
    if config.d_inner % config.d_xb:
        raise CheckpointError(f"{path}: d_xb: {config.d_xb} does not divide d_inner {config.d_inner}")
    if config.d_xb % state:
        raise CheckpointError(f"{path}: ssm_cfg.d_state: {state} does not divide d_xb {config.d_xb}")
    if isinstance(config.ssm, Mamba2Settings) and config.ssm.ngroups * state != config.d_inner:
        raise CheckpointError(
            f"{path}: ssm_cfg.ngroups: {config.ssm.ngroups} groups of d_state {state} are not d_inner {config.d_inner}"
        )

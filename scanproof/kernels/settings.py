"""Settings that change what a call computes, most of them PyTorch's; they are held while a case is compared.

A bound is the error of the same-precision PyTorch form: under autocast or TF32 that error grows, and the bound with it,
whoever switched it on, a fixture or the function under test.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from scanproof.kernels.surroundings import AS_FOUND, KEPT, Setting


def _autocast(device: str) -> Setting:
    if hasattr(torch, "get_autocast_dtype"):
        read, write = (lambda: torch.is_autocast_enabled(device)), (lambda on: torch.set_autocast_enabled(device, on))
    else:
        # torch 2.3 has functions for each device; newer ones warn of them.
        part = "_cpu" if device == "cpu" else ""
        read, write = (
            getattr(torch, name.format(part)) for name in ("is_autocast{}_enabled", "set_autocast{}_enabled")
        )
    return Setting(f"autocast on {device}", False, read, write)


def _attribute(path: str, value: Any) -> Setting:
    """A setting that is an attribute of torch, such as `backends.cudnn.allow_tf32`."""
    parent, _, name = path.rpartition(".")
    owner = operator.attrgetter(parent)(torch)
    return Setting(
        f"torch.{path}", value, lambda: _read(operator.attrgetter(name), owner), lambda to: setattr(owner, name, to)
    )


def _read(get: Callable[..., Any], *of: Any) -> Any:
    """The value; None where torch refuses to say it, because `fp32_precision` was set to what it contradicts."""
    try:
        return get(*of)
    except RuntimeError:
        return None


def _exists(path: str) -> bool:
    owner: Any = torch
    for name in path.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


OF_NEWER_TORCH = {
    "backends.cuda.matmul.allow_fp16_accumulation": False,
    "backends.cuda.matmul.fp32_precision": "ieee",
    "backends.cudnn.fp32_precision": "ieee",
    "backends.cudnn.conv.fp32_precision": "ieee",
    "backends.mkldnn.fp32_precision": "ieee",
    "backends.mkldnn.matmul.fp32_precision": "ieee",
    "backends.mkldnn.conv.fp32_precision": "ieee",
}
SETTINGS = (
    _autocast("cpu"),
    _autocast("cuda"),
    # What others inherit from comes first: they are written only where they still differ.
    *(_attribute(path, "ieee") for path in ("backends.fp32_precision",) if _exists(path)),
    Setting(
        "torch.set_float32_matmul_precision", "highest",
        lambda: _read(torch.get_float32_matmul_precision), torch.set_float32_matmul_precision,
    ),
    _attribute("backends.cuda.matmul.allow_tf32", False),
    _attribute("backends.cudnn.allow_tf32", False),
    # On by default; they let cuBLAS sum partial results of a product of halves in halves.
    _attribute("backends.cuda.matmul.allow_fp16_reduced_precision_reduction", False),
    _attribute("backends.cuda.matmul.allow_bf16_reduced_precision_reduction", False),
    *(_attribute(path, value) for path, value in OF_NEWER_TORCH.items() if _exists(path)),
    _attribute("backends.cudnn.benchmark", False),
    _attribute("backends.cudnn.deterministic", False),
    Setting(
        "torch.use_deterministic_algorithms", 0,
        torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode,
    ),
    Setting("torch.set_default_dtype", torch.float32, torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch.set_grad_enabled", True, torch.is_grad_enabled, torch._C._set_grad_enabled),
    # Nothing writes it: `pin_settings` puts it back when its own block of it ends.
    Setting("torch.inference_mode", False, torch.is_inference_mode_enabled, lambda value: None),
    *KEPT,
)  # fmt: skip


class Pinned:
    """The values that settings have to have in a block of `pin_settings`."""

    def __init__(self, before: Sequence[Any]) -> None:
        self.values = [
            found if setting.value is AS_FOUND else setting.value
            for setting, found in zip(SETTINGS, before, strict=True)
        ]

    def list_changed(self) -> list[str]:
        """`NAME is VALUE, and was VALUE` for each setting that something has changed in the block."""
        now = [(setting, was, setting.read()) for setting, was in zip(SETTINGS, self.values, strict=True)]
        known = [one for one in now if one[0].value is not AS_FOUND or None not in one[1:]]
        return [setting.describe(setting.name, was, value) for setting, was, value in known if was != value]


@contextlib.contextmanager
def pin_settings() -> Iterator[Pinned]:
    """In the block each setting has its fixed value, or the found one where it has none; then all are restored."""
    with torch.inference_mode(False):
        before = [setting.read() for setting in SETTINGS]
        pinned = Pinned(before)
        # inference_mode(False) has switched gradients on; its end restores what was.
        try:
            _write(pinned.values)
            yield pinned
        finally:
            _write(before)


def _write(values: Sequence[Any]) -> None:
    for setting, value in zip(SETTINGS, values, strict=True):
        # None: torch refuses to say what it is, or there is none; only what has a way to none is set to it.
        if (value is not None or setting.value is None) and setting.read() != value:
            setting.write(value)

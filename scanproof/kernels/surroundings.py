"""What a call has to leave as it was: modes, hooks, random numbers, threads and functions of torch.

Only the default device is pinned. The others have no fixed value: a session may have its own.
"""

from __future__ import annotations

import inspect
import operator
import random
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.utils import _python_dispatch

# What of torch has no types.
overrides: Any = torch.overrides
dispatch: Any = _python_dispatch
saving: Any = torch._C._autograd
cuda: Any = torch.cuda
AS_FOUND = object()
"""Value of a setting that is not pinned: it has to be afterwards what it was before."""


def describe_change(name: str, before: Any, now: Any) -> str:
    return f"{name} is {now}, and was {before}"


@dataclass(frozen=True)
class Setting:
    """One setting of PyTorch, and the value that it has while a case is compared."""

    name: str
    value: Any
    """`AS_FOUND`: whatever it was when the block began; where it then has None, nothing is known of it."""
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    describe: Callable[[str, Any, Any], str] = describe_change
    """From its name, the value that it should have and the one that it has."""


def keep_attribute(path: str) -> Setting:
    """An attribute of torch, such as `backends.mkldnn.enabled`."""
    parent, _, name = path.rpartition(".")
    owner = operator.attrgetter(parent)(torch)
    return Setting(f"torch.{path}", AS_FOUND, lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _describe_names(name: str, before: Sequence[Any], now: Sequence[Any]) -> str:
    """Of modes and hooks: what they are called."""
    were, are = ([getattr(one, "__qualname__", type(one).__qualname__) for one in ones] for ones in (before, now))
    return f"{name} are {', '.join(are) or 'none'}, and were {', '.join(were) or 'none'}"


def _describe_sum(name: str, before: Any, now: Any) -> str:
    """Of a state of many numbers: a check sum."""
    return f"{name} is {zlib.crc32(repr(now).encode()):08x}, and was {zlib.crc32(repr(before).encode()):08x}"


def _default_context() -> Any:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _read_default_device() -> Any:
    context = _default_context()
    return None if context is None else context.device


def _write_default_device(device: Any) -> None:
    # Its mode is the lowest, and torch takes off the highest.
    with_modes = read_function_modes()
    write_function_modes(())
    torch.set_default_device(device)
    write_function_modes(with_modes)


def read_function_modes() -> tuple[Any, ...]:
    """The modes of torch functions, without that of the default device, which is a setting of its own."""
    return tuple(mode for mode in overrides._get_current_function_mode_stack() if mode is not _default_context())


def write_function_modes(modes: Sequence[Any]) -> None:
    lowest = [mode for mode in overrides._get_current_function_mode_stack() if mode is _default_context()]
    for _ in overrides._get_current_function_mode_stack():
        overrides._pop_mode()
    for mode in (*lowest, *modes):
        overrides._push_mode(mode)


def _read_dispatch_modes() -> tuple[Any, ...]:
    return tuple(dispatch._get_current_dispatch_mode_stack())


def _write_dispatch_modes(modes: Sequence[Any]) -> None:
    for _ in _read_dispatch_modes():
        dispatch._pop_mode()
    for mode in modes:
        dispatch._push_mode(mode)


def _read_saving() -> tuple[Any, ...]:
    """The innermost hooks of saved tensors: what packs and what unpacks."""
    return saving._top_saved_tensors_default_hooks(True) or ()


def _write_saving(hooks: Sequence[Any]) -> None:
    while (top := _read_saving()) and top != hooks:
        saving._pop_saved_tensors_default_hooks()
    if hooks and not top:
        saving._push_saved_tensors_default_hooks(*hooks)


def _module_hooks() -> dict[str, dict[int, Any]]:
    return {
        name: kept for name, kept in vars(modules).items() if name.startswith("_global_") and isinstance(kept, dict)
    }


def _read_module_hooks() -> tuple[Any, ...]:
    return tuple(hook for hooks in _module_hooks().values() for hook in hooks.values())


def _write_module_hooks(wanted: Sequence[Any]) -> None:
    for hooks in _module_hooks().values():
        for key in [key for key, hook in hooks.items() if hook not in wanted]:
            del hooks[key]


def _read_random() -> bytes:
    # A mode that something has left entered would see the conversion.
    with torch._C.DisableTorchFunction():
        return bytes(torch.get_rng_state().numpy().tobytes())


def _write_random(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _read_cuda_random() -> Any:
    """On a GPU that is in use, the state of its current generator."""
    if not cuda.is_initialized():
        return None
    with torch._C.DisableTorchFunction():
        return cuda.get_rng_state().numpy().tobytes()


def _write_cuda_random(state: Any) -> None:
    if state is not None:
        cuda.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _read_numpy_random() -> Any:
    """None where no code uses numpy."""
    if (numpy_random := sys.modules.get("numpy.random")) is None:
        return None
    kind, keys, *rest = numpy_random.get_state()
    return (kind, keys.tolist(), *rest)


def _write_numpy_random(state: Any) -> None:
    if state is not None:
        sys.modules["numpy.random"].set_state(state)


def _read_stream() -> Any:
    return cuda.current_stream() if cuda.is_initialized() else None


def _write_stream(stream: Any) -> None:
    if stream is not None:
        cuda.set_stream(stream)


def _flushes_denormals() -> bool:
    """Whether a number below the smallest normal one is 0 to this thread: torch has no function that says it."""
    with torch._C.DisableTorchFunction():
        smallest = torch.full((1,), torch.finfo(torch.float32).tiny)
        return not bool((smallest / 2).ne(0))


NAMESPACES = (
    torch, torch.autograd, torch.fft, torch.linalg, torch.special, torch.nn.functional, torch.nn.Module, torch.Tensor,
)  # fmt: skip


def _is_same(before: Any, after: Any) -> bool:
    """Whether it is the same function, or torch's own wrapper of it: dynamo puts some in place when it is loaded."""
    if before is after:
        return True
    module = getattr(after, "__globals__", {}).get("__name__", "")
    return module.startswith("torch.") and inspect.unwrap(after) is before


class Functions:
    """`torch.exp` and all other functions, as they are now.  Two are equal where none was put in another's place."""

    def __init__(self) -> None:
        self.of = [dict(vars(space)) for space in NAMESPACES]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Functions) and not self.list_replaced(other)

    def list_replaced(self, now: Functions) -> list[tuple[int, str]]:
        """(number of the namespace, name) of what is another object now; what is only new replaces nothing."""
        # Tensor inherits most of its methods: one of its own with such a name is a replacement.
        inherited = vars(torch._C.TensorBase)
        return [
            (number, name)
            for number, (before, after) in enumerate(zip(self.of, now.of, strict=True))
            for name in before.keys() | after.keys()
            if not _is_same(before.get(name), after.get(name))
            and (name in before or (NAMESPACES[number] is torch.Tensor and name in inherited))
        ]


def _write_functions(wanted: Functions) -> None:
    for number, name in wanted.list_replaced(Functions()):
        if name in wanted.of[number]:
            setattr(NAMESPACES[number], name, wanted.of[number][name])
        else:
            delattr(NAMESPACES[number], name)


def _describe_functions(name: str, before: Functions, now: Functions) -> str:
    replaced = sorted(f"{NAMESPACES[number].__name__}.{one}" for number, one in before.list_replaced(now))
    return f"{name} are others, and were torch's own: {', '.join(replaced)}"


def _exists(path: str) -> bool:
    try:
        operator.attrgetter(path)(torch)
    except AttributeError:
        return False
    return True


def _switch(name: str, read: str, write: str) -> Setting:
    """A setting of two functions of torch, of those names."""
    return Setting(name, AS_FOUND, operator.attrgetter(read)(torch), operator.attrgetter(write)(torch))


ATTRIBUTES = (
    "backends.mkldnn.enabled", "backends.mkldnn.deterministic", "backends.cudnn.enabled",
    "backends.quantized.engine",
    "utils.deterministic.fill_uninitialized_memory",
)  # fmt: skip
SDP = "backends.cuda"
KEPT: tuple[Setting, ...] = (
    Setting("modes of torch functions", AS_FOUND, read_function_modes, write_function_modes, _describe_names),
    Setting("modes of torch's dispatch", AS_FOUND, _read_dispatch_modes, _write_dispatch_modes, _describe_names),
    # What allocates without a device follows it: reference and form as well.
    Setting("torch.set_default_device", None, _read_default_device, _write_default_device),
    *(
        Setting("hooks of saved tensors", AS_FOUND, _read_saving, _write_saving, _describe_names)
        for _ in range(hasattr(saving, "_top_saved_tensors_default_hooks"))
    ),
    Setting("hooks of all modules", AS_FOUND, _read_module_hooks, _write_module_hooks, _describe_names),
    Setting("functions of torch", AS_FOUND, Functions, _write_functions, _describe_functions),
    Setting("torch.set_flush_denormal", AS_FOUND, _flushes_denormals, torch.set_flush_denormal),
    _switch("torch.set_num_threads", "get_num_threads", "set_num_threads"),
    _switch("torch.autograd.set_detect_anomaly", "is_anomaly_enabled", "autograd.set_detect_anomaly"),
    *(
        _switch(f"torch.{SDP}.enable_{kind}_sdp", f"{SDP}.{kind}_sdp_enabled", f"{SDP}.enable_{kind}_sdp")
        for kind in ("flash", "mem_efficient", "math", "cudnn") if _exists(f"{SDP}.{kind}_sdp_enabled")
    ),
    *(keep_attribute(path) for path in ATTRIBUTES if _exists(path)),
    Setting("state of torch's random numbers", AS_FOUND, _read_random, _write_random, _describe_sum),
    Setting("state of torch.cuda's random numbers", AS_FOUND, _read_cuda_random, _write_cuda_random, _describe_sum),
    Setting("state of numpy's random numbers", AS_FOUND, _read_numpy_random, _write_numpy_random, _describe_sum),
    Setting("state of Python's random numbers", AS_FOUND, random.getstate, random.setstate, _describe_sum),
    Setting("torch.cuda.set_stream", AS_FOUND, _read_stream, _write_stream),
)  # fmt: skip
"""Of these only the default device is pinned; a session may have any of the others."""

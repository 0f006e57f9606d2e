"""Loads kernels of Hugging Face's hub, as its package `kernels` does, and says where they came from.

The package runs what it downloads: nothing here is done unless a kernel is named.  `LOCAL_KERNELS=REPOSITORY=FOLDER` is
the package's own way to take a folder in place of a repository.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from scanproof.kernels.providers.provider import HubKernel, NoProvider


@cache
def load(kernel: HubKernel) -> ModuleType:
    """The module of a kernel, downloaded where it is not here yet.

    Raises:
        NoProvider: the package `kernels` is not installed, the repository cannot be reached, or it has no build for
            this machine.
    """
    if find_spec("kernels") is None:
        raise NoProvider(f"{kernel} is loaded by the package kernels, which is not installed: pip install kernels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from kernels import get_kernel

            module: ModuleType = get_kernel(kernel.repository, version=kernel.version)
    except Exception as error:
        raise NoProvider(
            f"{kernel} cannot be loaded: {type(error).__name__}: {error}; it needs the network once, and a build for "
            "this machine, or a folder: LOCAL_KERNELS=REPOSITORY=FOLDER"
        ) from error
    return module


def describe_origin(kernel: HubKernel) -> str:
    """Repository and revision that a kernel was loaded from, or the folder that was taken in its place.

    An older package `kernels` does not say which of the two a folder is.
    """
    import kernels

    module = load(kernel)
    folder = Path(module.__file__ or "").parent
    if not hasattr(kernels, "get_loaded_kernels"):
        return f"what was loaded from {folder} (whether that is {kernel} is not known)"
    loaded: list[Any] = kernels.get_loaded_kernels()
    info = next((one.repo_info for one in loaded if one.module is module), None)
    if info is None:
        return f"the folder {folder} in place of {kernel}"
    return f"{info.repo_id}, revision {info.revision} ({folder})"

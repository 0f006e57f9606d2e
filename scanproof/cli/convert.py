"""`scanproof convert`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scanproof.cli.common import Format, FormatOption, format_size, print_result, stop


class Dtype(StrEnum):
    """Precision of the written weights."""

    stored = "stored"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that Megatron wrote, with release/ and a *.model file.")],
    out: Annotated[Path, typer.Argument(help="New folder for config.json, safetensors and tokenizer.")],
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Precision of the written weights.")] = Dtype.stored,
    style: FormatOption = Format.table,
) -> None:
    """Write NVIDIA's Megatron checkpoint as a transformers folder, which the model class `hf` reads."""
    from importlib import import_module

    from scanproof.models.layout import CheckpointError

    torch, writing = import_module("torch"), import_module("scanproof.models.megatron.writing")
    try:
        writing.convert(checkpoint, out, None if dtype is Dtype.stored else getattr(torch, dtype.value))
    except (CheckpointError, OSError) as error:
        raise stop(str(error)) from None
    written = sum(file.stat().st_size for file in out.iterdir())
    files = len(list(out.glob("*.safetensors")))
    line = f"{out}: {format_size(written)} in {files} safetensors file(s), read by `hf`"
    print_result([line], [{"folder": str(out), "bytes": written, "safetensors": files}], style)

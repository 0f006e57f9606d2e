"""Models of true size with random weights, for `benchmarks/scoring.py --device cuda`: what is made, and of which jobs.

Weights are drawn on the device and written in the dtype of the published job, so that every engine loads a checkpoint
as it would load the published one.  Tokens are those of a stand-in's tokenizer, a part of the vocabulary.
"""

from __future__ import annotations

import math
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from scoring_engines import Subject

from scanproof.numbers.values import EvalJob
from scanproof.plugin import options

if TYPE_CHECKING:
    import torch

    from scanproof.models.layout import StateSpacesConfig
    from scanproof.models.megatron.architecture import Architecture

MOST = 64
"""Rows of a batch; a published job that asks for fewer gets them."""
STAND_INS = options.EMBEDDED_MIRROR / "scanproof"


@dataclass(frozen=True)
class TrueSize:
    """A published model; a further one is one more row of `SIZES`."""

    pretrained: str
    write: Callable[[TrueSize, Path, torch.dtype, str, bool], int]
    """(row, empty folder, dtype, device, small): writes a checkpoint there and returns how many weights it has."""
    d_model: int = 0
    n_layer: int = 0
    layer: str = "Mamba1"
    multiple: int = 8
    """To which the vocabulary is padded."""

    @property
    def name(self) -> str:
        """Of the rows of the table."""
        return f"{self.pretrained.partition('/')[2]}-random"


def write_state_spaces(row: TrueSize, folder: Path, dtype: torch.dtype, device: str, small: bool) -> int:
    """Mamba-1 or Mamba-2 alone, with the tokenizer of mamba1-tiny; drawn as torch draws a new model."""
    import torch

    from scanproof.models.language_model import StateSpacesLM
    from scanproof.models.loading import save

    torch.manual_seed(0)
    with torch.device(device):
        model = StateSpacesLM(config_of(row, small))
    save(model, folder, dtype)
    for path in (STAND_INS / "mamba1-tiny").glob("tokenizer*"):
        shutil.copy(path, folder)
    return sum(weight.numel() for weight in model.parameters())


def config_of(row: TrueSize, small: bool) -> StateSpacesConfig:
    """The published config; of `small`, two narrow layers."""
    from scanproof.models.layout import StateSpacesConfig

    width, depth = (64, 2) if small else (row.d_model, row.n_layer)
    cfg = {} if row.layer == "Mamba1" else {"layer": row.layer, **({"headdim": 16, "d_state": 32} if small else {})}
    return StateSpacesConfig(
        d_model=width, n_layer=depth, vocab_size=50277, ssm_cfg=cfg, pad_vocab_size_multiple=row.multiple
    )


def write_megatron(row: TrueSize, folder: Path, dtype: torch.dtype, device: str, small: bool) -> int:
    """Megatron's pickle of the hybrid, with the tokenizer of megatron-hybrid-tiny."""
    import torch

    from scanproof.models.megatron import conversion, reading

    built, rows = architecture(small), 2048 if small else 256_000
    shapes = conversion.expected_shapes(built, conversion.make_blank(conversion.make_nemotron_config(built, rows)))
    torch.manual_seed(0)
    tensors = {key: drawn(key, shape, device).to("cpu", dtype) for key, shape in shapes.items()}
    path = folder / "release" / "mp_rank_00" / reading.FILE
    path.parent.mkdir(parents=True)
    torch.save({"args": Namespace(**asdict(built)), "model": tensors}, path)
    shutil.copy(STAND_INS / "megatron-hybrid-tiny" / "tokenizer.model", folder)
    return sum(math.prod(shape) for shape in shapes.values())


def architecture(small: bool) -> Architecture:
    """NVIDIA's 8B hybrid; of `small`, one layer of each kind."""
    from scanproof.models.megatron.architecture import read_architecture

    # What a checkpoint without arguments is taken for.
    built = read_architecture(None, Path("mamba2-hybrid-8b-3t-4k"))
    return (
        replace(
            built, hybrid_override_pattern="M-*", hidden_size=64, num_attention_heads=4, num_query_groups=2,
            kv_channels=16, ffn_hidden_size=128, mamba_state_dim=32, mamba_head_dim=16, mamba_num_groups=2,
        )
        if small
        else built
    )  # fmt: skip


def drawn(key: str, shape: tuple[int, ...], device: str) -> torch.Tensor:
    """Random weights of a tensor, of about the size that a new model of its kind has."""
    import torch

    if key.endswith(("norm.weight", "layer_norm_weight", ".D")):
        return torch.ones(shape, device=device)
    if key.endswith("A_log"):
        return torch.empty(shape, device=device).uniform_(1, 16).log()
    if key.endswith("dt_bias"):
        # Steps between 0.001 and 0.1, before the softplus.
        steps = torch.empty(shape, device=device).uniform_(math.log(0.001), math.log(0.1)).exp()
        return steps.expm1().log()
    return 0.02 * torch.randn(shape, device=device)


SIZES = (
    TrueSize("state-spaces/mamba-130m", write_state_spaces, 768, 24),
    TrueSize("state-spaces/mamba-1.4b", write_state_spaces, 2048, 48),
    TrueSize("state-spaces/mamba-2.8b", write_state_spaces, 2560, 64),
    TrueSize("state-spaces/mamba2-2.7b", write_state_spaces, 2560, 64, "Mamba2", 16),
    TrueSize("nvidia/mamba2-hybrid-8b-3t-4k", write_megatron),
)


def job_of(row: TrueSize, jobs: Iterable[EvalJob], device: str) -> EvalJob:
    """The model's first published job, on the device and with at most `MOST` rows in a batch."""
    job = next(each for each in jobs if each.pretrained == row.pretrained)
    return replace(job, device=device, batch_size=min(MOST, int(job.batch_size)))


@contextmanager
def made(context: ForkServerContext, row: TrueSize, job: EvalJob, small: bool) -> Iterator[Subject]:
    """The model with its checkpoint, which is deleted afterwards: the largest takes 17 GB, and one is there at a time.

    Raises:
        ValueError: it could not be written, or has not as many weights as the published one.
    """
    with TemporaryDirectory(prefix="scanproof-") as place:
        folder = Path(place) / "model"
        folder.mkdir()
        here, there = context.Pipe()
        # A process of its own, so that what it drew leaves the device.
        process = context.Process(target=_write, args=(there, row, folder, job.dtype, job.device, small), daemon=True)
        process.start()
        there.close()
        try:
            count = here.recv()
        except EOFError:
            raise ValueError(f"{row.name}: its weights could not be written; the reason is above") from None
        finally:
            process.join()
        if not small and job.size and count != job.size.parameters:
            raise ValueError(f"{row.name}: {count:,} weights, but the published model has {job.size.parameters:,}")
        yield Subject(row.name, job, folder)


def _write(pipe: Any, row: TrueSize, folder: Path, dtype: str, device: str, small: bool) -> None:
    import torch

    pipe.send(row.write(row, folder, getattr(torch, dtype), device, small))

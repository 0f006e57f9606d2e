"""Loading a checkpoint takes little more memory than the loaded weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.models.layout import CheckpointError, StateSpacesConfig
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.models import language_model, loading, shards
    from tests.support import counted_memory as counted
else:
    torch, counted = Late("torch"), Late("tests.support.counted_memory")
    language_model, loading = Late("scanproof.models.language_model"), Late("scanproof.models.loading")
    shards = Late("scanproof.models.shards")


def config(d_model: int, vocab_size: int, tie_embeddings: bool = True) -> StateSpacesConfig:
    return StateSpacesConfig(d_model=d_model, n_layer=3, vocab_size=vocab_size, tie_embeddings=tie_embeddings)


def write(folder: Path, kind: str, stored: torch.dtype) -> None:
    """A checkpoint that consists mostly of its embedding, which is tied to the head."""
    model = language_model.StateSpacesLM(config(64, 4000))
    loading.save(model, folder, stored)
    if kind == "bin":
        (folder / "model.safetensors").unlink()
        # As torch.save writes a tied model: lm_head and embedding share memory.
        torch.save(model.to(stored).state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(("stored", "dtype"), [("float32", "float32"), ("float32", "bfloat16"), ("float16", "float32")])
def test_loading_holds_the_weights_and_little_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stored: str, dtype: str, threads: int
) -> None:
    """The weights, and a tenth of the converted bytes or one group per thread.  Mapped tensors are read at the end."""
    write(tmp_path, kind, getattr(torch, stored))
    counted.small_rounds(monkeypatch, threads)
    found = shards.map_tensors(tmp_path)
    with counted.counted_memory("scanproof.models.shards") as memory:
        model = loading.load(tmp_path, getattr(torch, dtype))
        counted.read(model)
    weights = dict(model.named_parameters())
    changed = [each.tensor for key, each in found.items() if key in weights and each.tensor.dtype != weights[key].dtype]
    assert bool(changed) == (stored != dtype)
    counted.assert_held_once(memory, weights.values(), changed, threads)


SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=6)


@given(shapes=SHAPES, size=st.integers(1, 400))
def test_rounds_have_every_row_once_and_stay_small(shapes: list[list[int]], size: int) -> None:
    tensors = {str(number): torch.zeros(shape) for number, shape in enumerate(shapes)}
    groups = list(shards.split_rows(tensors, size))
    rows = {key: [0] * len(tensor) for key, tensor in tensors.items()}
    for group in groups:
        for key, part in group:
            rows[key][part] = [count + 1 for count in rows[key][part]]
        largest = max(tensors[key][:1].nbytes for key, _ in group)
        assert sum(tensors[key][part].nbytes for key, part in group) <= size + largest
    assert all(count == 1 for counts in rows.values() for count in counts)


@pytest.mark.parametrize("change", ["deleted", "replaced"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model_outlives_its_file(tmp_path: Path, kind: str, change: str) -> None:
    """The weights stay mapped: they stay readable when their file is deleted, or replaced by a rename."""
    model = language_model.StateSpacesLM(config(16, 8)).eval()
    loading.save(model, tmp_path, torch.float32)
    path = tmp_path / "model.safetensors"
    if kind == "bin":
        path.unlink()
        path = tmp_path / "pytorch_model.bin"
        torch.save(model.state_dict(), path)
    loaded, ids = loading.load(tmp_path), torch.arange(8)[None]
    new = tmp_path / "new"
    new.write_bytes(bytes(path.stat().st_size))
    if change == "deleted":
        path.unlink()
    else:
        new.rename(path)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    assert model(ids).logits.abs().max() > 0.01


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_change_of_the_weights_does_not_reach_the_file(tmp_path: Path, kind: str) -> None:
    loading.save(language_model.StateSpacesLM(config(16, 8)), tmp_path, torch.float32)
    path = tmp_path / "model.safetensors"
    if kind == "bin":
        stored = shards.map_tensors(tmp_path)
        torch.save({key: each.tensor for key, each in stored.items()}, tmp_path / "pytorch_model.bin")
        path.unlink()
        path = tmp_path / "pytorch_model.bin"
    before = path.read_bytes()
    loaded = loading.load(tmp_path)
    with torch.no_grad():
        for weight in loaded.parameters():
            weight.add_(1)
    assert path.read_bytes() == before


def test_a_pickle_of_before_torch_1_6_is_read(tmp_path: Path) -> None:
    model = language_model.StateSpacesLM(config(16, 8, tie_embeddings=False)).eval()
    loading.save(model, tmp_path, torch.float32)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    ids = torch.arange(8)[None]
    assert torch.equal(loading.load(tmp_path)(ids).logits, model(ids).logits)


def test_a_tied_head_that_differs_in_its_last_row_is_found(tmp_path: Path) -> None:
    """The comparison does not stop after the first group of rows."""
    model = language_model.StateSpacesLM(config(1024, 3000, tie_embeddings=False))
    model.lm_head.weight.data.copy_(model.backbone.embedding.weight.data)
    model.lm_head.weight.data[-1, -1] += 1
    loading.save(model, tmp_path, torch.float32)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"tie_embeddings": false', '"tie_embeddings": true'))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: differs from backbone\.embedding\.weight"):
        loading.load(tmp_path)


def test_a_pickle_of_something_else_is_named(tmp_path: Path) -> None:
    loading.save(language_model.StateSpacesLM(config(16, 8)), tmp_path, torch.float32)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: model: a dict, not a tensor"):
        loading.load(tmp_path)

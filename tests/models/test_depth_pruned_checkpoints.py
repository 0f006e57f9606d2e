"""Errors in a checkpoint to be pruned name the file and the key."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import CheckpointError
from tests.support import small_families as small
from tests.support.late import Late
from tests.support.small_families import pruned

if TYPE_CHECKING:
    import safetensors.torch as safetensors
    import torch
else:
    torch, safetensors = Late("torch"), Late("safetensors.torch")

KEYS = {
    "llama": "model.layers.1.mlp.up_proj.weight",
    "mistral": "model.layers.1.self_attn.v_proj.weight",
    "gpt_neox": "gpt_neox.layers.1.mlp.dense_h_to_4h.weight",
    "qwen2": "model.layers.1.self_attn.q_proj.bias",
    "mamba": "backbone.layers.1.mixer.in_proj.weight",
    "mamba2": "backbone.layers.1.mixer.norm.weight",
    "state-spaces-mamba": "backbone.layers.0.mixer.in_proj.weight",
    "state-spaces-mamba2attn": "backbone.layers.0.mixer.norm.weight",
}
SINGLE, SHARD = "model.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for family in small.FAMILIES:
        small.write(folder / family, family)
    return folder


@pytest.fixture(params=small.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(originals: Path, tmp_path: Path, family: str) -> Path:
    return Path(shutil.copytree(originals / family, tmp_path / family))


pytestmark = pytest.mark.usefixtures("offline")


def load(folder: Path) -> Any:
    return pruned(folder, start_block=1, end_block=2, dtype="float32")


def told(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.load_file(folder / SINGLE)
    change(tensors)
    safetensors.save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def shard(folder: Path) -> None:
    """The same checkpoint in two files with an index; the tensors of layer 1 are in the second."""
    tensors = safetensors.load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    files = {key: SHARD if ".layers.1." in key else "model-00001-of-00002.safetensors" for key in tensors}
    for name in set(files.values()):
        part = {key: value for key, value in tensors.items() if files[key] == name}
        safetensors.save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_missing_key(folder: Path, family: str) -> None:
    rewrite(folder, lambda tensors: tensors.pop(KEYS[family]))
    assert told(folder) == f"{folder / SINGLE}: {KEYS[family]}: missing"


def test_an_extra_key(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"extra.weight": torch.zeros(3)}))
    assert told(folder).startswith(f"{folder / SINGLE}: extra.weight: the ")


def test_a_wrong_shape(folder: Path, family: str) -> None:
    rewrite(folder, lambda tensors: tensors.update({KEYS[family]: torch.zeros(3)}))
    message = told(folder)
    assert message.startswith(f"{folder / SINGLE}: {KEYS[family]}: ")
    assert "shape" in message


def test_a_truncated_file(folder: Path) -> None:
    weights = folder / SINGLE
    weights.write_bytes(weights.read_bytes()[:-100])
    assert told(folder).startswith(f"{weights}: not a readable safetensors file: ")


@pytest.mark.parametrize("field", ["width", "depth", "vocab_size"])
def test_a_config_without_a_needed_field(folder: Path, family: str, field: str) -> None:
    own = {"width": "d_model", "depth": "n_layer"} if family in small.STATE_SPACES else {}
    field = ({"width": "hidden_size", "depth": "num_hidden_layers"} | own).get(field, field)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config[field]
    path.write_text(json.dumps(config))
    assert told(folder).startswith(f"{path}: {field}: missing")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json(:1)?: (no JSON|expected)"):
        load(folder)


class Harm:
    """When it is unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_that_tries_to_run_code_is_refused_and_harmless(folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    harm = tmp_path / "harm"
    torch.save({"weight": Harm(harm)}, folder / "pytorch_model.bin")
    message = told(folder)
    assert message.startswith(f"{folder / 'pytorch_model.bin'}: not a readable state dict of tensors: ")
    assert "system" in message
    assert not harm.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert harm.exists(), "the pickle is a real attempt"


@pytest.mark.parametrize("keep", [None, 0, 10, -100])
def test_a_pickle_of_tensors(folder: Path, keep: int | None) -> None:
    tensors = safetensors.load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path)
    if keep is None:
        assert load(folder).removed is not None
    else:
        path.write_bytes(path.read_bytes()[:keep])
        assert told(folder).startswith(f"{path}: not a readable state dict of tensors: ")


@pytest.fixture(params=[family for family in small.FAMILIES if family not in small.STATE_SPACES])
def hub_folder(originals: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(originals / request.param, tmp_path / request.param))


def test_a_tokenizer_that_is_missing(hub_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (hub_folder / name).unlink()
    assert told(hub_folder).startswith(f"{hub_folder}: no tokenizer: none of tokenizer.json, ")
    elsewhere = pruned(hub_folder, start_block=1, end_block=2, tokenizer=str(small.TOKENIZER))
    assert elsewhere.tokenizer.vocab_size == small.VOCABULARY


def test_a_checkpoint_in_shards(hub_folder: Path) -> None:
    whole = load(hub_folder).model.state_dict()
    shard(hub_folder)
    parts = load(hub_folder).model.state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_truncated_shard(hub_folder: Path) -> None:
    shard(hub_folder)
    path = hub_folder / SHARD
    path.write_bytes(path.read_bytes()[:-100])
    assert told(hub_folder).startswith(f"{path}: not a readable safetensors file: ")


def test_a_shard_that_is_missing(hub_folder: Path) -> None:
    shard(hub_folder)
    (hub_folder / SHARD).unlink()
    assert told(hub_folder).startswith(f"{hub_folder / SHARD}: there is no such file, but the index")


def test_a_wrong_shape_in_a_shard(hub_folder: Path) -> None:
    shard(hub_folder)
    key = KEYS[hub_folder.name]
    path = hub_folder / SHARD
    tensors = safetensors.load_file(path)
    safetensors.save_file(tensors | {key: torch.zeros(3)}, path, metadata={"format": "pt"})
    assert told(hub_folder).startswith(f"{path}: {key}: another shape")


def test_weights_that_are_missing(hub_folder: Path) -> None:
    (hub_folder / SINGLE).unlink()
    assert told(hub_folder).startswith(f"{hub_folder}: no weights: none of model.safetensors, ")

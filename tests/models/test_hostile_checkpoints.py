"""Files of a checkpoint that are not as they should be: refused with file and key, whatever is in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import CheckpointError, read_config, read_weight_map
from scanproof.models.mamba_in_llama import config as hybrid_config
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.models import hub_layout, shards
    from scanproof.models.megatron import reading
else:
    hub_layout, shards = Late("scanproof.models.hub_layout"), Late("scanproof.models.shards")
    reading = Late("scanproof.models.megatron.reading")

INDEX = "model.safetensors.index.json"
HOSTILE = [
    ("[" * 100_000, "no JSON|expected an object: it is nested too deeply"),
    ("[]", "expected an object: it holds a list, not an object"),
    ("null", "expected an object: it holds null, not an object"),
    ("{", r"json:1: no JSON"),
    (b"\xff\xfe{", "no JSON: it is not UTF-8"),
    ("1" * 5_000, "expected an object"),
]


def said(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    """The message, which has to be short and visible."""
    text = str(error.value)
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) < 1000
    return text


@pytest.mark.parametrize(("content", "message"), HOSTILE)
@pytest.mark.parametrize("read", [read_config, read_weight_map])
def test_what_is_no_json_object(
    tmp_path: Path, read: Callable[[Path], Any], content: str | bytes, message: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert said(caught).startswith(str(path))


def test_a_pipe_in_place_of_a_config_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="cannot be read: is a pipe, a socket or a device"):
        hub_layout.check_folder(tmp_path, own_tokenizer=True)
    with pytest.raises(CheckpointError, match="cannot be read: is a pipe, a socket or a device"):
        read_config(tmp_path / "config.json")
    os.mkfifo(tmp_path / "mamba_config.json")
    with pytest.raises(CheckpointError, match="cannot be read: is a pipe, a socket or a device"):
        hybrid_config.read_config(tmp_path, hybrid_config.Mamba1Settings)


@pytest.mark.parametrize(
    "name", [3, None, ["a"], "", "..", "../other/model.safetensors", "/etc/passwd", "a\\b", "a\0b"]
)
def test_an_index_names_files_beside_it(tmp_path: Path, name: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a\x1b[31m": name}}))
    for read in (shards.map_tensors, hub_layout.weight_map):
        with pytest.raises(CheckpointError, match=r"does not name a file beside it") as caught:
            read(tmp_path)
        assert f"{INDEX}: weight_map: a\\u001b[31m: " in said(caught)


def test_an_index_with_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 5_000}}))
    (tmp_path / "config.json").write_text('{"model_type": "x", "n_layer": 1, "d_model": 1, "vocab_size": 1}')
    with pytest.raises(CheckpointError, match="there is no such file") as caught:
        shards.map_tensors(tmp_path)
    said(caught)
    with pytest.raises(CheckpointError, match="there is no such file") as caught:
        hub_layout.check_folder(tmp_path, own_tokenizer=True)
    said(caught)


@pytest.mark.parametrize(("key", "value"), [("d_model", -1), ("pad_vocab_size_multiple", 0), ("n_layer", 0)])
def test_a_size_below_one_is_refused(tmp_path: Path, key: str, value: int) -> None:
    fields = {"d_model": 8, "n_layer": 1, "vocab_size": 8, key: value}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=f"{key}: expected a whole number from 1, found {value}"):
        read_config(tmp_path / "config.json")


def test_no_key_of_a_config_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    fields = {"d_model": 8, "n_layer": 1, "vocab_size": 8, "a\x1b[31m\x07b": 3}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="knows no such field") as caught:
        read_config(tmp_path / "config.json")
    assert r"config.json: a\u001b[31m\u0007b: " in said(caught)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe1", "latest_checkpointed_iteration.txt: cannot be read: .*; it holds the number of an iteration"),
        ("\u00b2".encode(), "is neither the number of an iteration nor the folder beside it"),
        (b"..", "'..' is neither"),
        (b"../other", "'../other' is neither"),
        (b"/etc", "'/etc' is neither"),
        (b"", "'' is neither"),
        (b"9" * 4_000, "is neither"),
        (b"1" * 10_000, "cannot be read: .*is larger than 4096 bytes"),
        (b"a\x1b[31m", "is neither"),
    ],
)
def test_a_tracker_names_a_folder_beside_it(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / reading.TRACKER).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        reading.checkpoint_file(tmp_path)
    said(caught)


def test_a_tracker_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / reading.TRACKER)
    with pytest.raises(CheckpointError, match="is a pipe, a socket or a device"):
        reading.checkpoint_file(tmp_path)


@pytest.mark.parametrize("key", [3, None, "a"])
def test_names_of_megatrons_weights_are_text(tmp_path: Path, key: Any) -> None:
    import torch

    model = {key: 3 if key == "a" else torch.zeros(1)}
    path = tmp_path / "release" / "mp_rank_00" / reading.FILE
    path.parent.mkdir(parents=True)
    torch.save({"model": model}, path)
    with pytest.raises(CheckpointError, match=r"is a key; the names of weights are text|expected a tensor, found int"):
        reading.read_checkpoint(tmp_path)

"""A checkpoint or dataset that reads files outside its folder is refused with file and key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation.hub.bounds import LeadsOut, refuse_ways_out
from scanproof.evaluation.request import resolve_job
from tests.support import small_mirror as small


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return small.build(tmp_path / "mirror")


def change(path: Path, **values: object) -> None:
    """Set keys of a JSON file, which need not be there."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def refusal(mirror: Path, tmp_path: Path) -> str:
    with pytest.raises(EvaluationError) as caught:
        resolve_job(small.JOB, small.settings(tmp_path, mirror))
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["../elsewhere/model.safetensors", "/srv/model.bin", "README.md", "weights.lock", ".."]
)
def test_shards_elsewhere_or_in_files_that_the_fingerprint_leaves_out(mirror: Path, tmp_path: Path, name: str) -> None:
    change(mirror / small.MODEL / "model.safetensors.index.json", weight_map={"a": "model.safetensors", "b": name})
    said = refusal(mirror, tmp_path)
    assert said.startswith("checkpoint: ")
    assert f"model.safetensors.index.json: weight_map: b: {name!r}" in said


def test_a_tokenizer_in_a_file_elsewhere(mirror: Path, tmp_path: Path) -> None:
    config = mirror / small.MODEL / "tokenizer_config.json"
    change(config, tokenizer_file="/home/somebody/tokenizer.json")
    resolve_job(small.JOB, small.settings(tmp_path, mirror))
    (tmp_path / "tokenizer.json").write_text("{}")
    for address in (str(tmp_path / "tokenizer.json"), "../../../tokenizer.json"):
        change(config, tokenizer_file=address)
        assert f"tokenizer_config.json: tokenizer_file: {address!r} is a file outside" in refusal(mirror, tmp_path)


def test_an_adapter_of_other_weights(mirror: Path, tmp_path: Path) -> None:
    change(mirror / small.MODEL / "adapter_config.json", base_model_name_or_path="tests/other")
    assert "adapter_config.json: base_model_name_or_path: 'tests/other'" in refusal(mirror, tmp_path)


def test_code_of_another_repository_only_where_code_may_run(mirror: Path) -> None:
    folder = mirror / small.MODEL
    change(folder / "config.json", auto_map={"AutoConfig": "org/other--configuration.Config"})
    refuse_ways_out(folder, "model")
    with pytest.raises(LeadsOut, match=r"config\.json: auto_map: AutoConfig: 'org/other--"):
        refuse_ways_out(folder, "model", remote_code=True)


@pytest.mark.parametrize("path", ["../other/test.jsonl", "/srv/test.jsonl", "https://host/test.jsonl", "~/test.jsonl"])
@pytest.mark.parametrize("shape", ["  - split: test\n    path: PATH\n", "    test: PATH\n", "    test: [x, PATH]\n"])
def test_rows_of_a_dataset_elsewhere(mirror: Path, tmp_path: Path, path: str, shape: str) -> None:
    card = mirror / small.DATASET / "README.md"
    listed = shape.replace("PATH", f'"{path}"')
    card.write_text(f"---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n{listed}---\n")
    said = refusal(mirror, tmp_path)
    assert said.startswith("dataset: ")
    assert f"README.md: configs[0].data_files: {path!r} leads out" in said


CARD = "---\nconfigs:\n- config_name: ARC-Easy\n  data_files: ../other/test.jsonl\n---\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", CARD.replace("\n", "\r\n")),
        ("README.md", f"\ufeff{CARD}"),
        ("README.md", CARD.replace("configs", "note: |\n one\n---x: 1\nconfigs")),
        ("README.md", CARD.replace("../other/test.jsonl", "[../other/test.jsonl]")),
        ("README.md", CARD.replace("../other/test.jsonl", '"\\x2e\\x2e/other/test.jsonl"')),
        ("README.md", CARD.replace("data_files", "data_dir")),
        (".huggingface.yaml", CARD.replace("---\n", "")),
    ],
)
def test_every_card_that_datasets_reads_is_looked_into(mirror: Path, name: str, content: str) -> None:
    """Line ends of Windows, a mark of the byte order, a line that only begins as an end, escapes, and the second file
    of settings: datasets reads them all."""
    folder = mirror / small.DATASET
    (folder / name).write_text(content, encoding="utf-8", newline="")
    with pytest.raises(LeadsOut, match=rf"{name}: configs\[0\]\.data_(files|dir): '\.\./other/test\.jsonl' leads out"):
        refuse_ways_out(folder, "dataset")


@pytest.mark.parametrize("path", ["simplecache::/srv/test.jsonl", "file:test.jsonl"])
def test_an_address_without_slashes_leads_out_of_a_dataset(mirror: Path, path: str) -> None:
    folder = mirror / small.DATASET
    (folder / "README.md").write_text(CARD.replace("../other/test.jsonl", f'"{path}"'))
    with pytest.raises(LeadsOut, match=f"data_files: '{path}' leads out"):
        refuse_ways_out(folder, "dataset")


def test_a_card_with_addresses_in_its_text_and_files_of_its_own_is_read(mirror: Path) -> None:
    folder = mirror / small.DATASET
    inside = CARD.replace("../other/test.jsonl", "data/test-*.jsonl").replace(
        "configs", "license: https://host\nconfigs"
    )
    (folder / "README.md").write_text(f"{inside}See https://host/../x and ~/x.\n")
    refuse_ways_out(folder, "dataset")


@pytest.mark.parametrize("named", ["&endless [*endless]", "&endless {test: *endless}"])
def test_settings_that_hold_themselves_are_looked_into_once(mirror: Path, named: str) -> None:
    folder = mirror / small.DATASET
    (folder / "README.md").write_text(CARD.replace("../other/test.jsonl", f"{named}\nlicense: https://host"))
    refuse_ways_out(folder, "dataset")


def test_settings_that_are_nested_too_deeply_to_be_looked_through_are_refused(mirror: Path, tmp_path: Path) -> None:
    nested = "[" * 5_000 + "../other/test.jsonl" + "]" * 5_000
    (mirror / small.DATASET / "README.md").write_text(CARD.replace("../other/test.jsonl", nested))
    assert "README.md: it is nested too deeply" in refusal(mirror, tmp_path)


def test_a_hub_cache_with_links_to_its_blobs_is_read_and_identified_by_content(mirror: Path, tmp_path: Path) -> None:
    """Every file of a snapshot is a link to ../../blobs; a blob that changes in place is another checkpoint."""
    cache = tmp_path / "hub" / "models--tests--neox-tiny"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted((mirror / small.MODEL).iterdir())):
        path.rename(cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    (mirror / small.MODEL).rmdir()
    (mirror / small.MODEL).symlink_to(snapshot)
    settings = small.settings(tmp_path, mirror)
    before = resolve_job(small.JOB, settings).fingerprint
    blob = (snapshot / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    os.utime(blob, (1_000_000_000, 1_000_000_000))
    assert resolve_job(small.JOB, settings).fingerprint.key != before.key


@pytest.mark.parametrize(("name", "linked"), [("__pycache__", False), ("release", False), ("release", True)])
def test_every_folder_that_a_tracker_can_name_is_in_the_fingerprint(
    mirror: Path, tmp_path: Path, name: str, linked: bool
) -> None:
    """Where the folder is a link to somewhere else, too."""
    folder = mirror / small.MODEL / name
    if linked:
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    weights = folder / "mp_rank_00" / "model_optim_rng.pt"
    weights.parent.mkdir(parents=True)
    settings = small.settings(tmp_path, mirror)
    keys = set()
    for content in (b"one", b"another"):
        weights.write_bytes(content)
        keys.add(resolve_job(small.JOB, settings).fingerprint.key)
    assert len(keys) == 2

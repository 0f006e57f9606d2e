"""Thousands of damaged files, each from a seed: valid, set aside as if absent, or a clear error.

A clear error is of the reader's own class, names the file, is short, and holds no character that a terminal obeys.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.evaluation import command_line, evaluate_job, store, task_files
from scanproof.evaluation.file_digests import FileDigests
from scanproof.models.layout import CheckpointError
from scanproof.models.pruning import blocks
from scanproof.numbers.expected.problems import ExpectedError
from scanproof.numbers.expected.reader import load
from scanproof.record import SCHEMA_VERSION, RecordError, read_run
from scanproof.triage.bisect.lock_files import EnvironmentProblem, read_pins
from tests.support.expected_folder import DOCUMENT, EVALUATION
from tests.support.late import Late
from tests.support.lock_files import CONDA, REQUIREMENTS, UV
from tests.support.mutations import check_message, make_seed, mutate_bytes, mutate_json, mutate_text

if TYPE_CHECKING:
    import safetensors.torch as safetensors
    import torch

    from scanproof.models import hub_layout, shards
    from scanproof.models.megatron import reading
else:
    torch, safetensors = Late("torch"), Late("safetensors.torch")
    hub_layout, shards = Late("scanproof.models.hub_layout"), Late("scanproof.models.shards")
    reading = Late("scanproof.models.megatron.reading")

RUNS = Path(__file__).parent / "data" / "runs"


def read_damaged(
    path: Path, sound: Sequence[bytes], damage: Callable[[Random, bytes], bytes], times: int,
    read: Callable[[], object], refusal: type[Exception], named: str,
) -> int:  # fmt: skip
    """Read each sound file at `path`, then so many damaged ones; returns how many were refused."""
    for content in sound:
        path.write_bytes(content)
        read()
    refused = 0
    for number in range(times):
        seed = make_seed(f"{path.name} {number}")
        path.write_bytes(damage(seed, seed.choice(sound)))
        try:
            read()
        except refusal as error:
            refused += 1
            check_message(str(error), named)
    return refused


def damage_json(seed: Random, sound: bytes) -> bytes:
    return mutate_json(seed, json.loads(sound))


TASKS = """\
tasks:
  arc_easy: {documents: 2376, metrics: [acc, acc_norm], choices: 4, dataset: allenai/ai2_arc, config: ARC-Easy}
  piqa: {documents: 1838, metrics: [acc, acc_norm], choices: 2, dataset: baber/piqa}
  lambada_openai: {documents: 5153, metrics: [acc, perplexity], dataset: EleutherAI/lambada_openai}
groups:
  both: {metrics: [acc], members: [arc_easy, piqa]}
  all: {metrics: [acc], members: [both, lambada_openai]}
"""
CONSTANT = "{value: 0.02, calibration: {value_is: '0.0197, rounded up to two digits'}}"
TOLERANCE = f"""\
false_alarm_rate: 0.01
checks: 1000
power: 0.8
flip_rate: {{same: {CONSTANT}, other: {CONSTANT}}}
perplexity: {{documents: 5153, relative_sd: {CONSTANT}}}
"""
WIDENED = EVALUATION.replace("line: 3,", "line: 3, widened: {by: 0.3, reason: why}, suffix: a, num_fewshot: 2,")


@pytest.mark.parametrize(
    ("name", "content", "times"),
    [
        ("900-new/model.yaml", WIDENED, 5_500),
        ("900-new/document.yaml", DOCUMENT, 1_500),
        ("tasks.yaml", TASKS, 2_000),
        ("tolerance.yaml", TOLERANCE, 1_000),
    ],
)
def test_ten_thousand_expected_files(tmp_path: Path, name: str, content: str, times: int) -> None:
    for file, text in (
        ("900-new/model.yaml", WIDENED), ("900-new/document.yaml", DOCUMENT), ("tasks.yaml", TASKS),
        ("tolerance.yaml", TOLERANCE),
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    assert len(load(tmp_path).values) == 3
    refused = read_damaged(
        tmp_path / name, [content.encode()], mutate_text, times, lambda: load(tmp_path), ExpectedError, str(tmp_path)
    )
    assert times // 2 < refused < times


def test_two_thousand_run_files(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    versions = sorted(RUNS.iterdir())
    assert len(versions) == SCHEMA_VERSION
    contents = [json.loads((version / "run.json").read_bytes()) for version in versions]
    for content in contents:
        content["records"], content["evaluations"] = content["records"][:2], content.get("evaluations", [])[:1]
    sound = [json.dumps(content).encode() for content in contents]
    refused = read_damaged(path, sound, damage_json, 2_000, lambda: read_run(path), RecordError, str(path))
    assert 1_000 < refused < 2_000


MEASURED = {"task": "piqa", "metric": "acc", "value": 0.5, "stderr": 0.1, "n_samples": 20, "num_fewshot": 0}
ENTRY: dict[str, Any] = {
    "results.json": {"measurements": [MEASURED]},
    "environment.json": {"peak_memory_bytes": 3, "packages": {"torch": "2"}},
    "run.json": {"seconds": 1.5, "because": ["never run before"], "kernel_changes": []},
    "job.json": {},
    "fingerprint.json": {"parts": {}},
    store.IMPORTED: {"files": {"/a.py": "0"}, "places": {"a": "/"}},
}
KEY = "ab" + "0" * 62


def test_two_thousand_store_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "command", lambda *_: "lm_eval")
    resolved: Any = SimpleNamespace(
        job=None, fingerprint=SimpleNamespace(key=KEY), settings=SimpleNamespace(mirror=None), request={"tasks": []}
    )
    attempt = store.new_attempt(tmp_path)
    for name in ("results.json", "environment.json"):
        (attempt / name).write_text(json.dumps(ENTRY[name]))
    folder = store.add(tmp_path, KEY, attempt, session="first", documents=dict(ENTRY)).folder
    names = [*ENTRY, "entry.json", store.CHECKSUMS]
    sound = {name: (folder / name).read_bytes() for name in names}
    refused = 0
    for number in range(2_000):
        seed = make_seed(f"entry {number}")
        name = names[number % len(names)]
        (folder / name).write_bytes(mutate_json(seed, json.loads(sound[name])))
        if number % 3 and name != store.CHECKSUMS:
            # The checksums agree: somebody wrote it like this.
            (folder / store.CHECKSUMS).write_text(json.dumps(store._checksums(folder)))
        try:
            entry = store.read(tmp_path, KEY)
            assert entry is not None
            evaluation = evaluate_job._read_evaluation(resolved, entry, reused=True)
            assert all(isinstance(measured.value, float) for measured in evaluation.measurements)
        except store.DamagedEntry as error:
            refused += 1
            check_message(str(error), KEY)
        for changed in (name, store.CHECKSUMS):
            (folder / changed).write_bytes(sound[changed])
    assert 1_000 < refused < 2_000
    assert store.read(tmp_path, KEY) is not None


def test_two_thousand_caches(tmp_path: Path) -> None:
    """Each is read as if it were not there, or as it was written."""
    job: Any = SimpleNamespace(name="job")
    resolved: Any = SimpleNamespace(
        job=job,
        settings=SimpleNamespace(store=tmp_path, engine="plain"),
        fingerprint=SimpleNamespace(parts={"a": "1", "b": {"c": 2}}, unknown=()),
    )
    latest = evaluate_job._latest_file(tmp_path, "job", "plain")
    latest.parent.mkdir()
    for number in range(800):
        seed = make_seed(f"latest {number}")
        latest.write_bytes(mutate_json(seed, {"key": KEY, "parts": {"a": "1", "b": {"c": 2}}}))
        assert all(isinstance(reason, str) for reason in evaluate_job._changes_since_last_run(resolved))
        assert evaluate_job.last_launches(tmp_path, "job") is None
    root, cache = tmp_path / "tasks", tmp_path / "cache"
    root.mkdir()
    (root / "one.yaml").write_text("task: one\ntag: [many]\ndataset_path: a/b\n")
    sound = task_files.load_index(root, cache)
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    for number in range(800):
        seed = make_seed(f"tasks {number}")
        kept.write_bytes(mutate_json(seed, json.loads(content)))
        assert task_files.load_index(root, cache) == sound
        assert kept.read_bytes() == content or json.loads(kept.read_bytes()) == json.loads(content)
    database, file = tmp_path / "hashes.sqlite", tmp_path / "weights"
    file.write_bytes(b"1")
    os.utime(file, (0, 0))
    with FileDigests(database) as digests:
        digest = digests.digest(file)
    content = database.read_bytes()
    for number in range(400):
        database.write_bytes(mutate_bytes(make_seed(f"digests {number}"), content))
        with FileDigests(database) as digests:
            assert digests.digest(file) == digest


def test_two_thousand_shard_indices(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    weights = {"a.weight": "model-1.safetensors", "b": "model-2.safetensors"}
    for key, name in weights.items():
        safetensors.save_file({key: torch.zeros(2)}, tmp_path / name)
    sound = json.dumps({"metadata": {"total_size": 16}, "weight_map": weights}).encode()

    def read() -> None:
        tensors = shards.map_tensors(tmp_path)
        assert set(hub_layout.weight_map(tmp_path)) == set(tensors)
        # An index that lost a tensor is a sound one of another model: what the config asks for decides.
        shards.check_keys(tensors, dict.fromkeys(weights, (2,)), tmp_path)
        assert set(tensors) == set(weights)

    refused = read_damaged(path, [sound], damage_json, 2_000, read, CheckpointError, str(tmp_path))
    assert 1_000 < refused < 2_000


def test_two_thousand_trackers(tmp_path: Path) -> None:
    path = tmp_path / reading.TRACKER
    for place in ("release", "iter_0000300"):
        (tmp_path / place / "mp_rank_00").mkdir(parents=True)
        (tmp_path / place / "mp_rank_00" / reading.FILE).write_bytes(b"")

    def read() -> None:
        found = reading.checkpoint_file(tmp_path)
        assert found.resolve().is_relative_to(tmp_path.resolve())

    sound = (b"release", b"300", b" 300\n")
    refused = read_damaged(path, sound, mutate_bytes, 2_000, read, CheckpointError, str(tmp_path))
    assert 1_000 < refused < 2_000


@pytest.mark.parametrize(
    ("name", "content", "times"), [("lock.txt", REQUIREMENTS, 1_000), ("uv.lock", UV, 500), ("env.yml", CONDA, 500)]
)
def test_two_thousand_lock_files(tmp_path: Path, name: str, content: str, times: int) -> None:
    path = tmp_path / name

    def read() -> None:
        assert all(versions for versions in read_pins(path).versions.values())

    refused = read_damaged(path, [content.encode()], mutate_text, times, read, EnvironmentProblem, str(tmp_path))
    assert times // 4 < refused < times


@pytest.mark.parametrize("name", ["zigzag.csv", "zigzag.csv.gz"])
def test_two_thousand_zigzag_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = b"dimension,birth,death\n0,1,8\n1,1,3\n1,2,8\n1,3,6\n1,5,8\n"

    zipped = name.endswith(".gz")
    sound = gzip.compress(text, mtime=0) if zipped else text

    def damage(seed: Random, sound: bytes) -> bytes:
        if zipped and seed.random() < 0.5:
            return mutate_bytes(seed, sound)
        damaged = mutate_text(seed, text)
        return gzip.compress(damaged, compresslevel=1, mtime=0) if zipped else damaged

    def read() -> None:
        curve = blocks.compute_similarity(blocks.read_zigzag(path), 3, path)
        blocks.choose_block(curve, 0.9, path)

    refused = read_damaged(path, [sound], damage, 1_000, read, blocks.PruningError, str(path))
    assert 400 < refused < 1_000

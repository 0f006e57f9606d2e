from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import small_hub
from scanproof.worker import Reporter

ROOT = Path(__file__).resolve().parents[2]
NAME = "tests/net"


@pytest.fixture
def hub() -> Iterator[small_hub.Hub]:
    files = {
        "config.json": b"{}",
        "model.safetensors": b"w" * 20_000,
        "pytorch_model.bin": b"p" * 20_000,
        "tokenizer.json": b"[]",
    }
    with small_hub.running(small_hub.Hub(models={NAME: files})) as running:
        yield running


def snapshot(hub: small_hub.Hub, home: Path, revision: str) -> subprocess.CompletedProcess[str]:
    """Ask for a snapshot in a process of its own: the hub library reads its address when it is imported."""
    code = f"from scanproof.worker import snapshot; print(*snapshot({NAME!r}, {revision!r}), sep='\\n')"
    variables = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def test_checkpoint_comes_from_one_commit_and_one_weight_format(hub: small_hub.Hub, tmp_path: Path) -> None:
    done = snapshot(hub, tmp_path, "main")
    assert done.returncode == 0, done.stderr
    folder, commit = done.stdout.splitlines()
    assert commit == small_hub.COMMIT
    assert Path(folder).name == small_hub.COMMIT
    assert {path.name for path in Path(folder).iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_unknown_revision_is_not_replaced_by_the_default_branch(hub: small_hub.Hub, tmp_path: Path) -> None:
    done = snapshot(hub, tmp_path, "step7")
    assert done.returncode != 0
    assert "RevisionNotFoundError" in done.stderr


def test_hub_that_went_away_leaves_the_cache(hub: small_hub.Hub, tmp_path: Path) -> None:
    first = snapshot(hub, tmp_path, small_hub.COMMIT)
    hub.endpoint = "http://127.0.0.1:9"
    second = snapshot(hub, tmp_path, small_hub.COMMIT)
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout


def test_reporter_writes_stages_at_once_and_the_last_request(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    reporter = Reporter(path)
    reporter.stage("requests", total=500)
    for _ in range(500):
        reporter.advance()
    states = [json.loads(line) for line in path.read_text().splitlines()]
    assert (states[0]["stage"], states[0]["done"], states[0]["total"]) == ("requests", 0, 500)
    assert states[-1]["done"] == 500
    assert len(states) < 50

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from scanproof.evaluation.worker import run
from scanproof.evaluation.worker.run import ProgressWriter
from tests.support import small_hub, small_mirror

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
    """Get a snapshot in a process of its own, because the hub library reads its address when it is imported."""
    code = f"from scanproof.models.snapshot import snapshot; print(*snapshot({NAME!r}, {revision!r}), sep='\\n')"
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
    with small_hub.unreachable() as hub.endpoint:
        second = snapshot(hub, tmp_path, small_hub.COMMIT)
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout


def test_reporter_writes_stages_at_once_requests_twice_a_second_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock advances by 1/64 s per request."""
    seconds = [0.0]
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    path = tmp_path / "progress.jsonl"
    reporter = ProgressWriter(path)
    reporter.stage("requests", total=520)
    for _ in range(520):
        seconds[0] += 1 / 64
        reporter.advance()
    states = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(state["stage"], state["total"]) for state in states} == {("requests", 520)}
    assert [state["done"] for state in states] == [*range(0, 520, 32), 520]


SAMPLED = """
import json
import sys
from dataclasses import asdict
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import lm_eval
from tests.support import small_mirror as small
from lm_eval.api.registry import get_model
from scanproof.evaluation.worker import run as worker
def prompts(results):
    return [sample["arguments"][0][0] for sample in results["samples"]["arc_easy"]]
def plain(seed):
    return prompts(lm_eval.simple_evaluate(
        model="dummy", tasks=["arc_easy"], num_fewshot=2, batch_size=1, bootstrap_iters=0, fewshot_random_seed=seed
    ))
folder = Path(lm_eval.__file__).parent / "tasks" / "arc"
manager, tasks, _ = worker.load_tasks({"members": {"arc_easy": ["arc_easy"]}, "task_folders": [str(folder)]})
job = {**asdict(small.JOB), "num_fewshot": 2, "seed": 7}
ours = prompts(worker.evaluate_tasks(get_model("dummy")(), job, tasks, manager, 0))
print()
print(json.dumps({"ours": ours, "seven": plain(7), "eight": plain(8)}))
"""


def test_few_shot_examples_are_those_that_lm_eval_draws_with_the_seed_of_the_job(tmp_path: Path) -> None:
    mirror = small_mirror.build(tmp_path / "mirror")
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_DATASETS_CACHE": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SAMPLED, str(Path(__file__).parent), str(ROOT)],
        cwd=mirror, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prompts = json.loads(done.stdout.splitlines()[-1])
    assert len(prompts["ours"]) == small_mirror.QUESTIONS
    assert prompts["ours"] == prompts["seven"]
    assert prompts["ours"] != prompts["eight"]

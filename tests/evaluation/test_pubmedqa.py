"""PubMedQA comes into a mirror from its authors' files, and prefetch says so where the hub has only a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scanproof.cli.app import app
from scanproof.cli.prefetch import explain_script
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.hub import mirror as mirrors
from scanproof.evaluation.hub.prefetch import plan_prefetch
from scanproof.evaluation.hub.pubmedqa import PubMedQAError, import_pubmedqa
from scanproof.models.checkpoint_files import is_script
from tests.support import small_hub
from tests.support import small_mirror as small
from tests.support.small_jobs import mirror, own

__all__ = ["mirror", "own"]
JOB = replace(small.JOB, tasks=("pubmedqa",))
DECISIONS = ("yes", "no", "maybe")


def questions(first: int, count: int) -> dict[str, dict[str, Any]]:
    """Questions in the schema of the published files."""
    return {
        str(number): {
            "QUESTION": f"Is number {number} odd?",
            "CONTEXTS": ["Numbers were drawn.", f"Of number {number} half was taken."],
            "LABELS": ["METHODS", "RESULTS"],
            "MESHES": ["numbers"],
            "YEAR": "2019",
            "reasoning_required_pred": "yes",
            "reasoning_free_pred": "yes",
            "final_decision": DECISIONS[number % 3],
            "LONG_ANSWER": "It depends.",
        }
        for number in range(first, first + count)
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder `data` after the split, as its authors' script leaves it."""
    folder = tmp_path / "data"
    (folder / "pqal_fold0").mkdir(parents=True)
    test = questions(0, 500)
    write(folder / "test_set.json", test)
    write(folder / "pqal_fold0" / "train_set.json", questions(500, 450))
    write(folder / "pqal_fold0" / "dev_set.json", questions(950, 50))
    write(folder / "test_ground_truth.json", {name: row["final_decision"] for name, row in test.items()})
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def test_lm_eval_reads_what_was_imported(data: Path, own: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import-pubmedqa", str(data), "--mirror", str(own), "--format", "json"])
    assert done.exit_code == 0, done.output
    (said,) = json.loads(done.output)
    assert said == {"folder": str(own / "bigbio/pubmed_qa"), "test": 500, "train": 450, "validation": 50}
    measured = evaluate(replace(JOB, limit=9), small.settings(tmp_path, own), progress=small.ignore)
    rows = [json.loads(line) for line in (Path(measured.samples) / "pubmedqa.jsonl").read_text().splitlines()]
    assert [row["right"] for row in rows] == [[number % 3] for number in range(9)]


def test_the_names_of_the_archive_are_known_too(data: Path, tmp_path: Path) -> None:
    (data / "test_set.json").rename(data / "pqal_test_set.json")
    assert import_pubmedqa(data, tmp_path / "mirror")["test"] == 500


def test_what_is_there_is_not_replaced(data: Path, tmp_path: Path) -> None:
    import_pubmedqa(data, tmp_path / "mirror")
    with pytest.raises(PubMedQAError, match=r"bigbio/pubmed_qa exists; delete it"):
        import_pubmedqa(data, tmp_path / "mirror")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("test_set.json", None, "there is no such file; clone https://github.com/pubmedqa/pubmedqa"),
        ("test_set.json", {}, "0 questions, PubMedQA has 500 in it"),
        ("test_set.json", {**questions(0, 499), "499": []}, "test_set.json: 499: expected an object"),
        ("test_set.json", {**questions(0, 499), "499": {"QUESTION": 3}}, "499: QUESTION: expected text"),
        ("test_set.json", questions(1, 500), "2 questions are not in the test set, or have another answer there"),
        ("pqal_fold0/dev_set.json", [1], "dev_set.json: cannot be read: it holds a list, not an object"),
        ("test_ground_truth.json", {"0": "no"}, "500 questions are not in the test set"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(
    data: Path, tmp_path: Path, file: str, change: object, said: str
) -> None:
    if change is None:
        (data / file).unlink()
    else:
        write(data / file, change)
    with pytest.raises(PubMedQAError) as caught:
        import_pubmedqa(data, tmp_path / "mirror")
    assert said in str(caught.value)
    assert not (tmp_path / "mirror" / "bigbio").exists() or not any((tmp_path / "mirror" / "bigbio").iterdir())


@pytest.fixture
def hub() -> Iterator[small_hub.Hub]:
    script = {"README.md": b"---\n---\n", "pubmed_qa.py": b"x", "bigbiohub.py": b"x", ".gitattributes": b"x"}
    model = {"config.json": b"{}", "model.safetensors": b"w", "tokenizer.json": b"[]"}
    arc = {"README.md": b"---\n---\n", "ARC-Easy/test.parquet": b"d", "load.py": b"x"}
    offered = small_hub.Hub(models={small.MODEL: model}, datasets={mirrors.PUBMEDQA: script, small.DATASET: arc})
    with small_hub.running(offered):
        yield offered


def test_prefetch_leaves_out_a_dataset_that_is_a_script_and_fetches_the_others(hub: small_hub.Hub) -> None:
    plan = plan_prefetch([replace(JOB, tasks=("arc_easy", "pubmedqa"))], hub.endpoint)
    assert plan.scripts == (mirrors.PUBMEDQA,)
    assert [repository.name for repository in plan.repositories] == [small.DATASET, small.MODEL]


def test_the_way_into_the_mirror_of_a_dataset_that_is_a_script_is_not_the_command_that_left_it_out() -> None:
    assert "; run scanproof import-pubmedqa" in explain_script(mirrors.PUBMEDQA, Path("mirror"))
    other = explain_script("tests/other", Path("mirror"))
    assert other.endswith("; put its rows into mirror/tests/other")
    assert "scanproof prefetch" not in other


def test_a_script_beside_data_is_no_reason_to_leave_them_out() -> None:
    assert is_script(["README.md", "rows.py"])
    assert not is_script(["README.md", "rows.py", "data/test.parquet"])
    assert not is_script(["README.md"])


def test_a_mirror_without_it_says_how_it_comes_there(tmp_path: Path) -> None:
    with pytest.raises(mirrors.NotInMirror, match="run scanproof import-pubmedqa"):
        mirrors.resolve(small.build(tmp_path / "mirror"), mirrors.PUBMEDQA, "dataset")

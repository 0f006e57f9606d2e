"""Bring PubMedQA into a mirror.  Its repository on the hub is a script, which nothing here runs.

The data are published by its authors (https://github.com/pubmedqa/pubmedqa, MIT): `data/ori_pqal.json`, which
`preprocess/split_dataset.py pqal` splits as the paper did, into a test set and ten folds.  The script of
`bigbio/pubmed_qa` reads the same files under the names of an archive; both names are known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.evaluation.hub.mirror import PUBMEDQA

CONFIG = "pubmed_qa_labeled_fold0_source"
"""The configuration that lm-eval's task `pubmedqa` asks for."""
TRUTH = "test_ground_truth.json"
"""The published answers of the test set, by id; compared where the file is there."""
SPLITS = {
    "test": (("test_set.json", "pqal_test_set.json"), 500),
    "train": (("pqal_fold0/train_set.json",), 450),
    "validation": (("pqal_fold0/dev_set.json",), 50),
}
"""Split -> the names that its file may have, and how many questions it holds."""
TEXT, TEXTS = ("QUESTION", "LONG_ANSWER", "final_decision"), ("CONTEXTS", "LABELS", "MESHES")
OPTIONAL = ("YEAR", "reasoning_required_pred", "reasoning_free_pred")


class PubMedQAError(Exception):
    """The files are not those of PubMedQA; the message names file and key."""


def import_pubmedqa(data: Path, mirror: Path) -> dict[str, int]:
    """Write `mirror/bigbio/pubmed_qa` from the folder with the split data; returns the questions of each split.

    Raises:
        PubMedQAError: a file is missing or is not what it should be, or the mirror has the dataset already.
    """
    target = mirror / PUBMEDQA
    if target.exists():
        raise PubMedQAError(f"{target} exists; delete it to import the data again")
    splits = {split: read_split(data, names, count) for split, (names, count) in SPLITS.items()}
    check_answers(data / TRUTH, splits["test"])
    with files.replace_atomically(target) as folder:
        (folder / CONFIG).mkdir(parents=True)
        for split, rows in splits.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
            (folder / CONFIG / f"{split}.jsonl").write_text(text, encoding="utf-8")
        listed = "".join(f"  - split: {split}\n    path: {CONFIG}/{split}.jsonl\n" for split in splits)
        card = f"---\nconfigs:\n- config_name: {CONFIG}\n  data_files:\n{listed}---\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
    return {split: len(rows) for split, rows in splits.items()}


def read_split(data: Path, names: tuple[str, ...], count: int) -> dict[str, dict[str, Any]]:
    """The questions of one split by id, with the fields of the dataset; raises PubMedQAError."""
    path = next((data / name for name in names if files.is_file(data / name)), None)
    if path is None:
        raise PubMedQAError(
            f"{data / names[0]}: there is no such file; clone https://github.com/pubmedqa/pubmedqa, run "
            f"`python split_dataset.py pqal` in its folder preprocess, and give its folder data"
        )
    try:
        content = files.read_json_object(path)
    except (OSError, ValueError) as error:
        raise PubMedQAError(f"{path}: cannot be read: {error}") from error
    if len(content) != count:
        raise PubMedQAError(f"{path}: {len(content)} questions, PubMedQA has {count} in it")
    return {name: read_question(path, name, question) for name, question in content.items()}


def read_question(path: Path, name: str, question: Any) -> dict[str, Any]:
    """The fields of one question; raises PubMedQAError naming the first that is missing or of another type."""
    if not isinstance(question, Mapping):
        raise PubMedQAError(f"{path}: {name}: expected an object")
    for key in TEXT:
        if not isinstance(question.get(key), str):
            raise PubMedQAError(f"{path}: {name}: {key}: expected text")
    for key in TEXTS:
        texts = question.get(key)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise PubMedQAError(f"{path}: {name}: {key}: expected a list of texts")
    if question["final_decision"] not in ("yes", "no", "maybe"):
        raise PubMedQAError(f"{path}: {name}: final_decision: {question['final_decision']!r} is not yes, no or maybe")
    return {key: question.get(key) for key in ("QUESTION", *TEXTS, *OPTIONAL, "final_decision", "LONG_ANSWER")}


def check_answers(path: Path, test: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare the test set with the published answers, where they lie beside it; raises PubMedQAError."""
    if not files.is_file(path):
        return
    try:
        truth = files.read_json_object(path)
    except (OSError, ValueError) as error:
        raise PubMedQAError(f"{path}: cannot be read: {error}") from error
    different = [name for name in {*truth, *test} if truth.get(name) != test.get(name, {}).get("final_decision")]
    if different:
        raise PubMedQAError(
            f"{path}: {len(different)} questions are not in the test set, or have another answer there, "
            f"such as {min(different)}"
        )

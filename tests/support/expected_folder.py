"""A small sound folder of expected values, for tests to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scanproof.numbers.expected.folders import copy_shared
from scanproof.numbers.expected.reader import ExpectedError, load

EXPECTED = Path(__file__).parents[2] / "expected"

DOCUMENT = """\
number: "900"
title: Title
citation: Citation
suite: gpu
numbers: 3
harness:
  name: lm-eval
  version: "0.4.13"
  relation: same
  said: Line 1.
"""

EVALUATION = """\
document: "900"
model: Owner/Model-1B
hub_id: owner/model-1b
job:
  model: hf
  revision: main
  dtype: float32
  num_fewshot: 0
  batch_size: 8
num_fewshot_printed: 0
assumed:
  dtype: not printed
values:
  - {task: arc_easy, metric: acc, line: 3, origin: author, printed: "50.0", unit: percent}
  - {task: piqa, metric: acc_norm, line: 4, origin: author, printed: "0.45", unit: fraction, stderr: "0.01"}
  - {task: lambada_openai, metric: perplexity, line: 5, origin: author, printed: "8.14", unit: raw}
"""

Edit = Callable[[str, str], Path]


def set_count(folder: Path, count: int) -> None:
    """Say in document.yaml that its files hold so many numbers."""
    path = folder / "900-new" / "document.yaml"
    path.write_text(re.sub(r"(?m)^numbers: \d+$", f"numbers: {count}", path.read_text()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder with one document of three numbers."""
    copy_shared(EXPECTED, tmp_path)
    (tmp_path / "900-new").mkdir()
    (tmp_path / "900-new" / "document.yaml").write_text(DOCUMENT)
    (tmp_path / "900-new" / "model.yaml").write_text(EVALUATION)
    return tmp_path


@pytest.fixture
def edit(folder: Path) -> Edit:
    """Replace one text in the evaluation file; returns the folder."""

    def replace(old: str, new: str) -> Path:
        assert EVALUATION.count(old) == 1
        (folder / "900-new" / "model.yaml").write_text(EVALUATION.replace(old, new))
        return folder

    return replace


def complaints(folder: Path) -> list[str]:
    """What is said about the folder, one line per problem, its own path left out."""
    with pytest.raises(ExpectedError) as caught:
        load(folder)
    return [line.replace(f"{folder}/", "") for line in str(caught.value).splitlines()]

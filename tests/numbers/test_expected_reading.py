"""How a folder of expected values is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.expected.reader import load
from scanproof.numbers.values import EvalJob, PublishedValue
from tests.support.expected_folder import DOCUMENT, EVALUATION, Edit, edit, folder, set_count

__all__ = ["edit", "folder"]


def of_printed(printed: str) -> PublishedValue:
    job = EvalJob(
        name="j",
        model="hf",
        pretrained="a/b",
        revision="main",
        dtype="float32",
        device="cpu",
        tasks=("piqa",),
        num_fewshot=0,
        batch_size=1,
    )
    return PublishedValue(
        document="900",
        line=1,
        file="f",
        file_line=1,
        model="m",
        hub_id="a/b",
        job=job,
        task="piqa",
        metric="acc",
        origin="author",
        printed=printed,
        unit="percent",
    )


class TestReading:
    def test_a_new_document(self, folder: Path) -> None:
        first, second, third = load(folder).values
        assert first.job == EvalJob(
            name="900-model-1b-0shot",
            model="hf",
            pretrained="owner/model-1b",
            revision="main",
            dtype="float32",
            device="cuda",
            tasks=("arc_easy", "lambada_openai", "piqa"),
            num_fewshot=0,
            batch_size=8,
        )
        assert (first.file, first.file_line, first.line, first.documents) == (
            "900-new/model.yaml",
            14,
            3,
            2376,
        )
        assert (first.assumed, first.harness) == ((("dtype", "not printed"),), "same")
        assert (second.id, second.stderr) == ("model-1b-piqa-acc_norm-author", "0.01")
        assert third.expected == 8.14

    def test_a_different_reading_is_one_edit(self, edit: Edit) -> None:
        values = load(edit('"50.0", unit: percent', '"50.0", unit: percent, num_fewshot: 5')).values
        assert [value.job.name for value in values] == ["900-model-1b-5shot", *["900-model-1b-0shot"] * 2]
        assert [value.job.tasks for value in values[:2]] == [("arc_easy",), ("lambada_openai", "piqa")]

    def test_the_narrower_assumption_wins(self, edit: Edit) -> None:
        folder = edit("  dtype: not printed", '  dtype: not printed\n  "dtype:piqa": quoted\n  "dtype:author": said')
        assert [dict(value.assumed)["dtype"] for value in load(folder).values] == ["said", "quoted", "said"]

    def test_an_average_over_other_shots_cannot_be_measured(self, edit: Edit) -> None:
        parts = "[{task: arc_easy, metric: acc}, {task: piqa, metric: acc_norm}]"
        number = 'line: 9, origin: author, printed: "47.5", unit: percent'
        average = f"{{task: average, metric: acc, {number}, parts: {parts}}}"
        folder = edit('stderr: "0.01"}', f"num_fewshot: 5}}\n  - {average}")
        set_count(folder, 4)
        found = {value.task: value.not_comparable for value in load(folder).values}
        assert found["average"] == "piqa is evaluated with 5 shots, the average with 0"
        assert found["piqa"] is None

    def test_reasons_for_the_whole_file(self, edit: Edit) -> None:
        folder = edit("assumed:", "not_comparable: another checkpoint\nassumed:")
        assert {value.not_comparable for value in load(folder).values} == {"another checkpoint"}

    def test_embedded_numbers_have_the_same_form(self, folder: Path) -> None:
        (folder / "900-new" / "document.yaml").write_text(
            DOCUMENT.replace("gpu", "embedded").replace("900", "embedded")
        )
        text = EVALUATION.replace('"900"', "embedded").replace("author", "embedded")
        text = text.replace("batch_size: 8", "batch_size: 8\n  device: cpu").replace('"0.01"', '"0.01", documents: 200')
        (folder / "900-new" / "model.yaml").write_text(text)
        values = load(folder).values
        assert {value.job.device for value in values} == {"cpu"}
        assert values[1].documents == 200

    @given(whole=st.integers(0, 99), decimals=st.text("0123456789", max_size=5))
    def test_printed_digits_give_value_and_rounding(self, whole: int, decimals: str) -> None:
        printed = f"{whole}.{decimals}" if decimals else str(whole)
        value = of_printed(printed)
        digits = len(decimals)
        assert value.half_unit == pytest.approx(0.5 * 10.0**-digits / 100, rel=1e-12)
        assert f"{value.expected * 100:.{digits}f}" == printed

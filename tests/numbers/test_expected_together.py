"""Every mistake of a folder of expected values comes to light in one run, however many kinds there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanproof.numbers.expected.reader import ExpectedError, load
from tests.support.expected_folder import DOCUMENT, EVALUATION, Edit, complaints, edit, folder, set_count

__all__ = ["edit", "folder"]

EXPECTED = Path(__file__).parents[2] / "expected"
HEAD = EVALUATION[: EVALUATION.index("values:")]
NUMBER = 'origin: author, printed: "50.0", unit: percent'


def write(folder: Path, *rows: str, head: str = HEAD, name: str = "model.yaml") -> None:
    """An evaluation file with one value per row, the first on line 14; the document counts the rows of all files."""
    (folder / "900-new" / name).write_text(head + "values:\n" + "".join(f"  - {row}\n" for row in rows))
    set_count(folder, sum(path.read_text().count("\n  - ") for path in (folder / "900-new").glob("*.yaml")))


class TestOneRun:
    def test_each_kind_of_mistake_in_one_file(self, folder: Path) -> None:
        head = HEAD.replace("  revision: main", "  revison: main").replace("  dtype: not", "  dtipe: not")
        write(
            folder,
            f"{{task: arc_easy, metric: acc, line: three, {NUMBER}}}",
            f"{{task: arc_eazy, metric: acc, line: 4, {NUMBER}}}",
            f"{{task: piqa, metric: perplexity, line: 5, {NUMBER}}}",
            '{task: piqa, metric: acc, line: 6, origin: author, printed: "150.0", unit: percent}',
            "{task: piqa, metric: acc_norm, line: 7, origin: author, printed: 50.0, unit: percent}",
            "{task: hellaswag, metric: acc, line: 8, line: 9, origin: author}",
            f"{{task: hellaswag, metric: acc, line: 9, {NUMBER}}}",
            f"{{task: hellaswag, metric: acc, line: 10, {NUMBER}}}",
            f"{{task: openbookqa, metric: acc, line: 1{'0' * 30}, {NUMBER}}}",
            head=head,
        )
        said = [line.removeprefix("900-new/model.yaml:") for line in complaints(folder)]
        starts = [
            "4: job.revision: is missing; write revision: branch, tag or commit of the checkpoint",
            "6: job.revison: is not a key that is read here; did you mean revision?",
            "12: assumed.dtipe: 'dtipe' is not a field of a number; did you mean dtype?",
            "14: values.0.line: is 'three'; write a whole number",
            "15: values.1.task: 'arc_eazy' is not a task of tasks.yaml; did you mean arc_easy",
            "16: values.2.metric: piqa has no 'perplexity'; write one of acc, acc_norm",
            "17: values.3.printed: is 150.0, outside 0 to 100",
            "18: values.4.printed: is a bare number",
            "19: line: stands twice in one mapping",
            "19: values.5.printed: is missing",
            "19: values.5.unit: is missing",
            "20: values: is a second model-1b-hellaswag-acc-author, after 900-new/model.yaml:19",
            "21: values: is a second model-1b-hellaswag-acc-author, after 900-new/model.yaml:19",
            "22: 1000000000000000000000000000000 is too large for a number",
        ]
        assert len(said) == len(starts)
        assert [line[: len(start)] for line, start in zip(said, starts, strict=True)] == starts

    def test_one_value_with_three_kinds(self, edit: Edit) -> None:
        path = edit('arc_easy, metric: acc, line: 3, origin: author, printed: "50.0"', "x, line: 0, printed: '150'")
        assert [line.split(": ")[1] for line in complaints(path)] == [
            "values.0.metric",
            "values.0.line",
            "values.0.origin",
            "values.0.task",
        ]

    @pytest.mark.parametrize(
        ("old", "new", "key"),
        [
            ('document: "900"', "document: 900", "document"),
            ("hub_id: owner/model-1b", "hub_id: 3", "hub_id"),
            ("  model: hf\n", "", "job.model"),
            ("num_fewshot_printed: 0", "num_fewshot_printed: no", "num_fewshot_printed"),
            ("model: Owner/Model-1B\n", "", "model"),
            ("num_fewshot_printed: 0\n", "more: x\n", "more"),
        ],
    )
    def test_the_head_of_a_file_hides_nothing_of_its_values(self, folder: Path, old: str, new: str, key: str) -> None:
        write(folder, f"{{task: arc_eazy, metric: acc, line: 3, {NUMBER}}}", "no", head=HEAD.replace(old, new))
        assert {line.split(": ")[1] for line in complaints(folder)} == {key, "values.0.task", "values.1"}

    def test_values_that_are_no_list_hide_nothing_of_the_head(self, folder: Path) -> None:
        (folder / "900-new" / "model.yaml").write_text(HEAD.replace('"900"', '"901"') + "values: none\n")
        assert [line.split(": ")[1] for line in complaints(folder)] == ["document", "values"]

    def test_a_document_hides_nothing_of_its_values(self, folder: Path) -> None:
        text = DOCUMENT.replace("title: Title\n", "").replace("  relation: same\n", "") + "assumed: {dtipe: no}\n"
        (folder / "900-new" / "document.yaml").write_text(text)
        head = HEAD.replace('"900"', '"901"')
        write(folder, f"{{task: arc_eazy, metric: acc, line: 3, {NUMBER.replace('author', 'embedded')}}}", head=head)
        assert [": ".join(line.split(": ")[:2]) for line in complaints(folder)] == [
            "900-new/document.yaml:1: title",
            "900-new/document.yaml:5: harness.relation",
            "900-new/document.yaml:9: assumed.dtipe",
            "900-new/model.yaml:1: document",
            "900-new/model.yaml:14: values.0.task",
            "900-new/model.yaml:14: values.0.origin",
        ]

    def test_no_document_hides_nothing_of_its_values(self, folder: Path) -> None:
        (folder / "900-new" / "document.yaml").write_text("[}")
        write(folder, f"{{task: arc_eazy, metric: acc, line: 3, {NUMBER}}}")
        first, second = complaints(folder)
        assert first.startswith("900-new/document.yaml:1: is not YAML")
        assert second.startswith("900-new/model.yaml:14: values.0.task")

    def test_tasks_with_mistakes_hide_what_is_said_of_tasks_alone(self, folder: Path) -> None:
        (folder / "tasks.yaml").write_text("tasks: {}\n")
        write(
            folder,
            f"{{task: arc_eazy, metric: acc, line: 3, {NUMBER}}}",
            f"{{task: piqa, metric: acc, line: 3, {NUMBER.replace('50.0', '150.0')}}}",
        )
        assert [": ".join(line.split(": ")[:2]) for line in complaints(folder)] == [
            "900-new/model.yaml:15: values.1.printed",
            "tasks.yaml:1: tasks",
        ]

    def test_numbers_printed_twice_in_files_with_other_mistakes(self, folder: Path) -> None:
        write(folder, f"{{task: arc_easy, metric: acc, line: x, {NUMBER}}}", head=HEAD.replace("  model: hf\n", ""))
        write(folder, f"{{task: arc_easy, metric: acc, line: 3, {NUMBER}}}", head=HEAD + "more: x\n", name="other.yaml")
        assert complaints(folder)[-1].startswith(
            "900-new/other.yaml:15: values: is a second model-1b-arc_easy-acc-author, after 900-new/model.yaml:13;"
        )

    def test_jobs_that_clash_in_files_with_other_mistakes(self, folder: Path) -> None:
        row = f"{{task: arc_easy, metric: acc, line: 3, {NUMBER}}}"
        write(folder, row, "no", head=HEAD.replace("model: Owner/Model-1B\n", ""))
        head = HEAD.replace("batch_size: 8", "batch_size: 4")
        write(folder, f"{row[:-1]}, suffix: again}}", "no", head=head, name="other.yaml")
        assert any("900-new/other.yaml:4: job: gives a second job" in line for line in complaints(folder))

    def test_an_alias_hides_nothing_else_of_its_file(self, folder: Path) -> None:
        write(folder, f"{{task: *name, metric: acc, line: three, {NUMBER}}}", "no")
        assert [line.removeprefix("900-new/model.yaml:") for line in complaints(folder)] == [
            "14: an alias (*name) is not allowed; write the content again",
            "14: values.0.line: is 'three'; write a whole number",
            "15: values.1: is 'no'; write `key: value` lines",
        ]

    def test_of_a_key_that_stands_twice_the_one_that_counts_is_named(self, folder: Path) -> None:
        head = HEAD.replace("model: Owner/Model-1B\n", "model: Owner/Model-1B\nmodel: 1.50\n")
        write(folder, f"{{task: piqa, metric: acc, line: 3, {NUMBER}}}", head=head)
        first, second = complaints(folder)
        assert first.startswith("900-new/model.yaml:3: model: stands twice in one mapping")
        assert second.startswith("900-new/model.yaml:3: model: is a bare number")
        assert second.endswith('"1.50"')

    def test_by_file_and_line(self, folder: Path) -> None:
        write(folder, "no", f"{{task: arc_eazy, metric: acc, line: 3, {NUMBER}}}", "no", head=HEAD + "more: x\n")
        write(folder, "no", name="first.yaml")
        with pytest.raises(ExpectedError) as caught:
            load(folder)
        places = [(problem.file, problem.line) for problem in caught.value.problems]
        assert len(places) == 5
        assert places == sorted(places)

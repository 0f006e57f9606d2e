"""What is said about mistakes in a folder of expected values: where, what, and what to write instead."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from scanproof.numbers.expected.reader import ExpectedError, load
from tests.support.expected_folder import DOCUMENT, EVALUATION, Edit, complaints, edit, folder, set_count

__all__ = ["edit", "folder"]

MISTAKES = [
    (
        "metric: acc, line: 3",
        "metric: acc",
        14,
        "values.0.line",
        "is missing; write line: line of the document",
    ),
    ("metric: acc, line: 3, origin: author", "metric: acc, line: 3", 14, "values.0.origin", "is missing"),
    ('printed: "50.0", ', "", 14, "values.0.printed", "is missing; write printed: the digits as printed"),
    (
        "task: arc_easy",
        "task: arc_eazy",
        14,
        "values.0.task",
        "'arc_eazy' is not a task of tasks.yaml; did you mean arc_easy",
    ),
    (
        "metric: acc,",
        "metric: accuracy,",
        14,
        "values.0.metric",
        "is 'accuracy'; write one of acc, acc_norm, perplexity",
    ),
    (
        "metric: acc,",
        "metric: perplexity,",
        14,
        "values.0.metric",
        "arc_easy has no 'perplexity'; write one of acc, acc_norm",
    ),
    (
        'origin: author, printed: "50.0"',
        'origin: athor, printed: "50.0"',
        14,
        "values.0.origin",
        "is 'athor'; did you mean author",
    ),
    (
        '"50.0"',
        "50.0",
        14,
        "values.0.printed",
        'is a bare number, which loses digits and zeros; write it in quotes, "50.0"',
    ),
    ('"50.0"', '"50.0%"', 14, "values.0.printed", "is '50.0%'; write the digits alone"),
    ('"50.0"', '"150.0"', 14, "values.0.printed", "is 150.0, outside 0 to 100"),
    ('"0.45"', '"45.00"', 15, "values.1.printed", "is 45.00, outside 0 to 1"),
    ('"8.14"', '"0.14"', 16, "values.2.printed", "is 0.14; a perplexity is at least 1"),
    ("unit: raw", "unit: percent", 16, "values.2.unit", "is percent for perplexity; write raw"),
    ("unit: percent", "unit: raw", 14, "values.0.unit", "is raw for acc; write percent or fraction"),
    ('"0.01"', '"±0.01"', 15, "values.1.stderr", "is '±0.01'; write the digits alone"),
    ("line: 3", "line: 0", 14, "values.0.line", "is 0; write 1 or more"),
    (
        "  dtype: float32",
        "  dtype: fp32",
        7,
        "job.dtype",
        "is 'fp32'; write one of float16, bfloat16, float32, float64",
    ),
    ("  revision: main\n", "", 4, "job.revision", "is missing; write revision: branch, tag or commit"),
    ("owner/model-1b", "model-1b", 3, "hub_id", "is 'model-1b'; write owner/name"),
    ('document: "900"', 'document: "901"', 1, "document", 'is "901", but document.yaml beside it says "900"'),
    (
        'document: "900"',
        "document: 900",
        1,
        "document",
        'is a bare number, which loses digits and zeros; write it in quotes, "900"',
    ),
    (
        "  dtype: not printed",
        "  dtipe: not printed",
        12,
        "assumed.dtipe",
        "'dtipe' is not a field of a number; did you mean dtype",
    ),
    (
        "  dtype: not printed",
        '  "dtype:pica": no',
        12,
        "assumed.dtype:pica",
        "'pica' is neither a task nor an origin; did you mean piqa",
    ),
    ("line: 3", "line: 3, line: 4", 14, "line", "stands twice in one mapping"),
    ("model: hf", "model: hf\n  revision: v1", 7, "revision", "stands twice in one mapping"),
    ('document: "900"', 'document: "900', None, "", "is not YAML"),
    ("  dtype: not printed", "\tdtype: not printed", 12, "", "is not YAML: "),
    (
        "hub_id: owner/model-1b",
        "hub_id: !!python/name:os.system x",
        3,
        "",
        "tag tag:yaml.org,2002:python/name:os.system is not allowed",
    ),
    (
        "line: 4, origin: author",
        "line: 4, origin: embedded",
        15,
        "values.1.origin",
        "is 'embedded' in a document of suite gpu",
    ),
    (
        "line: 4",
        "line: 4, parts: [{task: piqa, metric: acc}]",
        15,
        "values.1.parts",
        "belong to task: average",
    ),
    ("task: arc_easy", "task: average", 14, "values.0.parts", "is missing; write the terms of the average"),
    (
        "task: arc_easy",
        "parts: [{task: pica, metric: acc}], task: average",
        14,
        "values.0.parts.0.task",
        "'pica' is not a task",
    ),
    (
        "task: piqa, metric: acc_norm",
        "task: arc_easy, metric: acc",
        15,
        "values",
        "is a second model-1b-arc_easy-acc-author, after 900-new/model.yaml:14",
    ),
]


class TestMistakes:
    @pytest.mark.parametrize(("old", "new", "line", "key", "said"), MISTAKES)
    def test_one_mistake_one_line(self, edit: Edit, old: str, new: str, line: int | None, key: str, said: str) -> None:
        (found,) = complaints(edit(old, new))
        if line is not None:
            place = f"900-new/model.yaml:{line}: "
            assert found.startswith(f"{place}{key}: {said}" if key else f"{place}{said}")
        else:
            assert re.match(rf"900-new/model\.yaml:\d+: {said}", found)

    def test_a_misspelt_key_is_unknown_and_missing(self, edit: Edit) -> None:
        assert complaints(edit("line: 3", "lines: 3")) == [
            "900-new/model.yaml:14: values.0.line: is missing; write line: "
            "line of the document on which the number stands, counted from 1",
            "900-new/model.yaml:14: values.0.lines: is not a key that is read here; did you mean line?",
        ]

    def test_all_mistakes_of_all_files_at_once(self, folder: Path) -> None:
        text = EVALUATION.replace("arc_easy", "arc_eazy").replace('"0.45"', '"45.00"').replace("  dtype", "  dtipe")
        (folder / "900-new" / "model.yaml").write_text(text)
        (folder / "900-new" / "other.yaml").write_text(
            EVALUATION.replace('"8.14"', "8.14").replace("line: 3", "line: x")
        )
        (folder / "900-new" / "document.yaml").write_text(DOCUMENT.replace("title: Title\n", ""))
        tasks = folder / "tasks.yaml"
        tasks.write_text(tasks.read_text().replace("documents: 1838", "documents: many"))
        places = {line.split(": ")[0] for line in complaints(folder)}
        assert {
            "900-new/document.yaml:1",
            "900-new/model.yaml:7",
            "900-new/other.yaml:14",
            "900-new/other.yaml:16",
        } < places
        assert any(place.startswith("tasks.yaml:") for place in places)

    def test_all_mistakes_of_one_file_at_once(self, folder: Path) -> None:
        text = (
            EVALUATION.replace("arc_easy", "arc_eazy")
            .replace('"0.45"', '"45.00"')
            .replace("unit: raw", "unit: percent")
        )
        (folder / "900-new" / "model.yaml").write_text(text)
        assert [line.split(": ")[1] for line in complaints(folder)] == [
            "values.0.task",
            "values.1.printed",
            "values.2.unit",
        ]

    def test_no_numbers(self, folder: Path) -> None:
        path = folder / "900-new" / "model.yaml"
        path.write_text(EVALUATION[: EVALUATION.index("values:")] + "values: []\n")
        (line,) = complaints(folder)
        assert line.startswith("900-new/model.yaml:13: values: ")

    def test_empty_file(self, folder: Path) -> None:
        (folder / "900-new" / "model.yaml").write_text("# nothing yet\n")
        assert complaints(folder) == ["900-new/model.yaml:1: is empty; write the keys that its schema asks for"]

    def test_list_in_place_of_a_mapping(self, folder: Path) -> None:
        (folder / "900-new" / "model.yaml").write_text("- 1\n- 2\n")
        (line,) = complaints(folder)
        assert line.startswith("900-new/model.yaml:1: is a list; write `key: value` lines")

    def test_not_utf_8(self, folder: Path) -> None:
        path = folder / "900-new" / "model.yaml"
        path.write_bytes(EVALUATION.encode().replace(b"not printed", b"not printed \xb1"))
        assert complaints(folder) == ["900-new/model.yaml:12: byte 0xb1 is not UTF-8; save the file as UTF-8"]

    def test_a_character_that_yaml_forbids(self, folder: Path) -> None:
        path = folder / "900-new" / "model.yaml"
        path.write_text(EVALUATION.replace("not printed", "not \x07 printed"))
        (line,) = complaints(folder)
        assert "is not YAML: " in line

    def test_an_alias_into_itself(self, folder: Path) -> None:
        path = folder / "900-new" / "model.yaml"
        path.write_text(EVALUATION.replace("assumed:\n", "assumed: &a\n  more: *a\n"))
        assert any("an alias (*name) is not allowed" in line for line in complaints(folder))

    @pytest.mark.parametrize("lost", ["task: arc_easy", "task: lambada_openai"])
    def test_a_number_that_is_lost_is_missed(self, folder: Path, lost: str) -> None:
        rows = EVALUATION.splitlines(keepends=True)
        (folder / "900-new" / "model.yaml").write_text("".join(row for row in rows if lost not in row))
        assert complaints(folder) == [
            "900-new/document.yaml:5: numbers: is 3, but the files of this document hold 2; "
            "restore what was lost, or write numbers: 2 where that was meant"
        ]

    def test_a_file_that_is_lost_is_missed(self, folder: Path) -> None:
        (folder / "900-new" / "model.yaml").unlink()
        assert complaints(folder) == [
            "900-new/document.yaml:5: numbers: is 3, but the files of this document hold 0; "
            "restore what was lost, or remove the document where that was meant"
        ]

    def test_a_number_that_came_is_counted(self, folder: Path) -> None:
        row = EVALUATION.splitlines()[-1].replace("line: 5", "line: 6, suffix: again")
        (folder / "900-new" / "model.yaml").write_text(f"{EVALUATION}{row}\n")
        assert complaints(folder) == [
            "900-new/document.yaml:5: numbers: is 3, but the files of this document hold 4; write numbers: 4"
        ]

    def test_a_document_without_the_count_is_told_the_count(self, folder: Path) -> None:
        (folder / "900-new" / "document.yaml").write_text(DOCUMENT.replace("numbers: 3\n", ""))
        assert complaints(folder) == [
            "900-new/document.yaml:1: numbers: is missing; write numbers: 3, as many as the files of this document hold"
        ]

    def test_what_cannot_be_counted_is_not(self, folder: Path) -> None:
        (folder / "900-new" / "model.yaml").write_text("[}")
        (line,) = complaints(folder)
        assert line.startswith("900-new/model.yaml:1: is not YAML")
        (folder / "900-new" / "document.yaml").write_text(DOCUMENT.replace("numbers: 3\n", ""))
        assert complaints(folder)[0] == (
            "900-new/document.yaml:1: numbers: is missing; write numbers: how many numbers the files of this document "
            "hold, one for each entry of `values`"
        )

    def test_jobs_that_clash(self, folder: Path) -> None:
        other = EVALUATION.replace("batch_size: 8", "batch_size: 4").replace("line: 3", "line: 3, suffix: again")
        other = other[: other.index("  - {task: piqa")]
        (folder / "900-new" / "other.yaml").write_text(other)
        set_count(folder, 4)
        (line,) = complaints(folder)
        assert line.startswith("900-new/other.yaml:4: job: gives a second job named 900-model-1b-0shot")
        assert "another batch_size than 900-new/model.yaml" in line

    def test_same_number_in_two_documents(self, folder: Path) -> None:
        shutil.copytree(folder / "900-new", folder / "901-copy")
        lines = complaints(folder)
        assert any(line.startswith('901-copy/document.yaml:1: number: is "900"') for line in lines)
        assert sum("is a second model-1b-" in line for line in lines) == 3

    def test_no_document_file(self, folder: Path) -> None:
        (folder / "900-new" / "document.yaml").unlink()
        assert complaints(folder) == ["900-new/document.yaml:1: cannot be read: No such file or directory"]

    @pytest.mark.parametrize("name", ["model", "other"])
    def test_answers_whose_numbers_are_gone(self, folder: Path, name: str) -> None:
        (folder / "900-new" / "model.yaml").rename(folder / "900-new" / "model.yaml.orig")
        (folder / "900-new" / "third.yaml").write_text(EVALUATION)
        (folder / "900-new" / f"{name}.answers.jsonl.gz").touch()
        said = f"these answers belong to the numbers of {name}.yaml, which is not there; restore it, or remove both"
        assert complaints(folder) == [f"900-new/{name}.answers.jsonl.gz:1: {said}"]

    @pytest.mark.parametrize(
        ("place", "said"),
        [
            ("900-new/other.YAML", "is not read; end its name in .yaml"),
            ("900-new/other.Yml", "is not read; end its name in .yaml"),
            ("900-new/other.yaml ", "is not read; end its name in .yaml"),
            ("model.yaml", "is not read here; put it into the folder with its document.yaml"),
            ("900-new/deep/model.yaml", "is not read here; put it into the folder with its document.yaml"),
            ("900-new/model.yml", "is not read; end its name in .yaml"),
        ],
    )
    def test_file_where_nothing_reads_it(self, folder: Path, place: str, said: str) -> None:
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(EVALUATION)
        assert complaints(folder) == [f"{place}:1: {said}"]

    def test_not_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ExpectedError, match="is not a folder; name the folder of expected values"):
            load(tmp_path / "nowhere")

    def test_empty_folder(self, tmp_path: Path) -> None:
        said = "\n".join(complaints(tmp_path))
        assert "holds no document; add a folder with a document.yaml" in said
        assert "tasks.yaml:1: cannot be read: No such file or directory" in said
        assert "tolerance.yaml:1: " in said

    def test_more_numbers_than_the_tolerance_is_made_for(self, folder: Path) -> None:
        path = folder / "tolerance.yaml"
        text = re.sub(r"(?m)^checks: \d+", "checks: 2", path.read_text())
        path.write_text(text)
        line = next(n for n, content in enumerate(text.splitlines(), 1) if content == "checks: 2")
        assert complaints(folder) == [
            f"tolerance.yaml:{line}: checks: is 2, but the folder holds 3 numbers; write at least 3"
        ]

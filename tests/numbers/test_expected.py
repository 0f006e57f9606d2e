"""The published numbers in `expected/`: all there, as printed, each with its source and its job."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from scanproof.numbers.expected.reader import Expected, load
from scanproof.numbers.expected.schema import SCHEMAS, schema_text, write_schemas
from scanproof.numbers.values import Part, PublishedValue

ROOT = Path(__file__).parents[2]
EXPECTED = ROOT / "expected"
DOCUMENTS = ROOT.parent / "shared" / "documents"
FIRST_FIVE = ("000", "001", "002", "003", "004")
"""What is counted below; another document changes none of it."""


@pytest.fixture(scope="module")
def whole() -> Expected:
    return load(EXPECTED)


def gpu(expected: Expected) -> list[PublishedValue]:
    numbers = {document.number for document in expected.documents if document.suite == "gpu"}
    return [value for value in expected.values if value.document in numbers]


def counted(expected: Expected) -> list[PublishedValue]:
    return [value for value in expected.values if value.document in FIRST_FIVE]


def inside(expected: Expected, name: str) -> list[str]:
    info = expected.tasks[name]
    return [*info.members, *info.tasks]


class TestPublished:
    def test_every_number_of_the_documents(self, whole: Expected) -> None:
        counts = Counter((value.document, value.origin) for value in counted(whole))
        assert counts.total() == 385
        assert counts == {
            ("000", "author"): 33,
            ("001", "reproduced"): 196,
            ("001", "paper"): 66,
            ("002", "author"): 42,
            ("003", "author"): 48,
        }

    def test_every_standard_error(self, whole: Expected) -> None:
        with_stderr = [value for value in counted(whole) if value.stderr is not None]
        assert len(with_stderr) == 196
        assert {(value.document, value.origin) for value in with_stderr} == {("001", "reproduced")}

    def test_document_without_numbers_is_kept(self, whole: Expected) -> None:
        assert {document.number for document in whole.documents} >= set(FIRST_FIVE)

    @pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="the documents are not beside this checkout")
    def test_each_number_stands_on_its_line(self, whole: Expected) -> None:
        texts = {document.number: document.file for document in whole.documents}
        lines = {
            number: (DOCUMENTS / name).read_text(encoding="utf-8").split("\n") for number, name in texts.items() if name
        }
        for value in counted(whole):
            numbers = Counter(
                re.findall(r"(?<![\w.])[0-9]+(?:\.[0-9]+)?(?![\w.])", lines[value.document][value.line - 1])
            )
            assert numbers[value.printed], value
            assert value.stderr is None or numbers[value.stderr], value

    @pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="the documents are not beside this checkout")
    def test_no_number_of_a_result_table_is_left_out(self, whole: Expected) -> None:
        lines = (DOCUMENTS / "001_4170c982ba6af610.txt").read_text(encoding="utf-8").split("\n")
        printed = {
            n for n, line in enumerate(lines, 1) if line.startswith("|") and re.search(r"\| *0\.\d{4}|\d\.\d{4} ", line)
        }
        assert {value.line for value in gpu(whole) if value.document == "001"} == printed

    def test_each_number_knows_its_place_in_the_file(self, whole: Expected) -> None:
        for value in whole.values:
            line = (EXPECTED / value.file).read_text(encoding="utf-8").splitlines()[value.file_line - 1]
            assert line.lstrip().startswith("- "), value
            assert f"task: {value.task}" in line, value

    def test_ids_are_unique_and_readable(self, whole: Expected) -> None:
        ids = [value.id for value in whole.values]
        assert len(set(ids)) == len(ids)
        assert "mamba-130m-lambada_openai-acc-paper" in ids
        assert all(re.fullmatch(r"[\w.-]+", name) for name in ids)

    def test_a_few_dozen_jobs_and_their_numbers_stand_together(self, whole: Expected) -> None:
        jobs = [value.job for value in gpu(whole)]
        changes = sum(first != second for first, second in pairwise(jobs))
        assert changes + 1 == len(set(jobs)) == len({job.name for job in jobs})
        assert 24 <= len({value.job for value in counted(whole)}) <= 48

    def test_a_job_runs_what_its_numbers_need(self, whole: Expected) -> None:
        for value in whole.values:
            wanted = {part.task for part in value.parts} if value.task == "average" else {value.task}
            run = {task for name in value.job.tasks for task in (name, *inside(whole, name))}
            assert wanted <= run, value

    def test_paper_and_reproduction_share_a_run(self, whole: Expected) -> None:
        by_id = {value.id: value for value in whole.values}
        paper = by_id["mamba-130m-lambada_openai-perplexity-paper"]
        reproduced = by_id["mamba-130m-lambada_openai-perplexity-reproduced"]
        assert paper.job == reproduced.job
        assert paper.job.name == "001-mamba-130m-0shot"
        assert (paper.printed, paper.batch_size_printed) == ("16.07", None)
        assert (reproduced.printed, reproduced.stderr, reproduced.batch_size_printed) == (
            "16.0450",
            "0.5092",
            256,
        )
        assert "batch_size" in dict(paper.assumed)
        assert "batch_size" not in dict(reproduced.assumed)

    def test_derived_numbers_know_their_parts(self, whole: Expected) -> None:
        derived = {value.id: value for value in whole.values if value.parts}
        averages = [value for value in counted(whole) if value.task == "average"]
        assert len(averages) == 3
        assert all(len(value.parts) == 10 and not value.pooled for value in averages)
        mmlu = derived["mamba-2.8b-slimpj-mmlu-acc-reproduced"]
        assert mmlu.pooled
        assert len(mmlu.parts) == 57
        assert sum(part.documents or 0 for part in mmlu.parts) == mmlu.documents == 14042
        assert mmlu.job.tasks == ("mmlu",)
        assert Part(task="mmlu_anatomy", metric="acc", documents=135) in mmlu.parts

    def test_a_row_printed_twice_is_two_numbers(self, whole: Expected) -> None:
        rows = [v for v in whole.values if v.task == "mmlu_stem" and v.document == "001"]
        assert [(v.line, v.suffix) for v in rows] == [(214, ""), (241, "groups")]

    def test_what_the_documents_leave_open_has_a_reason(self, whole: Expected) -> None:
        for value in gpu(whole):
            reasons = dict(value.assumed)
            assert value.num_fewshot_printed == value.job.num_fewshot or "num_fewshot" in reasons, value
            assert value.batch_size_printed == value.job.batch_size or "batch_size" in reasons, value
            assert "dtype" in reasons, value
            two_metrics = len(whole.tasks[value.task].metrics) > 1 if value.task in whole.tasks else False
            assert value.document == "001" or not two_metrics or "metric" in reasons, value

    def test_the_environment_that_was_printed(self, whole: Expected) -> None:
        document = next(document for document in whole.documents if document.number == "001")
        environment = document.environment
        assert (len(environment["conda"]), len(environment["packages"]), len(environment["wheels"])) == (
            32,
            103,
            3,
        )
        assert environment["python"] == "3.10.19"
        assert environment["packages"]["torch"] == "2.3.1+cu118"
        assert document.harness["version"] == environment["packages"]["lm-eval"]
        assert document.hardware["gpu"] == "NVIDIA GeForce RTX 4090"

    def test_tasks(self, whole: Expected) -> None:
        tasks = whole.tasks
        subjects = tasks["mmlu"].tasks
        assert len(subjects) == len(set(subjects)) == 57
        assert {name: tasks[name].documents for name in tasks["mmlu"].members} == {
            "mmlu_stem": 3153,
            "mmlu_other": 3107,
            "mmlu_social_sciences": 3077,
            "mmlu_humanities": 4705,
        }
        assert tasks["mmlu"].documents == 14042
        assert (tasks["winogrande"].documents, tasks["winogrande"].metrics) == (1267, ("acc",))
        assert not tasks["truthfulqa_mc2"].binary

    def test_schemas_beside_the_data_are_current(self, tmp_path: Path) -> None:
        write_schemas(tmp_path)
        for name, _ in SCHEMAS:
            assert (EXPECTED / "schema" / name).read_text() == (tmp_path / name).read_text(), name

    def test_schemas_describe_every_key(self) -> None:
        for _, form in SCHEMAS:
            schema = json.loads(schema_text(form))
            for part in (schema, *schema.get("$defs", {}).values()):
                assert all("description" in entry for entry in part["properties"].values()), part["title"]

    def test_every_file_names_its_schema(self) -> None:
        for path in EXPECTED.glob("*/*.yaml"):
            first = path.read_text(encoding="utf-8").splitlines()[0]
            name = first.removeprefix("# yaml-language-server: $schema=")
            assert (path.parent / name).is_file(), path


def test_a_task_that_is_not_binary_is_known_by_its_row(whole: Expected) -> None:
    """Its numbers are no counts of documents: the tolerance and the audit ask the value, not a list of names."""
    for value in whole.values:
        info = whole.tasks.get(value.task)
        assert value.binary == (info is None or info.binary)
    assert {value.task for value in whole.values if not value.binary} == {"truthfulqa_mc2"}

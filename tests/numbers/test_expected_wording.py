"""What is said of each kind of mistake in the form of a file, in plain English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from scanproof.numbers.expected.constants import ToleranceForm
from scanproof.numbers.expected.schema import SCHEMAS
from tests.support.expected_folder import DOCUMENT, EVALUATION, Edit, complaints, edit, folder

__all__ = ["edit", "folder"]

JOB = "  batch_size: 8"
VALUE = "line: 3"
SAID = [
    # string_type, string_too_short, string_pattern_mismatch
    ("model: Owner/Model-1B", "model: ''", "model: is empty; write the model as the document prints it"),
    ("model: Owner/Model-1B", "model:", "model: is empty; write the model as the document prints it"),
    ("model: Owner/Model-1B", "model: [a]", "model: is a list; write the model as the document prints it"),
    ("model: Owner/Model-1B", "model: {a: b}", "model: is a mapping; write the model as"),
    (
        "model: Owner/Model-1B",
        "model: true",
        'model: is true without quotes; write text, in quotes if it is meant: "tr',
    ),
    ("dtype: not printed", "dtype: ''", "assumed.dtype: is empty; write a reason"),
    ("dtype: not printed", "dtype:", "assumed.dtype: is empty; write a reason"),
    (VALUE, f"{VALUE}, known_discrepancy: ''", "values.0.known_discrepancy: is empty; write `key: value` lines"),
    (VALUE, f"{VALUE}, known_discrepancy: a misprint", "values.0.known_discrepancy: is 'a misprint'; write `key: val"),
    (
        VALUE,
        f"{VALUE}, known_discrepancy: {{source: x, reason: x}}",
        "values.0.known_discrepancy.comes_out: is missing; write comes_out: the number that comes out, in quotes",
    ),
    *(
        (
            VALUE,
            f"{VALUE}, known_discrepancy: {{comes_out: '{written}', source: x, reason: x}}",
            f"values.0.known_discrepancy.comes_out: is {said}",
        )
        for written, said in (
            ("about 51", "'about 51'; write the digits alone"),
            ("51", "51, with fewer digits than 50.0; write at least as many"),
            ("100.1", "100.1, no possible number; write it in the unit of printed"),
        )
    ),
    (VALUE, f"{VALUE}, widened: {{by: 1, reason: ''}}", "values.0.widened.reason: is empty; write why"),
    (VALUE, f"{VALUE}, widened: {{by: 1, reason: ' '}}", "values.0.widened.reason: is blank; write why"),
    (VALUE, f"{VALUE}, not_comparable: '  '", "values.0.not_comparable: is blank; write why no measurement"),
    (
        VALUE,
        f"{VALUE}, known_discrepancy: {{comes_out: '51.0', source: x, reason: ' '}}",
        "values.0.known_discrepancy.reason: is blank; write why the printed number cannot come out",
    ),
    ("dtype: not printed", "dtype: ' '", "assumed.dtype: is blank; write a reason"),
    ("dtype: not printed", "' ': no", "assumed. : is an empty key; write the name that the text belongs to"),
    (JOB, f"{JOB}\n  trust_remote_code: ''", "job.trust_remote_code: is empty; write why code that comes with"),
    (JOB, f"{JOB}\n  kernels: ['']", "job.kernels.0: is empty; write text"),
    ("dtype: not printed", "'': no", "assumed.: is an empty key; write the name that the text belongs to"),
    ("revision: main", "revision: ''", "job.revision: is empty; write a name of letters, digits, ., _ and - alone"),
    ("revision: main", "revision: a b", "job.revision: is 'a b'; write a name of letters, digits, ., _ and - alone"),
    ("hub_id: owner/model-1b", "hub_id:", "hub_id: is empty; write the checkpoint, as the hub spells it"),
    ('"50.0"', "''", "values.0.printed: is empty; write the digits alone"),
    (JOB, f"{JOB}\n  model_args: {{a b: c}}", "job.model_args.a b: is the key 'a b'; write a name of letters"),
    # int_type, greater_than_equal
    (VALUE, "line: ", "values.0.line: is empty; write a whole number"),
    (VALUE, "line: '3'", "values.0.line: is text, '3'; write the number without quotes"),
    (VALUE, "line: 3.0", "values.0.line: is 3.0; write a whole number"),
    (VALUE, "line: true", "values.0.line: is true; write a whole number"),
    (VALUE, "line: -1", "values.0.line: is -1; write 1 or more"),
    ("num_fewshot: 0\n", "num_fewshot: -1\n", "job.num_fewshot: is -1; write 0 or more"),
    # float_type, greater_than
    (VALUE, f"{VALUE}, widened: {{by: '1.5', reason: x}}", "values.0.widened.by: is text, '1.5'; write the number wi"),
    (VALUE, f"{VALUE}, widened: {{by: x, reason: x}}", "values.0.widened.by: is 'x'; write a number"),
    (VALUE, f"{VALUE}, widened: {{by: 0, reason: x}}", "values.0.widened.by: is 0; write a number above 0"),
    # literal_error
    ("unit: raw", "unit: ''", "values.2.unit: is empty; write one of percent, fraction, raw"),
    ("unit: raw", "unit: [raw]", "values.2.unit: is a list; "),
    # list_type, too_short, dict_type, model_type
    (VALUE, f"{VALUE}, parts: piqa", "values.0.parts: is 'piqa'; write a list, [one, two]"),
    (JOB, f"{JOB}\n  kernels: {{a: b}}", "job.kernels: is a mapping; write a list, [one, two]"),
    ("assumed:\n  dtype: not printed", "assumed: [dtype]", "assumed: is a list; write `key: value` lines"),
    ("assumed:\n  dtype: not printed", "assumed:", "assumed: is empty; write `key: value` lines"),
    (VALUE, f"{VALUE}, widened: 3", "values.0.widened: is 3; write `key: value` lines"),
    # the union of scalars
    (JOB, f"{JOB}\n  model_args: {{a: }}", "job.model_args.a: is empty; write text, a number, true or false"),
    (JOB, f"{JOB}\n  model_args: {{a: [1]}}", "job.model_args.a: is a list; write text, a number, true or false"),
    # texts that would fill the screen
    ("unit: raw", f"unit: {'x' * 400}", f"values.2.unit: is '{'x' * 40}...{'x' * 10}'; write one of percent"),
]


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every node of pydantic's core schema that has a type."""
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
        for key, inner in schema.items():
            if key not in ("metadata", "serialization"):
                yield from nodes(inner)
    elif isinstance(schema, (list, tuple)):
        for inner in schema:
            yield from nodes(inner)


class TestWording:
    @pytest.mark.parametrize(("old", "new", "said"), SAID)
    def test_of_an_evaluation(self, edit: Edit, old: str, new: str, said: str) -> None:
        (line,) = complaints(edit(old, new))
        assert re.sub(r"^900-new/model\.yaml:\d+: ", "", line).startswith(said)

    @pytest.mark.parametrize(
        ("added", "said"),
        [
            (
                "findings: [{check: pair, values: [], reason: x}]",
                "findings.0.values: is empty; write at least one entry",
            ),
            ("findings: none", "findings: is 'none'; write a list, [one, two]"),
            ("urls: [3]", 'urls.0: is a bare number, which loses digits and zeros; write it in quotes, "3"'),
            ("environment: {conda: {python: }}", "environment.conda.python: is empty; write text"),
            ("hardware: {'': x}", "hardware.: is an empty key; write the name that the text belongs to"),
        ],
    )
    def test_of_a_document(self, folder: Path, added: str, said: str) -> None:
        (folder / "900-new" / "document.yaml").write_text(DOCUMENT + added + "\n")
        (line,) = complaints(folder)
        assert line == f"900-new/document.yaml:11: {said}"

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("binary: false", "binary: 'no'", "is 'no'; write true or false"),
            ("binary: false", "binary: ", "is empty; write true or false"),
        ],
    )
    def test_of_tasks(self, folder: Path, old: str, new: str, said: str) -> None:
        path = folder / "tasks.yaml"
        path.write_text(path.read_text().replace(old, new, 1))
        (line,) = complaints(folder)
        assert line.endswith(said)

    @pytest.mark.parametrize(
        ("task", "because"),
        [
            ("piqa", "choices, one of which is chosen"),
            ("hellaswag", "choices, one of which is chosen"),
            ("lambada_openai", "a perplexity, whose acc is whether the last word is found"),
        ],
    )
    def test_of_a_task_that_is_right_or_wrong(self, folder: Path, task: str, because: str) -> None:
        """As if a document scored between 0 and 1, its number would be allowed several times as much."""
        path = folder / "tasks.yaml"
        path.write_text(re.sub(rf"(?m)^(  {task}: {{)", r"\1binary: false, ", path.read_text()))
        (line,) = complaints(folder)
        assert line.endswith(
            f"binary: is false, but {task} has {because}: a document is right or wrong; remove the key"
        )

    def test_no_form_can_raise_anything_else(self) -> None:
        """A type or a constraint that is new here needs a line of `SAID`, and words in numbers/expected/messages.py."""
        forms: list[type[BaseModel]] = [*(form for _, form in SCHEMAS), ToleranceForm]
        found = [node for form in forms for node in nodes(form.__pydantic_core_schema__)]
        structure = {"model", "model-fields", "model-field", "default", "nullable", "definitions", "definition-ref"}
        assert {node["type"] for node in found} - structure == {
            *("str", "int", "float", "bool", "literal", "list", "dict", "union", "any")
        }
        limits = {"min_length", "max_length", "pattern", "ge", "gt", "le", "lt", "multiple_of", "allow_inf_nan"}
        assert {(node["type"], key) for node in found for key in limits & set(node)} == {
            ("str", "min_length"),
            ("str", "pattern"),
            ("int", "ge"),
            ("int", "le"),
            ("float", "ge"),
            ("float", "gt"),
            ("float", "lt"),
            ("float", "allow_inf_nan"),
            ("list", "min_length"),
            ("dict", "min_length"),
        }

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("checks", "1000001", "checks: is 1000001; write 1000000 or less"),
            ("false_alarm_rate", "1.0e-300", "false_alarm_rate: is 1e-300; write 1e-06 or more"),
        ],
    )
    def test_a_rate_that_no_quantile_can_be_computed_for(self, folder: Path, key: str, value: str, said: str) -> None:
        path = folder / "tolerance.yaml"
        path.write_text(re.sub(rf"(?m)^{key}: .*", f"{key}: {value}", path.read_text()))
        (line,) = complaints(folder)
        assert line.endswith(said)

    def test_an_empty_list_of_tasks(self, folder: Path) -> None:
        (folder / "tasks.yaml").write_text("tasks: {}\n")
        assert complaints(folder) == ["tasks.yaml:1: tasks: is empty; write at least one entry"]

    def test_null_is_absent_where_a_key_may_be(self, edit: Edit) -> None:
        path = edit(VALUE, f"{VALUE}, known_discrepancy: , stderr: null")
        assert EVALUATION.count("stderr") == 1
        text = (path / "900-new" / "model.yaml").read_text().replace("line: 4", "lime: 4")
        (path / "900-new" / "model.yaml").write_text(text)
        assert not [line for line in complaints(path) if "discrepancy" in line or "stderr" in line]

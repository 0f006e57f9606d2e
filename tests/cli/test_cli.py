"""The command line, as a user calls it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from scanproof.cli import listing
from scanproof.cli.app import COMMANDS, app
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import joint_print, tolerance
from tests.support.command_line import scanproof

ROOT = Path(__file__).parents[2]


def rows(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(scanproof("list", "--format", "json", *arguments).stdout)
    return found


def test_list_prints_every_published_number_with_its_keys(numbers: list[PublishedValue]) -> None:
    found = rows()
    keys = (
        "document line model hub_id task metric num_fewshot origin printed unit stderr batch_size allowed detectable n"
    )
    assert [(row["id"], row["document"], row["unit"], row["stderr"]) for row in found] == [
        (value.id, value.document, value.unit, value.stderr) for value in numbers
    ]
    for row in found:
        assert {*keys.split(), "status", "reason"} <= set(row)
        half_unit = 0.5 * 10 ** -len(row["printed"].partition(".")[2])
        assert half_unit < row["allowed"] < row["detectable"], "allowed is in the unit of print"


def test_list_selects_documents_and_models(numbers: list[PublishedValue]) -> None:
    assert {row["document"] for row in rows("--document", "003")} == {"003"}
    two = [value.id for value in numbers if value.document in ("000", "002")]
    assert [row["id"] for row in rows("--document", "000", "--document", "002")] == two
    pythia = [value.id for value in numbers if value.hub_id.startswith("EleutherAI/pythia")]
    assert [row["id"] for row in rows("--model", "PYTHIA")] == pythia != []
    assert all(row["document"] == "embedded" for row in rows("--document", "embedded"))


def test_list_as_csv_and_table_hold_the_same_numbers() -> None:
    in_csv = list(csv.DictReader(io.StringIO(scanproof("list", "--format", "csv", "--document", "002").stdout)))
    table = scanproof("list", "--document", "002").stdout.splitlines()
    assert len(in_csv) > 0
    for row, line in zip(in_csv, table[1 : 1 + len(in_csv)], strict=True):
        assert line.split()[0] == row["id"]


@pytest.mark.parametrize("command", ["list", "plan"])
def test_the_common_shift_that_is_caught_is_said_for_each_model(
    command: str, numbers: list[PublishedValue], expected: Expected
) -> None:
    """In `list` and in `plan`: a line for each model with several numbers, and which shift of one is caught."""
    models = joint_print.group_printed([value for value in numbers if value.document == "001"], expected.constants)
    assert models
    shown = scanproof(command, "--document", "001").stdout.splitlines()
    together = [line for line in shown if "a common shift of" in line]
    assert sorted(line.partition(": a common shift of ")[0] for line in together) == sorted(models)
    for line in together:
        shift, alone = (float(line.partition(before)[2].split()[0]) for before in ("shift of ", "them alone "))
        assert 0 < shift < alone, "together they show less than the best of them alone does"


def test_numbers_that_cannot_fail_in_a_direction_say_so_where_they_are_listed(expected: Expected) -> None:
    blind = {
        value.id: sides
        for value in expected.values
        if value.document == "embedded"
        and (sides := listing.describe_blind_sides(value, tolerance.allowance(value, expected.constants)))
    }
    assert blind
    listed = rows("--document", "embedded")
    assert {row["id"]: row["cannot_be_too"] for row in listed if row["cannot_be_too"]} == blind
    header, *table = scanproof("list", "--document", "embedded").stdout.splitlines()
    assert "cannot_be_too" in header
    by_id = {line.split()[0]: line for line in table if line}
    for name, sides in blind.items():
        assert sides in by_id[name].split("  "), by_id[name]


def test_list_shows_each_job_once_with_its_numbers(numbers: list[PublishedValue]) -> None:
    jobs = json.loads(scanproof("list", "--jobs", "--format", "json").stdout)
    assert [(job["job"], job["values"]) for job in jobs] == list(Counter(value.job.name for value in numbers).items())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--document", "999"], "--document: there is no document '999'; there are 000, 001, 002, 003, 004"),
        (["list", "--model", "gpt-9"], "--model: no model here holds 'gpt-9'"),
        (["list", "--run", "nothing", "--store", "nowhere"], "there is no run 'nothing'"),
        (["list", "--expected", "nowhere"], "--expected: there is no folder nowhere"),
    ],
)
def test_mistakes_are_answered_with_what_to_write_instead(arguments: list[str], said: str) -> None:
    assert said in scanproof(*arguments, expect=2).stderr


def test_a_broken_expected_file_is_answered_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "tolerance.yaml").write_text("checks: [\n")
    error = scanproof("list", "--expected", str(tmp_path), expect=2).stderr
    assert "tolerance.yaml:" in error
    assert "tasks.yaml:" in error


def test_audit_has_nothing_that_is_not_explained() -> None:
    result = scanproof("audit", "--format", "json")
    findings = json.loads(result.stdout)
    assert findings
    assert all(finding["explained"] for finding in findings)
    assert "0 not explained" in result.stderr


def test_schema_writes_what_is_committed(tmp_path: Path) -> None:
    scanproof("schema", str(tmp_path))
    committed = ROOT / "expected" / "schema"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in committed.iterdir()
    }


def test_the_schema_of_a_report_is_what_is_committed(tmp_path: Path) -> None:
    scanproof("schema", str(tmp_path), "--report")
    name = "report.schema.json"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and subcommand that the program has, by what one types."""
    if path:
        yield " ".join(path), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


EVERY = dict(commands(typer.main.get_command(app)))
PASSED_ON = {row.name for row in COMMANDS if row.passes_on}


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_help_with_an_example_and_prints_json(name: str) -> None:
    command = EVERY[name]
    assert command.help
    assert (command.epilog or "").startswith(f"Example: scanproof {name} ")
    if name not in PASSED_ON:
        (option,) = (each for each in command.params if "--format" in each.opts)
        assert "json" in {style.value for style in type(option.default)}


def test_the_example_is_part_of_what_help_prints() -> None:
    assert "Example: scanproof history trend" in scanproof("history", "trend", "--help").stdout


def test_what_a_command_wrote_is_json_too(tmp_path: Path) -> None:
    found = json.loads(scanproof("schema", str(tmp_path), "--report", "--format", "json").stdout)
    assert found == [{"file": str(tmp_path / "report.schema.json")}]
    constants = json.loads(scanproof("calibrate", "--format", "json").stdout)
    assert {"entry": "flip_rate.same.value", "value": 0.022} in constants
    assert json.loads(scanproof("calibrate", "--check", "--format", "json").stdout) == []

"""The command line, as a user calls it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def scanproof(*arguments: str, cwd: Path = ROOT, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scanproof.cli", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == expect, result.stderr
    assert "Traceback" not in result.stderr
    return result


def rows(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(scanproof("list", "--format", "json", *arguments).stdout)
    return found


def test_list_prints_every_published_number_with_its_keys() -> None:
    found = rows()
    keys = (
        "document line model hub_id task metric num_fewshot origin printed unit stderr batch_size allowed detectable n"
    )
    assert len(found) == 385
    assert sum(row["stderr"] is not None for row in found) == 196
    for row in found:
        assert {*keys.split(), "status", "reason"} <= set(row)
        half_unit = 0.5 * 10 ** -len(row["printed"].partition(".")[2])
        assert half_unit < row["allowed"] < row["detectable"], "allowed is in the unit of print"
    assert {row["document"] for row in found} == {"000", "001", "002", "003"}
    assert {row["unit"] for row in found} == {"percent", "fraction", "raw"}


def test_list_selects_documents_and_models() -> None:
    assert {row["document"] for row in rows("--document", "003")} == {"003"}
    assert len(rows("--document", "000", "--document", "002")) == 33 + 42
    assert {row["hub_id"] for row in rows("--model", "PYTHIA")} == {"EleutherAI/pythia-160m"}
    assert all(row["document"] == "embedded" for row in rows("--document", "embedded"))


def test_list_as_csv_and_table_hold_the_same_numbers() -> None:
    found = list(csv.DictReader(io.StringIO(scanproof("list", "--format", "csv", "--document", "002").stdout)))
    table = scanproof("list", "--document", "002").stdout.splitlines()
    assert len(found) == len(table) - 1 == 42
    for row, line in zip(found, table[1:], strict=True):
        assert line.split()[0] == row["id"]


def test_list_shows_a_few_dozen_jobs() -> None:
    jobs = json.loads(scanproof("list", "--jobs", "--format", "json").stdout)
    assert 24 <= len(jobs) <= 48
    assert sum(job["values"] for job in jobs) == 385
    assert len({job["job"] for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--document", "009"], "--document: there is no document '009'; there are 000, 001, 002, 003, 004"),
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


@pytest.mark.parametrize("command", ["list", "audit", "calibrate", "prefetch", "schema"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    text = scanproof(command, "--help").stdout
    assert f"Example: scanproof {command}" in text

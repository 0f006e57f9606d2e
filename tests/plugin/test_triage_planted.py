"""Triage is shown to work by planting: its first finding is the fault that was planted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.planted import FAULTS, ROOT, Fault, clean_copy

TABLE = ROOT / "docs" / "triage.md"
HEAD = "| planted | first finding |\n|---|---|\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a clean run."""
    store = tmp_path_factory.mktemp("good") / "store"
    result = clean_copy(tmp_path_factory.mktemp("clean")).evaluate(store)
    assert result.returncode == pytest.ExitCode.OK, result.stdout
    return store


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[dict[str, str]]:
    """What triage said of each fault; printed when all are done."""
    rows: dict[str, str] = {}
    yield rows
    text = HEAD + "".join(f"| {fault.name} | {rows[fault.name]} |\n" for fault in FAULTS if fault.name in rows)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{text}")
    if os.environ.get("SCANPROOF_WRITE_TRIAGE_TABLE"):
        TABLE.write_text(with_rows(TABLE.read_text(), rows))


def with_rows(text: str, rows: dict[str, str]) -> str:
    """The document with the rows of the faults that ran, and those that it has of the others."""
    before, _, after = text.partition(HEAD)
    old, _, rest = after.partition("\n\n")
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines()}
    kept |= {name: f"| {name} | {said} |" for name, said in rows.items()}
    lines = [kept[fault.name] for fault in FAULTS if fault.name in kept]
    return before + HEAD + "\n".join(lines) + "\n" + (f"\n{rest}" if rest else "")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_first_finding_is_what_was_planted(
    request: pytest.FixtureRequest, tmp_path: Path, good: Path, table: dict[str, str], fault: Fault
) -> None:
    if fault.forked:
        request.getfixturevalue("warm_copies")
    store = tmp_path / "store"
    if fault.good:
        # A copy: what one fault leaves in the store is not for the next one to find.
        shutil.copytree(good, store)
    copy = clean_copy(tmp_path)
    fault.plant(copy)
    result = copy.evaluate(store, *fault.options)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    looked = copy.triage(store)
    assert looked.returncode == 0, looked.stderr
    first = json.loads(looked.stdout)[0]
    table[fault.name] = f"{first['kind']}: {first['title']}"
    assert (first["kind"], first["state"]) == (fault.kind, "cause"), looked.stdout
    assert fault.said in first["title"]
    assert first["evidence"], "a finding has evidence"
    assert f"triage      {first['kind']}: {first['title']}" in result.stdout, "the failing test says the same"
    if fault.kind == "numerics":
        assert first["next"].endswith(f"--substitute --store {store}")
    if fault.substituted:
        again = copy.triage(store, "--substitute")
        assert again.returncode == 0, again.stderr
        first = json.loads(again.stdout)[0]
        table[fault.name] += f"; with --substitute {first['kind']}: {first['title']}"
        assert (first["kind"], first["state"]) == ("kernel", "cause"), again.stdout
        assert first["title"].startswith(f"{fault.substituted}: ")
        assert any("leaves the float64 run first in layer 0" in line for line in first["evidence"])
    if not os.environ.get("SCANPROOF_WRITE_TRIAGE_TABLE"):
        assert f"| {fault.name} | {table[fault.name]} |" in TABLE.read_text(), "docs/triage.md is out of date"

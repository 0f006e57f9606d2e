"""Arguments that no file can have, and names that no terminal shows: said in one line, with exit code 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scanproof.cli.app import run
from scanproof.cli.prefetch import FetchLine
from scanproof.evaluation.hub.prefetch import DownloadProgress
from tests.support.mutations import make_seed, odd_value

LONG = "x" * 5_000
NO_FILE = "y" * 300
"""Longer than the name of a file may be, and no longer than an argument."""
ODD = "a\x1b[31mb\x07"
COMMANDS = (
    ("list", "--expected", "{}"), ("prune-plan", "--zigzag", "{}", "--layers", "3"), ("history", "--history", "{}"),
    ("history", "show", "{}"), ("baseline", "--history", "{}"), ("schema", "nothing/{}"), ("audit", "--expected", "{}"),
    ("prune-plan", "--zigzag", "{}", "--layers", "{}"), ("{}",), ("list", "--{}"),
    ("convert", "{}"), ("bisect", "--good", "{}", "--bad", "{}", "--number", "{}"), ("list", "--format", "{}"),
    ("report", "--since", "{}", "--store", "{}"), ("verify", "{}", "--after", "{}"),
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--expected", "{}"],
        ["record", "{}"],
        ["record", "latest", "--store", "{}"],
        ["compare", "{}", "latest"],
        ["compare", "latest", "latest", "--history", "{}"],
        ["triage", "{}"],
        ["triage", "latest", "--store", "{}"],
        ["verify", "{}"],
        ["verify", "latest", "--store", "{}"],
        ["verify", "latest", "--after", "{}"],
        ["report", "{}"],
        ["report", "latest", "--store", "{}"],
        ["report", "latest", "--history", "{}"],
        ["history", "--history", "{}"],
        ["history", "show", "{}"],
        ["history", "trend", "{}"],
        ["baseline", "--history", "{}"],
        ["prune-plan", "--zigzag", "{}", "--layers", "3"],
        ["bisect", "--good", "{}", "--bad", "{}", "--number", "n"],
        ["schema", "{}/{}"],
        ["audit", "--expected", "{}"],
        ["plan", "--gpu", "{}"],
        ["exam", "--faults", "{}"],
        ["surprise-{}"],
        ["list", "--surprise-{}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "value", [LONG, NO_FILE, ODD, "a\0b", "\u202eb"], ids=["long", "no file", "odd", "nul", "bidi"]
)
def test_it_is_refused_in_a_short_visible_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    value: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run([argument.replace("{}", value) for argument in arguments])
    told = capsys.readouterr()
    assert code == 2
    assert told.err
    assert not {"\x1b", "\x07", "\0", "\u202e"} & set(told.out + told.err)
    assert max(map(len, told.err.splitlines())) < 3_000
    assert "Traceback" not in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a\u00a0b", "a\u3000b", "a\u200db", "a\tb"], ids=["no-break", "wide", "joiner", "tab"]
)
def test_a_name_with_an_odd_blank_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["schema", name]) == 0
    assert len(list((tmp_path / name).iterdir())) == 3


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_the_hub_are_printed_so_that_they_can_be_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    FetchLine()(DownloadProgress(repository="owner/x", file=f"{ODD}\u202e", done=1, total=2))
    told = capsys.readouterr().err
    assert r"owner/x a\u001b[31mb\u0007\u202e" in told
    assert not {"\x1b", "\x07", "\u202e"} & set(told)


def test_a_name_that_is_no_utf_8_is_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"schema\xff")
    done = subprocess.run(
        [sys.executable, "-m", "scanproof", "schema", name], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"schema\\udcff/document.schema.json" in done.stdout
    assert len(list((tmp_path / name).iterdir())) == 3


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_no_escape_in_a_run_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], style: str
) -> None:
    from scanproof.cli.common import Format, print_rows

    print_rows([{"message": f"{ODD}\u202e\x9b31m", "number": ["\x1b]0;x"]}], ("message", "number"), Format(style))
    told = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(told)
    assert r"a\u001b[31mb\u0007\u202e\u009b31m" in told


def test_an_error_of_the_machine_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").write_text("a file in place of a folder")
    assert run(["schema", "store/below"]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_a_thousand_values_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "nothing").write_text("a file, so that nothing is written below it")
    refused = 0
    for number in range(1_000):
        seed = make_seed(f"command {number}")
        arguments = [argument.replace("{}", odd_value(seed)) for argument in seed.choice(COMMANDS)]
        code = run(arguments)
        told = capsys.readouterr()
        assert code in (0, 2), arguments
        refused += code == 2
        assert code == 0 or told.err, arguments
        assert "Traceback" not in told.err
        assert not {"\x1b", "\x07", "\0", "\u202e"} & set(told.out + told.err), arguments
        assert code == 0 or max(map(len, told.err.splitlines()), default=0) < 3_000, arguments
    assert refused > 500
    shutil.rmtree(folder)

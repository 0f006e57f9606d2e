"""Expected files that are no mistake but an attack, or damage: each is refused in visible, short lines."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.expected_folder import EVALUATION, Edit, complaints, edit, folder

__all__ = ["edit", "folder"]


class TestHostile:
    @pytest.mark.parametrize("name", ["model.yaml", "document.yaml", "../tasks.yaml", "../tolerance.yaml"])
    @pytest.mark.parametrize("kind", ["pipe", "endless"])
    def test_what_is_no_file_is_refused_and_waited_for_by_nobody(self, folder: Path, name: str, kind: str) -> None:
        path = folder / "900-new" / name
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        line = complaints(folder)[0]
        assert line.endswith("cannot be read: is a pipe, a socket or a device, not a file")

    def test_a_file_that_is_too_large_is_not_read(self, folder: Path) -> None:
        (folder / "900-new" / "model.yaml").write_bytes(b"#" * (1 << 23))
        (line,) = complaints(folder)
        assert line.startswith("900-new/model.yaml:1: cannot be read: is larger than")

    @pytest.mark.parametrize(
        ("old", "new", "key", "said"),
        [
            ("hub_id: owner/model-1b", "hub_id: ../..", "hub_id", "is '../..'; write owner/name"),
            ("hub_id: owner/model-1b", "hub_id: owner/..", "hub_id", "is 'owner/..'; write owner/name"),
            ("hub_id: owner/model-1b", "hub_id: -o/--x", "hub_id", "is '-o/--x'; write owner/name"),
            ("revision: main", "revision: ..", "job.revision", "is '..'; write a name of letters"),
            ("revision: main", "revision: --help", "job.revision", "is '--help'; write a name of letters"),
            ("task: arc_easy", f"task: {'a' * 101}", "values.0.task", "is 'aaaa"),
            ("model: hf", "model: &a hf", "", "an anchor (&a) is not allowed"),
            ("document: ", "!!str document: ", "", "tag tag:yaml.org,2002:str is not allowed"),
            ("document: ", "&k document: ", "", "an anchor (&k) is not allowed"),
            ("line: 3", "line: 3, widened: {by: 1e308, reason: x}", "values.0.widened.by", "is 1e+308: every measured"),
            ("line: 3", "line: 3, widened: {by: 100, reason: x}", "values.0.widened.by", "write less than 100"),
            ("line: 4", "line: 4, widened: {by: 1.0, reason: x}", "values.1.widened.by", "write less than 1"),
            ("line: 5", "line: 5, widened: {by: 8.14, reason: x}", "values.2.widened.by", "write less than 8.14"),
            ("model: Owner/Model-1B", 'model: "a\\e[31mb"', "model", "has a character that cannot be seen"),
            ("dtype: not printed", 'dtype: "\\u202eb"', "assumed.dtype", "has a character that cannot be seen"),
        ],
    )
    def test_it_is_refused_by_its_key(self, edit: Edit, old: str, new: str, key: str, said: str) -> None:
        (line,) = complaints(edit(old, new))
        assert re.match(rf"900-new/model\.yaml:\d+: {re.escape(f'{key}: ' if key else '')}", line)
        assert said in line

    def test_no_key_reaches_the_terminal_as_it_is(self, edit: Edit) -> None:
        said = complaints(edit("job:", '"a\\0b\\n\\e[31m\\u202e\\a": x\njob:'))
        assert said == [
            r"900-new/model.yaml:4: a\u0000b\u000a\u001b[31m\u202e\u0007: has a character that cannot be seen; "
            "write it with those that can",
            r"900-new/model.yaml:4: a\u0000b\u000a\u001b[31m\u202e\u0007: is not a key that is read here; write one of "
            "document, model, hub_id, variant, job, num_fewshot_printed, batch_size_printed, assumed, "
            "not_comparable, runs, values",
        ]

    @pytest.mark.parametrize("new", ["{key}: x\njob:", "job:\n  {key}: x", "job:\n  model_args: {{{key}: y}}"])
    def test_a_long_name_is_cut(self, edit: Edit, new: str) -> None:
        (line,) = complaints(edit("job:", new.format(key="n" * 1000)))
        assert "...(" in line
        assert len(line) < 1000

    def test_a_very_long_name_is_cut(self, edit: Edit) -> None:
        lines = complaints(edit("task: arc_easy", f"task: {'n' * 100_000}"))
        assert max(map(len, lines)) < 1000

    def test_thousands_of_mistakes_are_counted(self, folder: Path) -> None:
        text = EVALUATION + "\n".join(f"key{number}: x" for number in range(1000)) + "\n"
        (folder / "900-new" / "model.yaml").write_text(text)
        lines = complaints(folder)
        assert len(lines) == 201
        assert lines[-1] == "and 800 more"

"""What a lock file pins, in every form that people keep, and what is said where it pins nothing."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest

from scanproof.triage.bisect.environments import (
    Environment,
    as_requirement,
    differences,
    find_origin,
    read,
)
from scanproof.triage.bisect.lock_files import EnvironmentProblem, read_pins
from tests.support.lock_files import CONDA, GIT, SHA, UV


def pins(folder: Path, content: str | bytes, name: str = "lock.txt") -> dict[str, str]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_pins(path).versions


def refusal(folder: Path, content: str | bytes, name: str = "lock.txt") -> str:
    """Why a lock file is refused: printable, and short."""
    with pytest.raises(EnvironmentProblem) as caught:
        pins(folder, content, name)
    told = str(caught.value)
    assert told.replace("\n", "").isprintable()
    assert len(told) < 1000
    return told


@pytest.mark.parametrize(
    ("line", "name", "version"),
    [
        ("torch==2.13.0+cpu", "torch", "2.13.0+cpu"),
        ("Typing_Extensions == 4.1", "typing-extensions", "4.1"),
        ("lm-eval[hf]==0.4.13", "lm-eval", "0.4.13"),
        ("torch===2.13.0", "torch", "2.13.0"),
        ("torch==2.13.0,>=2", "torch", "2.13.0"),
        ("torch==2.13.0  # because", "torch", "2.13.0"),
        ("torch==2.13.0 --hash=sha256:00 --hash=sha256:11", "torch", "2.13.0"),
        ("torch==2.13.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11", "torch", "2.13.0"),
        ("torch==2.13.0 ; python_version >= '3.0'", "torch", "2.13.0"),
        (f"-e {GIT}#egg=lm_eval", "lm-eval", f"@ {GIT}"),
        (f"--editable={GIT}#egg=lm_eval&subdirectory=x", "lm-eval", f"@ {GIT}"),
        (f"{GIT}#egg=lm_eval", "lm-eval", f"@ {GIT}"),
        (f"lm_eval @ {GIT}", "lm-eval", f"@ {GIT}"),
        ("numpy @ file:///home/conda/numpy-1.0-py3-none-any.whl", "numpy", "@ file:///home/conda/numpy-1.0-py3-none-any.whl"),
        ("https://host/mamba_ssm-2.2.4+cu12-cp311-cp311-linux_x86_64.whl", "mamba-ssm",
         "@ https://host/mamba_ssm-2.2.4+cu12-cp311-cp311-linux_x86_64.whl"),
    ],
)  # fmt: skip
def test_a_line_of_requirements(tmp_path: Path, line: str, name: str, version: str) -> None:
    assert pins(tmp_path, f"# first\n--index-url https://host/simple\n\n{line}\n") == {name: version}


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(tmp_path: Path, mark: str) -> None:
    assert pins(tmp_path, "torch==2.13.0\r\nnumpy==2.0\r\n".encode(mark)) == {"torch": "2.13.0", "numpy": "2.0"}


def test_a_marker_that_does_not_hold_leaves_the_line_out(tmp_path: Path) -> None:
    lines = "torch==2.13.0; python_version < '3.9'\ntorch==2.12.0; python_version >= '3.9'\n"
    assert pins(tmp_path, lines) == {"torch": "2.12.0"}
    older = {"python_version": "3.8", "python_full_version": "3.8.1"}
    assert read_pins(tmp_path / "lock.txt", older).versions == {"torch": "2.13.0"}


def test_included_files_are_read_from_their_folder(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "all.txt").write_text("numpy==2.0\n-r more.txt\n")
    (tmp_path / "base" / "more.txt").write_text("pandas==2.0\n")
    assert pins(tmp_path, "-r base/all.txt\ntorch==2.13.0\n") == {"numpy": "2.0", "pandas": "2.0", "torch": "2.13.0"}
    (tmp_path / "base" / "more.txt").write_text("-r ../lock.txt\n")
    with pytest.raises(EnvironmentProblem, match=r"lock\.txt: is included by itself"):
        read_pins(tmp_path / "lock.txt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("torch==2.13.*\n", "lock.txt:1: 'torch==2.13.*' is not pinned to one version: write torch==version"),
        ("# c\ntorch>=2\n", "lock.txt:2: 'torch>=2' is not pinned to one version"),
        ("torch\n", "lock.txt:1: 'torch' is not pinned to one version"),
        ("torch==1\ntorch==2\n", "lock.txt:2: torch is pinned twice, 1 and 2"),
        ("./wheel.whl\n", "lock.txt:1: './wheel.whl' is not pinned: write name==version"),
        ("-e .\n", "lock.txt:1: '.' is not pinned"),
        (f"{GIT}\n", f"does not say its package; write name @ {GIT}"),
        ("--surprise\n", "lock.txt:1: '--surprise' is no option of a lock file"),
        ("-r gone.txt\n", "gone.txt: cannot be read: No such file or directory"),
        ("# nothing\n", "lock.txt: no pinned packages in it"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "lock.txt:1: is not text in utf-16-le"),
        (b"torch==2\n\xff\xfe", "lock.txt:2: is not text in utf-8; save it as UTF-8"),
        (b"PK\x03\x04\x00\x00", "lock.txt:1: is not text but binary"),
        ("torch\x1b[31m==\u202e\n", r"'torch\x1b[31m==\u202e' is not pinned"),
        ("x" * 100_000 + "\n", "...("),
    ],
)
def test_what_pins_nothing_is_refused_with_its_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, content)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock.txt")
    with pytest.raises(EnvironmentProblem, match="neither a virtual environment nor a lock file"):
        read(str(tmp_path / "lock.txt"))
    (tmp_path / "other.txt").write_text("-r lock.txt\n")
    with pytest.raises(EnvironmentProblem, match="is a pipe, a socket or a device"):
        read(str(tmp_path / "other.txt"))


@pytest.mark.parametrize(("says", "said"), [("echo a >&2; echo no module >&2", "no module"), (":", "it ended with 3")])
def test_an_interpreter_that_breaks_is_quoted_by_its_last_line(tmp_path: Path, says: str, said: str) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{says}\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(EnvironmentProblem) as caught:
        read(str(tmp_path))
    assert str(caught.value) == f"{python}: cannot be asked what is installed: {said}"


POETRY = f"""
[[package]]
name = "torch"
version = "2.13.0"
[[package]]
name = "lm-eval"
version = "0.4.13"
[package.source]
type = "git"
url = "https://github.com/EleutherAI/lm-evaluation-harness"
reference = "main"
resolved_reference = "{SHA}"
"""
PYLOCK = f"""
lock-version = "1.0"
[[packages]]
name = "torch"
version = "2.13.0"
[[packages]]
name = "lm-eval"
vcs = {{ type = "git", url = "https://github.com/EleutherAI/lm-evaluation-harness", commit-id = "{SHA}" }}
"""


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [("uv.lock", UV, {"old": "2.0"}), ("poetry.lock", POETRY, {}), ("pylock.toml", PYLOCK, {})],
)
def test_lock_files_in_toml(tmp_path: Path, name: str, content: str, more: dict[str, str]) -> None:
    assert pins(tmp_path, content, name) == {"torch": "2.13.0", "lm-eval": f"@ {GIT}", **more}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a = [", "uv.lock: is not TOML"),
        ("a = " + "[" * 5_000, "uv.lock: is not TOML"),
        ("a = " + "9" * 5_000, "uv.lock: is not TOML"),
        ("version = 1", "uv.lock: package: missing"),
        ("package = [3]", "uv.lock: package.0.name: missing"),
        ('[[package]]\nname = "a"', "uv.lock: package.0.version: missing"),
        ('[[package]]\nname = "a"\nsource = 3', "uv.lock: package.0.source: expected a table, found 3"),
        ('[[package]]\nname = "a"\nresolution-markers = [3]', "uv.lock: package.0: [3] is no marker"),
    ],
)
def test_mistakes_in_toml(tmp_path: Path, content: str, said: str) -> None:
    assert said in refusal(tmp_path, content, "uv.lock")


def test_an_environment_of_conda(tmp_path: Path) -> None:
    assert pins(tmp_path, CONDA, "env.yml") == {"torch": "2.13.0", "lm-eval": f"@ {GIT}"}
    (tmp_path / "other.yml").write_text(CONDA.replace("openssl=3.0", "openssl=3.1"))
    good, bad = read(str(tmp_path / "env.yml")), read(str(tmp_path / "other.yml"))
    told = differences(good, bad, Environment("this one", {}, None))
    assert told.left_out == ("conda-forge::openssl: 3.0 -> 3.1, a package of conda",)


def test_below_pip_an_environment_of_conda_holds_lines_of_requirements(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("numpy==2.0\n")
    lines = [
        "--extra-index-url https://host/simple", "-r more.txt", "'# a comment'", "torch==2.13.0  # why",
        "pandas==2.0 --hash=sha256:00", f"-e {GIT}#egg=lm_eval",
    ]  # fmt: skip
    content = "dependencies:\n  - pip:\n" + "".join(f"    - {line}\n" for line in lines)
    wanted = {"numpy": "2.0", "torch": "2.13.0", "pandas": "2.0", "lm-eval": f"@ {GIT}"}
    assert pins(tmp_path, content, "env.yml") == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: x\n", "env.yml: dependencies: missing"),
        ("dependencies:\n  - numpy>=1\n", "env.yml:2: 'numpy>=1' is not pinned: write name=version=build"),
        ("dependencies:\n  - pip: [--frobnicate]\n", "env.yml:2: '--frobnicate' is no option of a lock file"),
        ("dependencies:\n  - pip: [torch]\n", "env.yml:2: 'torch' is not pinned to one version"),
        ("dependencies: &a\n  - *a\n", "env.yml:1: an anchor (&a) is not allowed"),
        ("dependencies: [\n", "env.yml:2: is not YAML"),
    ],
)
def test_mistakes_in_an_environment_of_conda(tmp_path: Path, content: str, said: str) -> None:
    assert said in refusal(tmp_path, content, "env.yml")


def test_two_commits_of_one_version_are_two_environments(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(f"-e {GIT}#egg=lm_eval\ntorch==2.13.0\n")
    (tmp_path / "bad.txt").write_text(f"-e {GIT[:-1]}8#egg=lm_eval\ntorch==2.13.0\n")
    told = differences(read(str(tmp_path / "good.txt")), read(str(tmp_path / "bad.txt")), Environment("x", {}, None))
    assert told.good == {"lm-eval": f"@ {GIT}"}
    assert told.bad == {"lm-eval": f"@ {GIT[:-1]}8"}
    assert as_requirement("lm-eval", told.good["lm-eval"]) == f"lm-eval @ {GIT}"
    assert as_requirement("torch", "2.13.0") == "torch==2.13.0"


@pytest.mark.parametrize(
    ("direct", "origin"),
    [
        (None, "1.0"),
        ([], "1.0"),
        ({"url": "file:///x/a.whl", "archive_info": {}}, "1.0"),
        ({"url": "file:///x", "dir_info": {"editable": True}}, "@ file:///x"),
        ({"url": "https://host/x", "vcs_info": {"vcs": "git", "commit_id": SHA}}, f"@ git+https://host/x@{SHA}"),
    ],
)
def test_an_installed_package_says_its_commit(direct: object, origin: str) -> None:
    assert find_origin("1.0", json.loads(json.dumps(direct))) == origin


def test_the_scanproof_of_a_clone_is_not_laid_over_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("scanproof==0.1.0\ntorch==1\n")
    (tmp_path / "bad.txt").write_text("scanproof==0.2.0\ntorch==2\n")
    base = Environment("this one", {"scanproof": "@ file:///clone"}, None)
    told = differences(read(str(tmp_path / "good.txt")), read(str(tmp_path / "bad.txt")), base)
    assert told.left_out == ("scanproof: 0.1.0 -> 0.2.0; the interpreter's own measures",)
    assert "scanproof" not in {**told.good, **told.bad, **told.common}

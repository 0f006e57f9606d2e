"""What a bare GPU machine lacks, and how its wheels are made: tools/gpu_missing.py and tools/gpu_wheels.sh."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import gpu_missing
import pytest

from tests.support.gpu_scripts import ROOT, TOOLS, shell

BARE = {"installed": ["torch==2.11.0"], "tests": ["hypothesis>=6"], "left-out": {"Duck_DB": "large"}}


class TestWheels:
    def test_missing_is_what_pip_would_install_without_what_is_left_out_or_given(self) -> None:
        def row(name: str, version: str, url: str = "https://index/x.whl") -> dict[str, object]:
            return {"metadata": {"name": name, "version": version}, "download_info": {"url": url}}

        report = {
            "install": [
                row("Typing_Inspection", "1.0"),
                row("duckdb", "2.0"),
                row("duck.db", "2.0"),
                row("chardet", "3"),
                # An index may lie on a disk.
                row("lm_eval", "0.4", "file:///index/lm_eval-0.4.whl"),
                row("mamba_ssm", "2.3.2", "file:///wheels/mamba_ssm-2.3.2.whl"),
            ]
        }
        found = gpu_missing.missing(report, gpu_missing.left_out(BARE))
        assert found == ["chardet==3", "duckdb==2.0", "lm-eval==0.4", "typing-inspection==1.0"]

    def test_what_came_along_is_not_taken_to_be_there(self) -> None:
        found = gpu_missing.unlisted({**BARE, "installed": ["pytest==8", "PyYAML"]})
        assert "iniconfig" in found, "of pytest"
        assert not {"pytest", "pyyaml"} & set(found)

    def test_wanted_are_the_project_s_own_requirements_and_those_of_the_tests(self, tmp_path: Path) -> None:
        pyproject = tmp_path / "pyproject.toml"
        pyproject.write_text('[project]\ndependencies = ["lm-eval[hf]>=0.4.9", "duck-db>=1"]\n')
        assert gpu_missing.wanted(BARE, pyproject) == ["lm-eval[hf]>=0.4.9", "hypothesis>=6"]

    def test_a_built_wheel_s_requirements_are_wanted_without_extras_and_what_is_left_out(self, tmp_path: Path) -> None:
        wheel = tmp_path / "mamba_ssm-2.whl"
        lines = [
            "Name: mamba-ssm",
            "Requires-Dist: einops",
            "Requires-Dist: duck_db>=1",
            "Requires-Dist: x; extra == 'dev'",
        ]
        with zipfile.ZipFile(wheel, "w") as packed:
            packed.writestr("mamba_ssm-2.dist-info/METADATA", "\n".join(lines) + "\n\nA description\n")
        pyproject = tmp_path / "pyproject.toml"
        pyproject.write_text("[project]\ndependencies = []\n")
        assert gpu_missing.wanted(BARE, pyproject, [wheel]) == ["hypothesis>=6", "einops"]

    def test_the_machine_s_description_can_be_used(self) -> None:
        bare = gpu_missing.read(gpu_missing.BARE)
        assert "torch" in {gpu_missing.name_of(each) for each in bare["installed"]}
        wanted = {gpu_missing.name_of(each) for each in gpu_missing.wanted(bare, ROOT / "pyproject.toml")}
        assert {"lm-eval", "pydantic", "nvidia-ml-py"} <= wanted

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("installed = [", "Invalid value"),
            ("tests = []\n[left-out]", "installed is not there"),
            ('installed = []\ntests = []\nleft-out = ["duckdb"]', "left-out is not there, or not a table"),
        ],
    )
    def test_a_mistake_in_the_description_is_said(self, text: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "bare.toml"
        path.write_text(text)
        with pytest.raises(SystemExit, match=said):
            gpu_missing.read(path)

    def test_lacking_is_what_is_not_installed_or_too_old_down_to_the_last_requirement(self) -> None:
        assert list(gpu_missing.lacking(["pytest>=8", "no-such-thing; python_version < '3'"], ())) == []
        assert list(gpu_missing.lacking(["pytest>=999"], ())) == [
            f"pytest {pytest.__version__} is installed; scanproof needs pytest>=999"
        ]
        assert list(gpu_missing.lacking(["no-such-thing>=1"], ())) == [
            "no-such-thing>=1 is not installed; scanproof needs it"
        ]
        assert list(gpu_missing.lacking(["no-such-thing>=1"], ["no-such-thing"])) == []

    def test_a_requirement_of_a_requirement_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, requires in (("outer-x", "inner-x[fast]"), ("inner-x", "lost-x>=2; extra == 'fast'")):
            place = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
            place.mkdir()
            (place / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
            )
        monkeypatch.syspath_prepend(tmp_path)
        assert list(gpu_missing.lacking(["outer-x"], ())) == [
            'lost-x>=2; extra == "fast" is not installed; inner-x needs it'
        ]

    def test_sizes_are_summed(self, tmp_path: Path) -> None:
        (tmp_path / "a.whl").write_bytes(b"x" * 2**20)
        (tmp_path / "b.whl").write_bytes(b"x" * 2**21)
        assert list(gpu_missing.sizes(tmp_path)) == [
            "     2.0 MiB  b.whl", "     1.0 MiB  a.whl", "     3.0 MiB  together, 2 wheels"
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "--out is missing"),
            (["--out"], "--out wants a value"),
            (["--no-such"], "unknown argument --no-such"),
            (["--out", "{tmp}", "--arch", "sm_90"], "--arch sm_90: a number such as 80, 90 or 120"),
            (["--out", "{tmp}", "--python", "python9.9"], "python9.9: not found"),
            (["--out", "{tmp}", "--python", sys.executable, "--check"], "call it without --check first"),
        ],
    )
    def test_a_mistake_ends_before_anything_is_built(self, words: list[str], said: str, tmp_path: Path) -> None:
        done = shell(TOOLS / "gpu_wheels.sh", *(word.format(tmp=tmp_path) for word in words))
        assert done.returncode == 2
        assert said in done.stderr

    @pytest.mark.parametrize("known", [True, False])
    def test_setup_py_builds_for_one_architecture_or_is_refused(self, known: bool, tmp_path: Path) -> None:
        marker = "    # HACK: The compiler flag\n" if known else ""
        setup = tmp_path / "setup.py"
        setup.write_text(
            f'if True:\n    cc_flag = ["many"]\n{marker}'
            '    flags = [\n        "-lineinfo",\n    ]\nprint(cc_flag, flags)\n'
        )
        script = (TOOLS / "gpu_wheels.sh").read_text()
        function = "one_architecture() {" + script.partition("one_architecture() {")[2].partition("\n}\n")[0] + "\n}\n"
        done = shell("bash", "-c", f'die() {{ echo "$*" >&2; exit 2; }}; arch=90\n{function}one_architecture {setup}')
        assert done.returncode == (0 if known else 2)
        said = subprocess.run([sys.executable, str(setup)], capture_output=True, text=True, check=True).stdout
        assert said == ("['-gencode', 'arch=compute_90,code=sm_90'] []\n" if known else "['many'] ['-lineinfo']\n")
        assert known or "another than this script knows" in done.stderr


@pytest.mark.parametrize("script", [*sorted(TOOLS.glob("*.sh")), ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_no_script_pipes_into_a_command_that_leaves_at_the_first_hit(script: Path) -> None:
    """Under pipefail the writer's broken pipe is an error, now and then: a good wheel was refused for it."""
    text = script.read_text(encoding="utf-8")
    assert "pipefail" in text
    assert [line for line in text.splitlines() if re.search(r"\|\s*(grep -\w*[qm]|head)\b", line)] == []

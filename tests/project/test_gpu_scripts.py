"""The scripts for a bare GPU machine, rehearsed without one: tools/gpu_check.sh and tools/gpu_wheels.sh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import gpu_check
import gpu_missing
import gpu_results
import pytest
from gpu_steps import STEPS, Step

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
AT_MOST = 8
"""Result files that a lent machine gives back."""
NO_GPU = "needs an NVIDIA GPU"
Check = Callable[..., tuple[int, str]]

OF_ALL_KINDS = """
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2, "the kernel is wrong"
def test_is_skipped(): pytest.skip("too little memory")
@pytest.mark.xfail(strict=True)
def test_is_known(): assert False
@pytest.fixture
def broken(): raise OSError("the driver is gone")
def test_errs(broken): pass
"""


def shell(*words: object, without_gpu: bool = True) -> subprocess.CompletedProcess[str]:
    """A script of tools/ with this Python; without drivers, wherever the tests run."""
    path = os.pathsep.join(
        each
        for each in os.environ["PATH"].split(os.pathsep)
        if not (without_gpu and (Path(each) / "nvidia-smi").exists())
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SCANPROOF_"))}
    return subprocess.run(
        list(map(str, words)), cwd=ROOT, env={**inherited, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Steps of a test's own through `gpu_check.main`, on a machine whose driver's tool reports a GPU."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Made-up GPU, 1.2.3, 81559'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    # Steps are sessions of their own, and take nothing from this one.
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "SCANPROOF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(gpu_check, "expected_on_gpu", lambda folder: folder)

    def run(table: Sequence[Step], *words: str) -> tuple[int, str]:
        places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
        code = gpu_check.main([*places, *words], table)
        return code, capsys.readouterr().out

    return run


def of_python(name: str, code: str, limit: int = 120) -> Step:
    return Step(name=name, asks=f"{name}?", limit=limit, command=("-c", code))


def of_tests(tmp_path: Path, name: str, text: str, *words: str) -> Step:
    path = tmp_path / f"test_{name}.py"
    path.write_text(text)
    return Step(name=name, asks=f"{name}?", limit=120, tests=(str(path), *words))


def results(tmp_path: Path) -> dict[str, gpu_results.Result]:
    return gpu_results.read([tmp_path / "out"])


class TestSelections:
    def test_every_step_selects_tests_with_its_own_command_line(self, tmp_path: Path) -> None:
        done = shell(TOOLS / "gpu_check.sh", "--python", sys.executable, "--work", tmp_path, "--selections")
        assert done.returncode == 0, done.stdout + done.stderr
        counts = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
        assert counts.keys() == {step.name for step in STEPS if step.tests}
        assert all(counts.values())

    def test_an_empty_selection_and_an_unknown_option_are_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        proof = next(step for step in STEPS if step.name == "proof")
        for more, reason in ((("-k", "no_such_test"), "no tests"), (("--no-such-option",), "unrecognized arguments")):
            assert gpu_check.selections(tmp_path, [replace(proof, tests=(*proof.tests, *more))]) == 1
            assert reason in capsys.readouterr().out

    def test_the_stand_ins_run_on_the_gpu_and_have_to_launch_kernels(self, tmp_path: Path) -> None:
        from scanproof.numbers.expected import reader

        values = reader.load(gpu_check.expected_on_gpu(tmp_path / "expected")).values
        jobs = {value.model: value.job for value in values if value.job.name.startswith("embedded-")}
        assert {job.device for job in jobs.values()} == {"cuda"}
        assert {model for model, job in jobs.items() if job.kernels} == set(gpu_check.KERNELS)

    def test_what_may_damage_a_process_is_last(self) -> None:
        of_their_own = [step.name for step in STEPS if "gpu and own_process and not latency" in step.tests]
        assert of_their_own == [STEPS[-1].name]
        numerics = [step for step in STEPS[:-1] if any("test_numerics" in each for each in step.tests)]
        assert numerics
        assert all("gpu and not own_process" in step.tests for step in numerics)

    def test_the_page_lists_them_with_their_limits(self) -> None:
        page = (ROOT / "docs" / "gpu.md").read_text()
        rows = "\n".join(f"| {step.name} | {step.asks} | {step.limit} s |" for step in STEPS)
        assert f"|---|---|---|\n{rows}\n\n" in page


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("rehearsal")
    steps = ("doctor", "proof", "stand-ins", "true-size")
    places = ("--work", folder / "work", "--out", folder / "out")
    return folder, shell(TOOLS / "gpu_check.sh", "--python", sys.executable, *places, "--rehearse", *steps)


class TestRehearsal:
    def test_every_step_is_red_for_want_of_a_gpu(
        self, rehearsed: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, done = rehearsed
        assert done.returncode == 1, done.stdout + done.stderr
        found = results(folder)
        assert {name: each.outcome for name, each in found.items()} == dict.fromkeys(found, "red")
        assert list(found) == ["doctor", "proof", "stand-ins", "true-size"]
        assert all(NO_GPU in each.reasons[0] for name, each in found.items() if name != "doctor"), found
        assert found["doctor"].reasons[0].startswith("missing: GPU: no NVIDIA driver")

    def test_results_are_few_whole_and_read_in_a_minute(
        self, rehearsed: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, _ = rehearsed
        files = {path.name for path in (folder / "out").iterdir()}
        assert files == {"summary.md", "steps.json", "log.txt", "evidence.tar.gz"}
        assert len(files) <= AT_MOST
        page = (folder / "out" / "summary.md").read_text()
        assert page.startswith("# red: doctor, proof, stand-ins, true-size; not begun: extensions, state-update,")
        assert "flash-attn is not installed" in page
        assert NO_GPU in page
        assert len(page.splitlines()) < 60
        with tarfile.open(folder / "out" / "evidence.tar.gz") as packed:
            assert {"doctor.log", "proof.log", "proof.xml", "stand-ins.xml", "true-size.log"} <= set(packed.getnames())

    def test_without_a_gpu_nothing_is_run_unless_it_is_rehearsed(self, tmp_path: Path) -> None:
        done = shell(TOOLS / "gpu_check.sh", "--python", sys.executable, "--work", tmp_path, "--out", tmp_path / "out")
        assert done.returncode == gpu_check.NO_GPU
        assert NO_GPU in done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["no-such-step", "--out", "{tmp}/out"], "no step is named 'no-such-step'; there are doctor, proof"),
            (["proof"], "give the folder of results"),
            (["--wheels", "{tmp}", "--out", "{tmp}/out"], "holds no wheels; tools/gpu_wheels.sh makes them"),
            (["--wheels"], "--wheels wants a value"),
            (["--python", "no-such-python"], "no-such-python: not found"),
        ],
    )
    def test_a_mistake_is_said_in_a_line(self, words: list[str], said: str, tmp_path: Path) -> None:
        given = [word.format(tmp=tmp_path) for word in words]
        python = [] if "--python" in words else ["--python", sys.executable]
        done = shell("env", "OUT=", TOOLS / "gpu_check.sh", *python, "--work", tmp_path / "work", *given)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr


class TestVerdicts:
    def test_tests_are_counted_by_how_they_ended_and_the_first_reasons_kept(self, check: Check, tmp_path: Path) -> None:
        code, said = check([of_tests(tmp_path, "mixed", OF_ALL_KINDS)])
        found = results(tmp_path)["mixed"]
        assert code == 1
        assert found.counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1, "known": 1}
        assert found.outcome == "red"
        assert found.ended
        assert [reason.partition(":")[0] for reason in found.reasons] == ["test_fails", "test_errs", "skipped"]
        assert "the kernel is wrong" in found.reasons[0]
        assert "the driver is gone" in found.reasons[1]
        assert "mixed: red" in said
        page = (tmp_path / "out" / "summary.md").read_text()
        assert "| mixed | red | 1 | 1 | 1 | 1 | 1 |" in page
        assert "Made-up GPU, driver 1.2.3" in page

    def test_what_passes_is_green(self, check: Check, tmp_path: Path) -> None:
        code, _ = check([of_tests(tmp_path, "good", "def test_a(): pass\ndef test_b(): pass"), of_python("said", "")])
        assert code == 0
        assert {each.outcome for each in results(tmp_path).values()} == {"green"}
        assert results(tmp_path)["good"].counts["passed"] == 2
        assert (tmp_path / "out" / "summary.md").read_text().startswith("# green\n")

    @pytest.mark.parametrize(
        ("text", "words", "reason"),
        [
            ("import pytest\ndef test_a(): pytest.skip('no memory')", (), "no test passed: a skip is no pass"),
            ("def test_a(): pass", ("-k", "nothing"), "its selection is empty: nothing was tested"),
            ("import no_such_module", (), "pytest ended with 2"),
            ("def test_a(): pass", ("--no-such-option",), "pytest ended with 4"),
            ("import os\ndef test_a(): os._exit(0)", (), "there is no report of its tests"),
        ],
        ids=["only skips", "empty", "not collected", "wrong option", "died with 0"],
    )
    def test_what_shows_nothing_is_red(
        self, text: str, words: tuple[str, ...], reason: str, check: Check, tmp_path: Path
    ) -> None:
        code, _ = check([of_tests(tmp_path, "empty", text, *words)])
        found = results(tmp_path)["empty"]
        assert code == 1
        assert found.outcome == "red"
        assert any(reason in each for each in found.reasons), found

    def test_a_command_that_fails_says_its_last_words(self, check: Check, tmp_path: Path) -> None:
        assert check([of_python("bad", "print('before'); raise SystemExit('no kernel image')")])[0] == 1
        assert results(tmp_path)["bad"].reasons == ("no kernel image",)

    def test_a_step_beyond_its_limit_is_stopped_and_the_next_one_runs(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("hangs", "import time; time.sleep(600)", limit=1), of_python("next", "")]
        assert check(table)[0] == 1
        found = results(tmp_path)
        assert not found["hangs"].ended
        assert found["hangs"].reasons == ("stopped at its time limit",)
        assert found["next"].outcome == "green"
        assert "| hangs | red, did not end |" in (tmp_path / "out" / "summary.md").read_text()


class TestResumption:
    def test_what_there_is_no_time_for_is_not_begun_and_not_green(self, check: Check, tmp_path: Path) -> None:
        code, said = check([of_python("first", "")], "--within", "5")
        assert code == 1
        assert "first: not begun, there is no time left" in said
        assert (tmp_path / "out" / "summary.md").read_text().startswith("# nothing was run; not begun: first\n")
        assert check([of_python("first", "")], "--within", "1000")[0] == 0

    def test_what_is_done_is_not_repeated_unless_asked_for(self, check: Check, tmp_path: Path) -> None:
        marks = tmp_path / "marks"
        write = f"open({str(marks)!r}, 'a').write('x')"
        table = [of_python("first", write), of_python("second", f"{write}; raise SystemExit(1)")]
        for words, runs in (
            (["first"], 1),
            # A red step has ended as well: its result is known.
            ([], 2),
            ([], 2),
            (["--again", "second"], 3),
        ):
            check(table, *words)
            assert len(marks.read_text()) == runs, words
        code, said = check(table)
        assert code == 1, "a step that was red before is red"
        assert "first: done before, green" in said

    def test_what_was_killed_is_repeated(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("first", "")]
        (tmp_path / "work").mkdir()
        (tmp_path / "out").mkdir()
        begun = {"first": gpu_results.begun(table[0])}
        gpu_results.write(begun, table, tmp_path / "work", tmp_path / "out")
        assert "| first | running, did not end |" in (tmp_path / "out" / "summary.md").read_text()
        assert check(table)[0] == 0

    def test_a_rehearsal_counts_for_nothing_later(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("first", "")]
        check(table, "--rehearse")
        assert "| first | green, rehearsed |" in (tmp_path / "out" / "summary.md").read_text()
        assert "done before" not in check(table)[1]

    def test_results_of_another_machine_are_gone_on_from(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("first", ""), of_python("second", "")]
        check(table, "first")
        (tmp_path / "out").rename(tmp_path / "earlier")
        for path in (tmp_path / "work").iterdir():
            path.unlink()
        assert "first: done before" in check(table, "--earlier", str(tmp_path / "earlier"))[1]
        assert list(results(tmp_path)) == ["first", "second"]


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


class TestTrueSizes:
    @pytest.fixture(autouse=True)
    def benchmarks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def test_they_have_as_many_weights_as_the_published_models(self) -> None:
        import math

        import scoring_sizes
        import torch

        from scanproof.evaluation.planning import job_rows
        from scanproof.models.language_model import StateSpacesLM
        from scanproof.models.megatron import conversion
        from scanproof.numbers.expected import reader

        jobs = [job for job, _ in job_rows.jobs(reader.load(ROOT / "expected").values)]
        for row in scoring_sizes.SIZES:
            if row.d_model:
                with torch.device("meta"):
                    model = StateSpacesLM(scoring_sizes.config_of(row, small=False))
                count = sum(weight.numel() for weight in model.parameters())
            else:
                built = scoring_sizes.architecture(small=False)
                network = conversion.make_blank(conversion.make_nemotron_config(built, 256_000))
                count = sum(map(math.prod, conversion.expected_shapes(built, network).values()))
            job = scoring_sizes.job_of(row, jobs, "cuda")
            assert job.size is not None
            assert count == job.size.parameters, row.name
            assert job.device == "cuda"

    @pytest.mark.parametrize(("moved", "wrong"), [(0.0, False), (0.1, False), (1.0, True), (float("nan"), True)])
    def test_in_halves_an_answer_may_be_apart_by_what_rounding_allows(self, moved: float, wrong: bool) -> None:
        """Four tokens in bfloat16: half a nat, and 0.0078 of 10."""
        from scoring_engines import ENGINES, Pass, Work
        from scoring_table import Row

        def row(value: float) -> Row:
            answers = ((-10.0, True), (value, True))
            return Row("piqa", ENGINES[-1], 16, Work(2, 8, 8, (0.5, 0.5), 2**-7), [Pass(1, 1, 1, 1, 0, answers)])

        assert row(-10.0 + moved).wrong(row(-10.0)) is wrong


def test_the_state_is_json_that_names_machine_and_steps(check: Check, tmp_path: Path) -> None:
    check([of_python("first", "")])
    found = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert found["machine"]["gpus"][0]["name"] == "Made-up GPU"
    assert [step["name"] for step in found["steps"]] == ["first"]

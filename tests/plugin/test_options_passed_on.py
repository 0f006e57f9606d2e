"""Options that reach the evaluation: mirror, fresh, limit, timeout, store."""

from __future__ import annotations

import pytest

from small_project import Project

PRINT_TIMEOUT = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_scanproof_evaluate(settings):
    print(f"timeout is {settings.timeout}")
    (settings.store / "seen").mkdir(parents=True, exist_ok=True)
"""


class TestMirror:
    def test_gpu_jobs_use_the_mirror_given(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        project.document(suite="gpu", device="cpu", models=("one",))
        (project.root / "mirror").mkdir()
        project.run("--scanproof-mirror", "mirror").assert_outcomes(passed=3)
        monkeypatch.setenv("SCANPROOF_MIRROR", "mirror")
        project.run().assert_outcomes(passed=3)
        (project.root / "tox.ini").write_text("[pytest]\nscanproof_mirror = mirror\n")
        monkeypatch.delenv("SCANPROOF_MIRROR")
        project.run().assert_outcomes(passed=3)
        assert [job[4] for job in project.jobs()] == [str(project.root / "mirror")] * 3

    def test_stand_ins_use_the_mirror_that_scanproof_ships(self, project: Project) -> None:
        project.document(models=("one",), suite="embedded")
        project.run()
        assert str(project.jobs()[0][4]).endswith("scanproof/embedded/mirror")

    def test_no_such_folder(self, project: Project) -> None:
        result = project.run("--scanproof-mirror", "nowhere")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*--scanproof-mirror: there is no folder*nowhere*"])


class TestFresh:
    def test_is_off_by_default_and_on_when_asked_for(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        project.document(models=("one",))
        project.run()
        project.run("--scanproof-fresh")
        monkeypatch.setenv("SCANPROOF_FRESH", "1")
        project.run()
        assert [job[3] for job in project.jobs()] == [False, True, True]


class TestLimit:
    def test_a_subset_is_never_compared_with_a_number_for_the_full_set(self, project: Project) -> None:
        project.document(models=("one",))
        result = project.run("--scanproof-limit", "10")
        result.assert_outcomes(skipped=3)
        result.stdout.fnmatch_lines(["*3 numbers: 3 NOT_COMPARABLE*"])
        assert project.jobs()[0][2] == 10
        assert project.latest_run()["limit"] == 10

    @pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
    def test_is_a_positive_whole_number(self, project: Project, text: str) -> None:
        project.document()
        result = project.run(f"--scanproof-limit={text}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*a limit is a positive whole number of documents, not '{text}'*"])


class TestTimeout:
    def test_reaches_the_evaluation(self, project: Project) -> None:
        project.document(models=("one",))
        (project.root / "plug.py").write_text(PRINT_TIMEOUT)
        result = project.run("-p", "plug", "-s", "--scanproof-timeout", "90")
        result.stdout.fnmatch_lines(["*timeout is 90.0*"])
        result.assert_outcomes(passed=3)

    @pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "soon"])
    def test_is_a_positive_number_of_seconds(self, project: Project, text: str) -> None:
        result = project.run(f"--scanproof-timeout={text}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*a timeout is a positive number of seconds, not '{text}'*"])


class TestStore:
    def test_runs_are_kept_where_asked(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        project.document(models=("one",))
        for folder, arguments in (("kept", ["--scanproof-store", "kept"]), ("elsewhere", [])):
            monkeypatch.setenv("SCANPROOF_STORE", "elsewhere")
            project.run(*arguments)
            assert list((project.root / folder / "runs").glob("*/run.json"))


@pytest.mark.parametrize(
    "flag",
    [f"--scanproof-{name}" for name in ("expected", "store", "mirror", "strict", "fresh", "timeout", "limit")],
)
def test_every_option_is_in_the_help_with_its_twins(pytester: pytest.Pytester, flag: str) -> None:
    text = " ".join(pytester.runpytest_subprocess("--help").stdout.str().split())
    name = flag.removeprefix("--").replace("-", "_")
    assert flag in text
    assert f"[ini: {name}, environment: {name.upper()}]" in text

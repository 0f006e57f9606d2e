"""What a hook returns is taken only if it belongs to the job and brings its evidence; else its numbers are errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation.imported import Imports
from scanproof.evaluation.request import Settings
from scanproof.evaluation.results import answer_line
from scanproof.history.errors import HistoryError
from scanproof.history.samples import read_logs
from scanproof.numbers.values import EvalJob
from scanproof.plugin import hookspecs
from scanproof.plugin.ownership import TaskVersions, mark_reused, read_result, require_own
from scanproof.record import Evaluation
from tests.support.builders import JOB
from tests.support.evidence import ENVIRONMENT, keep_answers
from tests.support.small_project import Project

Row = dict[str, Any]
ASKED = replace(JOB, tasks=("arc_easy",), model_args=(("rope", 2),))
NOON = "2026-11-26T12:00:00+00:00"
SETTINGS = Settings(
    store=Path("none"), mirror=None, fresh=False, timeout=None, session="tonight", began=datetime.fromisoformat(NOON)
)


@pytest.fixture
def measured(tmp_path: Path) -> Evaluation:
    """An evaluation that belongs to `ASKED`."""
    answers = keep_answers(tmp_path / "samples", {"arc_easy": {"acc": (0.5, 40), "acc_norm": (0.4, 40)}})
    return Evaluation(
        job=ASKED, key="k", measurements=answers, samples=str(tmp_path / "samples"), command="", environment=ENVIRONMENT
    )


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> TaskVersions:
    return TaskVersions(tmp_path_factory.mktemp("cache"), Imports())


def take(evaluation: Evaluation, versions: TaskVersions, *, fresh: bool = False, asked: EvalJob = ASKED) -> None:
    settings = replace(SETTINGS, fresh=fresh)
    taken = read_result(evaluation)
    try:
        samples = read_logs(taken.job.name, Path(taken.samples))
    except HistoryError as error:
        require_own(taken, asked, {"arc_easy"}, settings, error, versions)
    else:
        require_own(taken, asked, {"arc_easy"}, settings, samples, versions)


def of_all(evaluation: Evaluation, **fields: object) -> Evaluation:
    changed = tuple(replace(one, **fields) for one in evaluation.measurements)  # type: ignore[arg-type]
    return replace(evaluation, measurements=changed)


def of_job(**fields: Any) -> Callable[[Evaluation], Evaluation]:
    return lambda evaluation: replace(evaluation, job=replace(evaluation.job, **fields))


def of_lines(change: Callable[[Row], Row]) -> Callable[[Evaluation], Evaluation]:
    def spoil(evaluation: Evaluation) -> Evaluation:
        path = Path(evaluation.samples) / "arc_easy.jsonl"
        rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row))
        return evaluation

    return spoil


def without(row: Row, key: str) -> Row:
    return {name: value for name, value in row.items() if name != key}


FAULTS: dict[str, tuple[Callable[[Evaluation], Any], str]] = {
    "nothing": (lambda _: None, "it is a NoneType, not an Evaluation"),
    "no evaluation": (lambda _: {"value": 0.5}, "it is a dict, not an Evaluation"),
    "no value": (lambda one: of_all(one, value=None), "measurements.0.value: Input should be a valid number, not None"),
    "text": (lambda one: of_all(one, n_samples="all"), "measurements.0.n_samples: "),
    "another model": (of_job(pretrained="org/two"), "job.pretrained: 'org/two', asked for was 'state-spaces"),
    "another name": (of_job(name="other"), "job.name: 'other'"),
    "another revision": (of_job(revision="old"), "job.revision: 'old', asked for was 'main'"),
    "another precision": (of_job(dtype="float32"), "job.dtype: 'float32', asked for was 'float16'"),
    "another seed": (of_job(seed=1), "job.seed: 1"),
    "another length": (of_job(max_length=7), "job.max_length: 7"),
    "a subset": (of_job(limit=3), "job.limit: 3, asked for was None"),
    "another suite": (of_job(suite="embedded"), "job.suite: 'embedded', asked for was 'gpu'"),
    "other tasks": (of_job(tasks=("piqa",)), "job.tasks: ('piqa',)"),
    "an argument lost": (of_job(model_args=()), "job.model_args: rope=2 is not among them"),
    "an argument changed": (of_job(model_args=(("rope", 4),)), "job.model_args: rope=2 is not among them"),
    "no environment": (lambda one: replace(one, environment={}), "environment: packages.lm-eval: missing"),
    "a list of packages": (
        lambda one: replace(one, environment={"packages": ["lm-eval"]}), "environment: packages: ['lm-eval'], not a map"
    ),
    "no packages": (lambda one: replace(one, environment={"packages": None}), "environment: packages: None, not a map"),
    "names of GPUs": (
        lambda one: replace(one, environment={**ENVIRONMENT, "gpus": ["H100"]}),
        "environment: gpus: ['H100'], not a list of mappings",
    ),
    "the name of a GPU": (
        lambda one: replace(one, environment={**ENVIRONMENT, "gpus": "H100"}), "environment: gpus: 'H100', not a list"
    ),
    "weights elsewhere": (
        lambda one: replace(one, environment={**ENVIRONMENT, "weights_device": {"cuda": 900, "cpu": 80}}),
        "environment: weights_device: 80 weights are on 'cpu', the job is on 'cuda",
    ),
    "no folder": (lambda one: replace(one, samples="nowhere"), "samples: arc_easy.jsonl: missing"),
    "no answers": (of_lines(lambda row: {}), "samples: arc_easy.jsonl: missing"),
    "a document lost": (of_lines(lambda row: row if row["doc_id"] else {}), "doc_id: not every document from 0 to 38"),
    "one document": (of_lines(lambda row: {**row, "doc_id": 0}), "doc_id: not every document from 0 to 39 once"),
    "what was asked": (of_lines(lambda row: without(row, "question_hash")), "arc_easy.jsonl: question_hash: missing"),
    "scores alone": (of_lines(lambda row: without(row, "loglikelihoods")), "not a log of samples: KeyError"),
    "other prompts": (of_lines(lambda row: {**row, "prompt_hash": "x"}), "acc: prompts_hash: not that of the prompts"),
    "no prompts": (lambda one: of_all(one, prompts_hash=None), "acc: prompts_hash: not that of the prompts"),
    "fewer documents": (lambda one: of_all(one, n_samples=30), "n_samples: 30, but 40 documents have answers"),
    "other shots": (lambda one: of_all(one, num_fewshot=5), "arc_easy/acc: num_fewshot: 5, asked for was 0"),
    "no shots": (lambda one: of_all(one, num_fewshot=None), "num_fewshot: None, asked for was 0"),
    "no version": (lambda one: of_all(one, task_version=None), "arc_easy/acc: task_version: missing"),
    "another version": (
        lambda one: replace(
            of_all(one, task_version="9"), environment={"packages": {"lm-eval": metadata.version("lm-eval")}}
        ),
        "arc_easy/acc: task_version: 9, but lm-eval ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_belong_to_the_job_is_refused_with_what_is_missing(
    measured: Evaluation, versions: TaskVersions, fault: str
) -> None:
    take(measured, versions)
    spoil, said = FAULTS[fault]
    with pytest.raises(EvaluationError) as caught:
        take(spoil(measured), versions)
    assert caught.value.message.startswith("the evaluation of pytest_scanproof_evaluate is refused: ")
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def of_device(job: str, environment: str | None) -> Callable[[Evaluation], Evaluation]:
    def spoil(evaluation: Evaluation) -> Evaluation:
        said = {**ENVIRONMENT, "device": environment} if environment else ENVIRONMENT
        return replace(of_job(device=job)(evaluation), environment=said)

    return spoil


@pytest.mark.parametrize(
    ("asked", "ran_on", "environment", "said"),
    [
        ("cpu", "cuda", None, "job.device: 'cuda', but the answers of a stand-in are judged on 'cpu'"),
        ("cpu", "cuda:1", "cpu", "job.device: 'cuda:1', but the answers of a stand-in are judged on 'cpu'"),
        ("cpu", "cpu", "cuda:0", "environment: device: 'cuda:0', but the answers of a stand-in are judged on 'cpu'"),
        ("cpu", "cpu", "mps", "environment: device: 'mps', but the answers of a stand-in are judged on 'cpu'"),
        ("cuda", "cuda", "cpu", "environment: device: 'cpu', but the answers of a stand-in are judged on 'cuda'"),
        ("cpu", "cpu", "cpu:0", None),
        ("cpu", "cpu", None, None),
        ("cuda", "cuda:1", "cuda:1", None),
    ],
)
def test_a_stand_in_is_taken_from_the_kind_of_device_that_its_job_names(
    measured: Evaluation,
    versions: TaskVersions,
    asked: str,
    ran_on: str,
    environment: str | None,
    said: str | None,
) -> None:
    """Elsewhere nobody knows what rounding may move, and no move of an answer would be too large.  Published numbers
    are free."""
    moved = of_device(ran_on, environment)(measured)
    take(moved, versions)
    stand_in = replace(ASKED, suite="embedded", device=asked)
    moved = of_job(suite="embedded")(moved)
    if said is None:
        take(moved, versions, asked=stand_in)
        return
    with pytest.raises(EvaluationError) as caught:
        take(moved, versions, asked=stand_in)
    assert caught.value.message == f"the evaluation of pytest_scanproof_evaluate is refused: {said}"


SAMPLE: dict[str, Any] = {
    "doc_id": 0, "doc": {}, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "target": 0, "metrics": ["acc"],
    "acc": 1.0, "arguments": [["q", " a"], ["q", " b"]], "resps": [[(-1.0, True)], [(-2.0, False)]],
}  # fmt: skip
"""What lm-eval logs of a document."""
FREE = {"device": "cuda:1", "batch_size": 1, "model_args": (("parallelize", True), ("rope", 2))}


@pytest.mark.parametrize("name", [field.name for field in fields(EvalJob)])
def test_every_field_of_a_job_is_as_asked_for_or_says_where_it_ran(
    measured: Evaluation, versions: TaskVersions, name: str
) -> None:
    """So that no gate is chosen by what the evaluation says of itself; a new field is not free either."""
    if name in FREE:
        take(of_job(**{name: FREE[name]})(measured), versions)
    else:
        with pytest.raises(EvaluationError, match=rf"refused: job\.{name}: 'other'"):
            require_own(
                of_job(**{name: "other"})(measured), ASKED, {"arc_easy"}, SETTINGS,
                read_logs(ASKED.name, Path(measured.samples)), versions,
            )  # fmt: skip


def test_what_an_earlier_session_measured_is_refused_by_a_fresh_one(
    measured: Evaluation, versions: TaskVersions
) -> None:
    take(replace(measured, reused=True, session="yesterday"), versions)
    take(replace(measured, reused=True, session="tonight", measured=NOON), versions, fresh=True)
    take(replace(measured, session="tonight", measured=NOON), versions, fresh=True)
    # What an earlier session kept says `reused: false`, as it was true then.
    for reused in (True, False):
        for session, said in (("yesterday", "session: 'yesterday', not 'tonight'"), (None, "session: missing")):
            with pytest.raises(EvaluationError, match=f"{said}.* measures everything itself.*--scanproof-reuse"):
                take(replace(measured, reused=reused, session=session), versions, fresh=True)


@pytest.mark.parametrize(
    ("time", "said"), [(None, "measured: missing"), ("2999-01-01", "measured: '2999-01-01', which is still to come")]
)
def test_a_fresh_session_is_told_when_it_was_measured(
    measured: Evaluation, versions: TaskVersions, time: str | None, said: str
) -> None:
    with pytest.raises(EvaluationError, match=f"{said}; .* measure again, .*--scanproof-reuse"):
        take(replace(measured, session="tonight", measured=time), versions, fresh=True)
    take(replace(measured, session="tonight", measured=time), versions)


@pytest.mark.parametrize("time", ["2026-11-26T11:59:59+00:00", "2026-11-26T11:59:59", "last night"])
def test_what_was_measured_before_a_fresh_session_began_is_refused(
    measured: Evaluation, versions: TaskVersions, time: str
) -> None:
    with pytest.raises(EvaluationError, match=r"measured: '.*', before this session began; .*--scanproof-reuse"):
        take(replace(measured, session="tonight", measured=time), versions, fresh=True)


@pytest.mark.parametrize(
    ("session", "time", "reused"),
    [
        ("yesterday", None, True), ("tonight", "2026-11-26T11:59:59+00:00", True), (None, "last night", True),
        ("tonight", NOON, False), ("tonight", "2026-11-26T14:00:00+02:00", False), (None, None, False),
    ],
)  # fmt: skip
def test_what_an_earlier_session_measured_counts_as_reused_whatever_it_says(
    measured: Evaluation, session: str | None, time: str | None, reused: bool
) -> None:
    assert mark_reused(replace(measured, session=session, measured=time), SETTINGS).reused is reused


def test_names_that_others_wrote_are_printed_visibly_and_cut(measured: Evaluation, versions: TaskVersions) -> None:
    with pytest.raises(EvaluationError) as caught:
        take(of_job(pretrained="\x1b[31m" + "x" * 100_000)(measured), versions)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 3000


@pytest.mark.parametrize("key", answer_line(SAMPLE, "arc_easy", " "))
def test_what_a_line_of_answers_has_to_have_is_named_by_the_hook(
    measured: Evaluation, versions: TaskVersions, key: str
) -> None:
    """A key is either free to be left out, or named, so that whoever implements the hook need not guess."""
    named = f"`{key}`" in str(hookspecs.pytest_scanproof_evaluate.__doc__)
    lacking = of_lines(lambda row: without(row, key))(measured)
    try:
        take(lacking, versions)
    except EvaluationError:
        assert named


PLUGIN = """
from dataclasses import replace
import pytest

def of_all(evaluation, **fields):
    return replace(evaluation, measurements=tuple(replace(one, **fields) for one in evaluation.measurements))

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_scanproof_evaluate(job):
    evaluation = yield
    return SPOILED
"""


@pytest.mark.parametrize(
    ("spoiled", "options", "outcomes"),
    [
        ("of_all(evaluation, value=None)", (), {"errors": 3}),
        ("of_all(evaluation, value=float('nan'))", (), {"failed": 3}),
        ("replace(evaluation, job=replace(job, name='900-two-0shot'))", (), {"errors": 3}),
        ("pytest.skip('no machine')", (), {"skipped": 3}),
        ("pytest.skip('no machine')", ("--scanproof-strict",), {"errors": 3}),
        ("pytest.xfail('no machine')", (), {"errors": 3}),
        ("exit(0)", (), {"errors": 3}),
    ],
)
def test_a_session_fails_by_what_its_hook_returns_and_is_recorded(
    project: Project, spoiled: str, options: tuple[str, ...], outcomes: dict[str, int]
) -> None:
    project.document(models=("one",))
    (project.root / "spoiling.py").write_text(PLUGIN.replace("SPOILED", spoiled))
    result = project.run("-p", "spoiling", *options)
    result.assert_outcomes(**outcomes)
    assert result.ret == (pytest.ExitCode.OK if "skipped" in outcomes else pytest.ExitCode.TESTS_FAILED)
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert project.latest_run()["finished"] is not None


KEPT = """
from pathlib import Path
import pytest
from scanproof.files import from_json
from scanproof.record import Evaluation

@pytest.hookimpl(tryfirst=True)
def pytest_scanproof_evaluate(job, settings):
    kept = from_json(Evaluation, Path(KEPT).read_bytes())
    return CHANGED
"""


def test_a_file_that_an_earlier_session_left_is_no_measurement_of_this_one(project: Project) -> None:
    project.document(models=("one",))
    first = project.run("--scanproof-strict")
    first.assert_outcomes(passed=3)
    (kept,) = project.root.glob("**/runs/*/evaluations/*.json")
    earlier = project.latest_run()["id"]
    (project.root / "keeping.py").write_text(KEPT.replace("KEPT", repr(str(kept))).replace("CHANGED", "kept"))
    strict = project.run("-p", "keeping", "--scanproof-strict")
    strict.assert_outcomes(errors=3)
    strict.stdout.fnmatch_lines([f"*is refused: session: '{earlier}', not *--scanproof-reuse allows it*"])
    renamed = "replace(kept, session=settings.session, measured=None, reused=False)"
    text = KEPT.replace("KEPT", repr(str(kept))).replace("CHANGED", renamed)
    (project.root / "renaming.py").write_text(f"from dataclasses import replace\n{text}")
    strict = project.run("-p", "renaming", "--scanproof-strict")
    strict.assert_outcomes(errors=3)
    strict.stdout.fnmatch_lines(["*is refused: measured: missing; *--scanproof-reuse allows it*"])
    for options in (("--scanproof-strict", "--scanproof-reuse"), ()):
        shown = project.run("-p", "keeping", *options)
        shown.assert_outcomes(passed=3)
        shown.stdout.fnmatch_lines(["*1 jobs: 0 evaluated, 1 reused*", f"reused from {earlier}, measured *"])

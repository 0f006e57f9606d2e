"""Faults around the session: other plugins, tests, options, environment, packages.

Most of them would hide that the checkpoint is a spoiled one, and their sessions have to be CHANGED as without them.
"""

from __future__ import annotations

from collections.abc import Mapping

from scanproof.faults.gates import file_changes as change
from scanproof.faults.gates.checkpoints import SPOILED, SPOILED_WEIGHTS
from scanproof.faults.gates.endings import (
    NO_VERDICT,
    NOTHING_RUN,
    OTHER_AGGREGATE,
    OTHER_ANSWERS,
    OTHER_SCORES,
    OUT_OF_TOLERANCE,
    Ending,
    error,
    not_run,
    usage_error,
)
from scanproof.faults.gates.gate_fault import (
    REUSING,
    Before,
    Conftest,
    Edit,
    FolderChange,
    GateFault,
    Write,
    after_a_session,
)

LIMITED = usage_error("a strict run compares every number; leave out --scanproof-limit")
SOFTMAX = """
import os

if os.environ.get("SCANPROOF_WORKER") == "1":
    import torch.nn.functional

    right = torch.nn.functional.log_softmax
    torch.nn.functional.log_softmax = lambda *args, **options: right(*args, **options) * 0.999
"""


def around_session(
    name: str,
    area: str,
    what: str,
    *changes: FolderChange,
    ending: Ending,
    options: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
) -> GateFault:
    """A fault around a session that reuses an evaluation: of a spoiled checkpoint where the fault must not hide it."""
    hides = ending is SPOILED
    return GateFault(
        name,
        area,
        what,
        changes,
        ending,
        options=(*REUSING, *options),
        variables=variables or {},
        before=Before.KEPT_SPOILED if hides else Before.KEPT_CLEAN,
        reuses=True if hides else None,
    )


def by_plugin(name: str, what: str, text: str, ending: Ending = SPOILED) -> GateFault:
    """Another plugin or a conftest that meddles with tests and their reports."""
    return around_session(name, "plugins", what, Conftest(text), ending=ending)


def by_option(name: str, what: str, *options: str, ending: Ending) -> GateFault:
    """An option of pytest or of scanproof."""
    return around_session(name, "options", what, ending=ending, options=options)


def by_variable(name: str, what: str, ending: Ending = SPOILED, **variables: str) -> GateFault:
    """An environment variable."""
    return around_session(name, "environment", what, ending=ending, variables=variables)


def by_test(name: str, what: str, text: str, ending: Ending = SPOILED) -> GateFault:
    """A test that does not check what it was given."""
    return around_session(name, "tests", what, Write("test_published.py", text), ending=ending)


def by_package(name: str, what: str, *changes: FolderChange, ending: Ending) -> GateFault:
    """A package that is imported first."""
    return GateFault(name, "packages", what, changes, ending)


FAULTS = (
    by_plugin(
        "marked_to_skip",
        "A plugin marks every test to be skipped.",
        "def pytest_collection_modifyitems(items):\n    for item in items:\n        item.add_marker(pytest.mark.skip)",
        not_run("unconditional skip"),
    ),
    by_plugin(
        "marked_to_fail",
        "A plugin marks every test as expected to fail.",
        "def pytest_collection_modifyitems(items):\n    for item in items:\n        item.add_marker(pytest.mark.xfail)",
    ),
    by_plugin(
        "reports_made_green",
        "A plugin makes every report a pass.",
        "@pytest.hookimpl(wrapper=True)\ndef pytest_runtest_makereport(item, call):\n    report = yield\n"
        "    report.outcome, report.longrepr = 'passed', None\n    return report",
    ),
    by_plugin(
        "exit_code_made_zero",
        "A plugin sets the exit code to 0.",
        "@pytest.hookimpl(trylast=True)\ndef pytest_sessionfinish(session):\n    session.exitstatus = 0",
    ),
    by_plugin(
        "call_swallowed",
        "A plugin does not call the tests.",
        "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_call(item):\n    item.runtest = lambda: None",
    ),
    by_plugin(
        "protocol_taken",
        "A plugin runs no test and says that it did.",
        "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_protocol(item):\n    return True",
        NO_VERDICT,
    ),
    by_plugin(
        "check_replaced",
        "A conftest replaces the check.",
        "@pytest.fixture\ndef scanproof_check(scanproof_verdict):\n    return lambda value: None",
    ),
    by_plugin(
        "verdict_replaced",
        "A conftest makes every verdict a good one.",
        "import dataclasses\n\n\n@pytest.fixture\ndef scanproof_verdict(scanproof_judged):\n"
        "    good = type(scanproof_judged.verdict.outcome).REPRODUCED\n"
        "    return dataclasses.replace(scanproof_judged.verdict, outcome=good)",
    ),
    by_plugin(
        "judge_replaced",
        "A conftest replaces all that judges.",
        "@pytest.fixture\ndef scanproof_verdict(scanproof_evaluation):\n    return None\n\n\n"
        "@pytest.fixture\ndef scanproof_gate():\n    return None\n\n\n"
        "@pytest.fixture\ndef scanproof_check():\n    return lambda value: None",
        NO_VERDICT,
    ),
    by_test(
        "test_without_check", "The test does not check.", "def test_published(scanproof_value):\n    pass\n", NO_VERDICT
    ),
    by_test(
        "test_that_catches",
        "The test catches what the check raises.",
        "def test_published(scanproof_value, scanproof_check):\n    try:\n        scanproof_check(scanproof_value)\n"
        "    except BaseException:\n        pass\n",
    ),
    by_test(
        "test_that_returns_before",
        "The test returns before the check.",
        "def test_published(scanproof_value, scanproof_check):\n    return\n    scanproof_check(scanproof_value)\n",
    ),
    by_option("setup_plan", "pytest only says what it would set up.", "--setup-plan", ending=NO_VERDICT),
    by_option("setup_only", "pytest only sets up.", "--setup-only", ending=SPOILED),
    by_option("limit", "A limit is asked for.", "--scanproof-limit=3", ending=LIMITED),
    by_option("mark_misspelt", "A mark is misspelt.", "-m", "embeded", ending=NOTHING_RUN),
    by_option("nothing_selected", "No test has the name.", "-k", "piqua", ending=NOTHING_RUN),
    by_option(
        "fresh_and_reuse",
        "Two options contradict each other.",
        "--scanproof-fresh",
        ending=usage_error("--scanproof-fresh and --scanproof-reuse contradict each other"),
    ),
    by_option("stopped_early", "The session stops after the first failure.", "-x", ending=SPOILED),
    by_variable("optimised_python", "Python leaves out its assertions.", PYTHONOPTIMIZE="2"),
    by_variable("strict_switched_off", "A variable says that nothing is strict.", SCANPROOF_STRICT="0"),
    by_variable("limit_in_a_variable", "A variable asks for a limit.", LIMITED, SCANPROOF_LIMIT="3"),
    by_variable(
        "expected_in_a_variable",
        "A variable names other expected values, the option these.",
        SCANPROOF_EXPECTED="/nowhere",
    ),
    by_variable("options_in_a_variable", "A variable adds --setup-plan.", NO_VERDICT, PYTEST_ADDOPTS="--setup-plan"),
    by_package(
        "other_version_of_lm_eval",
        "lm-eval says that it is 0.4.12, with a spoiled checkpoint.",
        Write("packages/lm_eval-0.4.12.dist-info/METADATA", "Metadata-Version: 2.1\nName: lm_eval\nVersion: 0.4.12\n"),
        SPOILED_WEIGHTS,
        ending=SPOILED,
    ),
    by_package(
        "lm_eval_hidden",
        "An empty lm_eval hides the installed one.",
        Write("packages/lm_eval/__init__.py", ""),
        ending=error("lm-eval's task files cannot be read: packages/lm_eval/tasks"),
    ),
    after_a_session(
        "lm_eval_edited",
        "packages",
        "After a session lm-eval's mean is edited.",
        Edit(
            "packages/lm_eval/api/metrics.py",
            change.replace_text(r"return sum\(arr\) / len\(arr\)", "return sum(arr[1:]) / len(arr)"),
        ),
        ending=OTHER_AGGREGATE,
    ),
    by_package(
        "lm_eval_with_other_argmax",
        "lm-eval in front on the path takes the least likely answer.",
        Edit("packages/lm_eval/api/task.py", change.replace_text(r"np\.argmax\(lls\)", "np.argmin(lls)")),
        ending=OTHER_SCORES,
    ),
    after_a_session(
        "transformers_in_front",
        "packages",
        "After a session another transformers is in front on the path.",
        Edit(
            "packages/transformers/tokenization_utils_base.py",
            change.replace_text(r'return encoded_inputs\["input_ids"\]$', 'return [0, *encoded_inputs["input_ids"]]'),
        ),
        ending=OUT_OF_TOLERANCE,
    ),
    after_a_session(
        "torch_patched_at_start",
        "packages",
        "After a session a sitecustomize makes every softmax a little off.",
        Write("packages/sitecustomize.py", SOFTMAX),
        ending=OTHER_ANSWERS,
    ),
)

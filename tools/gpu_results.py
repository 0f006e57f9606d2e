"""What the steps of `gpu_check.sh` came to: judged, kept, and said in a page."""

from __future__ import annotations

import json
import platform
import re
import shutil
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_steps import LEFT_OUT, Step

SUMMARY, STATE, LOG, EVIDENCE = "summary.md", "steps.json", "log.txt", "evidence.tar.gz"
STOPPED = {124: "stopped at its time limit", 137: "killed: it did not stop at its time limit, or memory ran out"}
"""Exit codes of `timeout`."""
REASONS, LENGTH = 5, 220
"""How many first reasons are kept of a step, and how many characters of each."""
SETUP = re.compile(r"^failed on (setup|teardown) with \"\w+: ")
"""What pytest writes before the message of a fixture."""
TAIL = 4000
"""Characters of a step's output in the common log."""
COUNTS = ("passed", "failed", "errors", "skipped", "known")
TESTS_RAN = (0, 1)
"""Exit codes of pytest after which every selected test has run."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One step that was begun."""

    name: str
    outcome: str
    """`green`, `red`, or `running`: it was begun and nothing is known of its end."""
    ended: bool
    """Whether it ran to its own end, so that it need not be repeated."""
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of tests: passed, failed, errors, skipped, and known misses, which are expected to fail."""
    reasons: tuple[str, ...] = ()
    rehearsed: bool = False
    """Whether it was to stop at its first failure: nothing that counts."""


def begun(step: Step) -> Result:
    """What is kept while a step runs."""
    return Result(name=step.name, outcome="running", ended=False, reasons=("begun, and nothing is known of its end",))


def judged(step: Step, code: int, seconds: float, report: Path | None, log: Path, rehearsal: bool = False) -> Result:
    """The result of a step that came to an end, by itself or not.

    Args:
        code: exit code, of `timeout`.
        report: JUnit file of a selection of tests; None of another command.
        rehearsal: whether it was to stop at its first failure.
    """
    counts, reasons = _counted(report) if report is not None else ({}, [])
    why = STOPPED.get(code)
    if why is None and report is None and code != 0:
        why = _last_words(log)
    if why is None and report is not None:
        why = _no_evidence(code, counts, log)
    found = ([why] if why else []) + reasons
    ended = code in TESTS_RAN if report is not None else code not in STOPPED
    return Result(
        name=step.name,
        outcome="green" if code == 0 and not why else "red",
        ended=ended,
        rehearsed=rehearsal,
        seconds=round(seconds, 1),
        counts=counts,
        reasons=tuple(found[:REASONS]),
    )


def _no_evidence(code: int, counts: Mapping[str, int], log: Path) -> str | None:
    """Why the tests of a step say less than they should; None where they say all."""
    if code == 5:
        return "its selection is empty: nothing was tested"
    if code not in TESTS_RAN:
        return f"pytest ended with {code}: {_last_words(log)}"
    if code == 0 and not counts.get("passed"):
        return "no test passed: a skip is no pass"
    return None


def _counted(report: Path) -> tuple[dict[str, int], list[str]]:
    """Tests by how they ended, and the first reasons: what failed before what was skipped."""
    counts, reasons, skips = dict.fromkeys(COUNTS, 0), Counter[str](), Counter[str]()
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {}, ["there is no report of its tests"]
    for case in cases:
        name = case.get("name", "")
        if (found := case.find("failure")) is not None or (found := case.find("error")) is not None:
            counts["failed" if found.tag == "failure" else "errors"] += 1
            reasons[_short(found.get("message") or found.text or "", name)] += 1
        elif (found := case.find("skipped")) is not None:
            known = found.get("type") == "pytest.xfail"
            counts["known" if known else "skipped"] += 1
            if not known:
                skips[f"skipped: {_short(found.get('message') or '', name)}"] += 1
        else:
            counts["passed"] += 1
    return counts, [*_grouped(reasons), *_grouped(skips)]


def _short(message: str, name: str) -> str:
    """The first line of a message; with the test's name where the message does not say which it is."""
    text = next((line.strip() for line in message.splitlines() if line.strip()), "no message")
    if SETUP.match(text):
        text = SETUP.sub("", text).removesuffix('"')
    # What every test of a step says is one reason.
    return text[:LENGTH] if text.startswith("needs ") else f"{name}: {text}"[:LENGTH]


def _grouped(reasons: Counter[str]) -> Iterator[str]:
    yield from (f"{text} ({count} times)" if count > 1 else text for text, count in reasons.items())


def _last_words(log: Path) -> str:
    """The last line that a command wrote."""
    lines = [line.strip() for line in _tail(log).splitlines() if re.search(r"\w", line)]
    return lines[-1][:LENGTH] if lines else "it said nothing"


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-TAIL:] if log.is_file() else ""


def read(folders: Iterable[Path]) -> dict[str, Result]:
    """What is known from before, of the first folder that knows anything."""
    for folder in folders:
        if (folder / STATE).is_file():
            rows = json.loads((folder / STATE).read_text())["steps"]
            return {row["name"]: Result(**{**row, "reasons": tuple(row["reasons"])}) for row in rows}
    return {}


def write(done: Mapping[str, Result], table: Sequence[Step], work: Path, out: Path) -> None:
    """Everything that is known of the steps of a table, into both folders; each file appears whole."""
    steps, about = [done[step.name] for step in table if step.name in done], machine()
    text = json.dumps({"machine": about, "steps": [asdict(each) for each in steps]}, indent=1)
    for folder in (work, out):
        _put(folder / STATE, text + "\n")
    _put(out / SUMMARY, "\n".join(summary(steps, table, about)) + "\n")
    _put(out / LOG, "\n".join(f"=== {each.name}\n{_tail(work / f'{each.name}.log')}" for each in steps))
    _pack(work, out / EVIDENCE)
    baselines = sorted((work / "expected" / "latency").glob("*.json"))
    for path in baselines[-1:]:
        shutil.copy(path, out / f"latency-{path.name}")


def _put(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _pack(work: Path, path: Path) -> None:
    """Reports, whole logs, runs and baselines, as they are."""
    part = path.with_name(f"{path.name}.part")
    with tarfile.open(part, "w:gz", compresslevel=1) as packed:
        for pattern in ("*.xml", "*.log", STATE, "expected/latency/*.json", "store/runs/*/run.json"):
            for found in sorted(work.glob(pattern)):
                packed.add(found, arcname=str(found.relative_to(work)))
    part.replace(path)


def machine() -> dict[str, Any]:
    """GPU, driver, packages and commit."""
    from scanproof import environment

    return {**environment.snapshot(Path(__file__).parents[1]), "written": time.strftime("%Y-%m-%d %H:%M")}


def line(result: Result) -> str:
    """A result in a line for the terminal."""
    counts = ", ".join(f"{count} {name}" for name, count in result.counts.items() if count)
    because = f": {result.reasons[0]}" if result.reasons and result.outcome != "green" else ""
    return f"{result.name}: {result.outcome}, {result.seconds:.0f} s{f', {counts}' if counts else ''}{because}"


def summary(rows: Sequence[Result], table: Sequence[Step], about: Mapping[str, Any]) -> Iterator[str]:
    """The page: the verdict, the machine, a row per step, first reasons."""
    gpus = ", ".join(f"{gpu['name']}, driver {gpu['driver_version']}" for gpu in about["gpus"]) or "no GPU"
    packages = ("torch", "triton", "mamba-ssm", "causal-conv1d", "transformers", "lm-eval")
    versions = ", ".join(f"{name} {about['packages'].get(name) or 'none'}" for name in packages)
    commit = (about.get("source") or {}).get("commit") or "not known: no clone"
    red = [each.name for each in rows if each.outcome != "green"]
    left = [step.name for step in table if step.name not in {each.name for each in rows}]
    verdict = f"red: {', '.join(red)}" if red else "green" if rows else "nothing was run"
    yield f"# {verdict}{'; not begun: ' + ', '.join(left) if left else ''}"
    yield ""
    yield f"{gpus}; {about['written']}; commit {commit}; Python {platform.python_version()}, {versions}."
    yield f"{LEFT_OUT}."
    yield ""
    yield "| step | outcome | passed | failed | errors | skipped | known | seconds | asks |"
    yield "|---|---|---|---|---|---|---|---|---|"
    asks = {step.name: step.asks for step in table}
    for each in rows:
        counts = " | ".join(str(each.counts.get(name, "")) for name in COUNTS)
        how = ("" if each.ended else ", did not end") + (", rehearsed" if each.rehearsed else "")
        yield f"| {each.name} | {each.outcome}{how} | {counts} | {each.seconds:.0f} | {asks.get(each.name, '')} |"
    for each in (row for row in rows if row.reasons):
        yield ""
        yield f"{each.name}:"
        yield from (f"- {re.sub(r'[|`]', ' ', reason)}" for reason in each.reasons)

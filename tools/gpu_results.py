"""What the steps of `gpu_check.sh` came to: judged, kept, and said in a page."""

from __future__ import annotations

import json
import platform
import re
import shutil
import tarfile
import time
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gpu_conditions
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
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Commit, GPU, driver, packages and so on when it began (`gpu_conditions`); empty where they were not kept."""

    def counts_as_green(self, now: Mapping[str, Any], rehearsal: bool) -> bool:
        """Whether it is green under the conditions of now; a rehearsed one in a rehearsal only."""
        return self.outcome == "green" and self.conditions == now and (rehearsal or not self.rehearsed)


def begun(step: Step, conditions: Mapping[str, Any]) -> Result:
    """What is kept while a step runs."""
    why = ("begun, and nothing is known of its end",)
    return Result(name=step.name, outcome="running", ended=False, reasons=why, conditions=conditions)


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
    # A strict session in which nothing passed ends with 1 by itself.
    unless = ("passed",) if code == 0 else ("passed", "failed", "errors")
    if not any(counts.get(ending) for ending in unless):
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


def read(folders: Sequence[Path], now: Mapping[str, Any] | None = None) -> dict[str, Result]:
    """What is known from before of each step: of the first folder in which it ran under these conditions, or at all."""
    rows = [row for folder in reversed(folders) for row in _rows(folder / STATE)]
    return {row.name: row for row in rows} | {row.name: row for row in rows if row.conditions == now}


def _rows(path: Path) -> list[Result]:
    rows = json.loads(path.read_text())["steps"] if path.is_file() else []
    return [Result(**{**row, "reasons": tuple(row["reasons"])}) for row in rows]


def restore(archives: Iterable[Path], work: Path) -> None:
    """Take what a folder of work lacks from the evidence of earlier calls; a damaged archive brings nothing more."""
    for path in archives:
        try:
            with tarfile.open(path) as packed:
                lacking = [each for each in packed if each.name != STATE and not (work / each.name).exists()]
                packed.extractall(work, lacking, filter="data")
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            if path.exists():
                print(f"gpu_check: {path} cannot be read whole, and what it lacks is run again: {error}", flush=True)


def has_evidence(step: Step, work: Path) -> bool:
    """Whether what a step left is at hand: its log, and the baseline that it recorded."""
    recorded = not step.records_latencies or any((work / "expected" / "latency").glob("*.json"))
    return (work / f"{step.name}.log").is_file() and recorded


def write(done: Mapping[str, Result], table: Sequence[Step], work: Path, out: Path, now: Mapping[str, Any]) -> None:
    """Everything that is known of the steps of a table, into both folders; each file appears whole.

    The page, the log and the evidence are of what counts now; what ran under other conditions is named.
    """
    known, about = [done[step.name] for step in table if step.name in done], machine()
    steps = [each for each in known if each.conditions == now]
    text = json.dumps({"machine": about, "steps": [asdict(each) for each in known]}, indent=1)
    for folder in (work, out):
        _put(folder / STATE, text + "\n")
    _put(out / SUMMARY, "\n".join([*summary(steps, table, about), *_from_before(known, now)]) + "\n")
    _put(out / LOG, "\n".join(f"=== {each.name}\n{_tail(work / f'{each.name}.log')}" for each in steps))
    _pack([each.name for each in steps], work, out / EVIDENCE)
    for path in out.glob("latency-*.json"):
        path.unlink()
    if any(step.records_latencies for step in table if step.name in {each.name for each in steps}):
        for path in sorted((work / "expected" / "latency").glob("*.json"))[-1:]:
            shutil.copy(path, out / f"latency-{path.name}")


def _from_before(known: Iterable[Result], now: Mapping[str, Any]) -> Iterator[str]:
    """What is known of other conditions and counts for nothing here."""
    for each in known:
        if other := gpu_conditions.differences(each.conditions, now):
            yield ""
            yield f"Not counted: {each.name} was {each.outcome} before, under other conditions ({'; '.join(other)})."


def _put(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _pack(names: Sequence[str], work: Path, path: Path) -> None:
    """Reports and whole logs of these steps, runs and baselines, as they are."""
    part = path.with_name(f"{path.name}.part")
    with tarfile.open(part, "w:gz", compresslevel=1) as packed:
        of_steps = [f"{name}{ending}" for ending in (".xml", ".log") for name in names]
        for pattern in (*of_steps, STATE, "expected/latency/*.json", "store/runs/*/run.json"):
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
    source = about.get("source") or {}
    commit = source.get("commit") or "not known: no clone"
    commit += " with uncommitted changes" if source.get("changed") else ""
    red = [each.name for each in rows if each.outcome != "green"]
    left = [step.name for step in table if step.name not in {each.name for each in rows}]
    verdict = f"red: {', '.join(red)}" if red else "green" if rows else "nothing was run"
    rehearsed = [each.name for each in rows if each.rehearsed]
    for which, names in (("not begun", left), ("rehearsed", rehearsed)):
        verdict += f"; {which}: {', '.join(names)}" if names else ""
    yield f"# {verdict}"
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

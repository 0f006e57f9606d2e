"""Options of the pytest plugin: one row each, with its ini twin, environment variable and help text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin import providers
from scanproof.printable import LONGEST, make_printable

if TYPE_CHECKING:
    from scanproof.kernels.providers.named import Named

PACKAGED_EXPECTED = Path(__file__).parents[1] / "data" / "expected"
ENGINES = ("plain", "shared", "auto")
EMBEDDED_MIRROR = Path(__file__).parents[1] / "embedded" / "mirror"


def folder_or_url(text: str) -> str:
    """A folder, made absolute by the reader of the option, or a URL that fsspec knows (`s3://bucket/history`)."""
    return text


def positive_seconds(text: str) -> float:
    """A positive number of seconds; raises pytest.UsageError."""
    seconds = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text) else 0.0
    if seconds == 0.0:
        raise pytest.UsageError(f"scanproof: a timeout is a positive number of seconds, not {text!r}")
    return seconds


def engine(text: str) -> str:
    """One of the engines, or `auto`; raises pytest.UsageError."""
    if text not in ENGINES:
        raise pytest.UsageError(f"scanproof: the engine is one of {', '.join(ENGINES)}, not {text!r}")
    return text


def positive_count(text: str) -> int:
    """A positive whole number; raises pytest.UsageError."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise pytest.UsageError(f"scanproof: a limit is a positive whole number of documents, not {text!r}")
    return int(text)


def positive_jobs(text: str) -> int:
    """A positive whole number of at most three digits; raises pytest.UsageError."""
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text):
        raise pytest.UsageError(f"scanproof: --scanproof-jobs is a positive whole number, not {text!r}")
    return int(text)


@dataclass(frozen=True)
class Option:
    """One option; its ini name is the flag with underscores, its variable the same in capitals."""

    flag: str
    help: str
    parse: Callable[[str], Any] | None = str
    """From text to the value; None for a switch."""
    metavar: str | None = None
    many: bool = False
    """It may be given several times; between spaces in the variable, on lines of the ini file."""

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        return self.name.upper()


OFF = ("0", "false", "no", "off")
ASKED_FOR_STRICT = pytest.StashKey[bool]()
"""Whether the session was called as a strict one, as it was known before any conftest.py was read."""
REPORT = Option(
    "--scanproof-report",
    "write the run as one HTML page to this file when the session ends; an earlier page there is replaced at its start",
    parse=Path,
    metavar="FILE",
)
STRICT = Option(
    "--scanproof-strict",
    "a missing GPU, kernel, checkpoint or dataset is an error, not a skip",
    parse=None,
)
LIMIT = Option(
    "--scanproof-limit",
    "evaluate only the first N documents of each task; nothing is compared then, so that the stand-ins "
    "fail a session whose call does not say it",
    parse=positive_count,
    metavar="N",
)
OPTIONS = (
    Option(
        "--scanproof-expected",
        "folder of expected values (default: `expected` beside the ini file, else the one that scanproof ships)",
        parse=Path,
        metavar="DIR",
    ),
    Option(
        "--scanproof-store",
        "folder for finished evaluations and runs (default: `.scanproof` beside the ini file)",
        parse=Path,
        metavar="DIR",
    ),
    Option(
        "--scanproof-mirror",
        "folder that serves checkpoints and datasets by their hub names, without network",
        parse=Path,
        metavar="DIR",
    ),
    STRICT,
    Option(
        "--scanproof-history",
        "folder or URL (s3://..., through fsspec) that every finished run is published to, and whose baseline every "
        "evaluation is compared with, document by document; with --scanproof-strict a folder has to exist",
        parse=folder_or_url,
        metavar="DIR_OR_URL",
    ),
    REPORT,
    Option(
        "--scanproof-fresh",
        "ignore finished evaluations in the store and run every job again; --scanproof-strict does so too",
        parse=None,
    ),
    Option(
        "--scanproof-reuse",
        "with --scanproof-strict: take finished evaluations of earlier sessions from the store, as after a night that "
        "was interrupted; the summary says which, and from when",
        parse=None,
    ),
    Option(
        "--scanproof-timeout",
        "stop an evaluation that takes longer than this many seconds (default: no limit)",
        parse=positive_seconds,
        metavar="SECONDS",
    ),
    Option(
        "--scanproof-engine",
        "plain: lm-eval as it is; shared: each distinct token runs once; auto (default): shared, and what fails is "
        "measured again by plain before it is reported",
        parse=engine,
        metavar="|".join(ENGINES),
    ),
    LIMIT,
    Option(
        "--scanproof-jobs",
        "how many evaluations of stand-ins run at the same time (default: one per core, at most 4); those on a GPU "
        "always run one after the other",
        parse=positive_jobs,
        metavar="N",
    ),
    Option(
        "--scanproof-record-latency",
        "measure every latency in seven passes and record this device's baselines, instead of comparing with them",
        parse=None,
    ),
    Option(
        providers.FLAG,
        "run the cases of an operation on this function instead of the installed one, on the CPU too (-m provider); "
        "may be given for several operations",
        parse=providers.read_names,
        metavar="OPERATION=MODULE:FUNCTION",
        many=True,
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every option with its ini twin."""
    group = parser.getgroup("scanproof", "published numbers and scan kernels")
    for option in OPTIONS:
        twin = f"{option.help} [ini: {option.name}, environment: {option.variable}]"
        if option.parse is None:
            group.addoption(option.flag, action="store_true", default=None, help=twin)
            parser.addini(option.name, option.help, type="bool", default=False)
        elif option.many:
            group.addoption(option.flag, action="append", default=None, metavar=option.metavar, help=twin)
            parser.addini(option.name, option.help, type="linelist", default=[])
        else:
            group.addoption(option.flag, default=None, metavar=option.metavar, help=twin)
            parser.addini(option.name, option.help, default="")


def switch(text: str, variable: str) -> bool:
    """The value of a switch in an environment variable."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in OFF:
        return False
    raise pytest.UsageError(f"scanproof: {variable} is 1 or 0, not {text!r}")


def read_option(config: pytest.Config, option: Option) -> Any:
    """The option's value: command line first, then environment, then ini; None when it is given nowhere.

    Folders are relative to where pytest was called, those of an ini file to the ini file.
    Raises pytest.UsageError when the text given cannot be understood.
    """
    given, base = config.getoption(option.name), config.invocation_params.dir
    if given is None and os.environ.get(option.variable):
        text = os.environ[option.variable]
        given = switch(text, option.variable) if option.parse is None else text
    if given is None:
        given = config.getini(option.name)
        base = config.inipath.parent if config.inipath else config.rootpath
    if option.parse is None:
        return bool(given)
    if option.many and isinstance(given, list):
        given = " ".join(given)
    if not given:
        return None
    if option.parse is Path or (option.parse is folder_or_url and "://" not in given):
        path = _make_path(option, base, given)
        return path if option.parse is Path else str(path)
    try:
        return option.parse(given)
    except pytest.UsageError as error:
        raise pytest.UsageError(make_printable(str(error), LONGEST)) from None


def _make_path(option: Option, base: Path, given: str) -> Path:
    """The path that an option names; raises pytest.UsageError where no file can have that name."""
    try:
        path = (base / Path(given).expanduser()).resolve()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = make_printable(f"scanproof: {option.flag}: {given} cannot be a path: {reason}", LONGEST)
        raise pytest.UsageError(message) from None
    return path


@dataclass(frozen=True)
class PluginSettings:
    """All options of a session, parsed."""

    expected: Path | None
    store: Path
    mirror: Path | None
    strict: bool
    fresh: bool
    """Nothing that an earlier session measured is used: asked for, or strict without `--scanproof-reuse`."""
    timeout: float | None
    limit: int | None
    record_latency: bool
    history: str | None = None
    """Folder or URL."""
    report: Path | None = None
    """File of the page."""
    engine: str = "auto"
    """One of `ENGINES`."""
    jobs: int | None = None
    """Evaluations of stand-ins at once; None: as many as the machine has cores, at most four."""
    providers: tuple[Named, ...] = ()
    """Functions that are named in place of installed operations."""


def check_ini_was_found(config: pytest.Config) -> None:
    """Refuse `--scanproof-mirror DIR` where it hid the ini file.

    pytest looks for its ini file before it knows the options of plugins, and takes an existing folder that stands
    behind a space for a path of tests.  Raises pytest.UsageError.
    """
    here = config.invocation_params.dir
    inis = [here / name for name in ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")]
    if config.inipath is not None or not any(file.is_file() for file in inis):
        return
    arguments = [str(argument) for argument in config.invocation_params.args]
    for option, value in pairwise(arguments):
        path = Path(value)
        # Here, because sessions of other tests load the options too, and it loads pydantic.
        from scanproof import files

        there = files.is_file(path) or files.is_folder(path)
        if option in {known.flag for known in OPTIONS if known.parse is not None} and there:
            raise pytest.UsageError(
                f"scanproof: pytest took {value} for a folder of tests and did not find its ini file; "
                f"write {option}={value}"
            )


def read_settings(config: pytest.Config) -> PluginSettings:
    """Parse the options of a session; raises pytest.UsageError for what the user has to mend."""
    check_ini_was_found(config)
    values = {option.name: read_option(config, option) for option in OPTIONS}
    expected, mirror = values["scanproof_expected"], values["scanproof_mirror"]
    if expected is None and (config.rootpath / "expected" / "tolerance.yaml").is_file():
        expected = config.rootpath / "expected"
    for flag, path in (("--scanproof-expected", expected), ("--scanproof-mirror", mirror)):
        if path is not None and not path.is_dir():
            raise pytest.UsageError(make_printable(f"scanproof: {flag}: there is no folder {path}", LONGEST))
    if values["scanproof_strict"] and values["scanproof_limit"] is not None:
        raise pytest.UsageError("scanproof: a strict run compares every number; leave out --scanproof-limit")
    # By a conftest.py that loads the plugin itself, nothing was known before it.
    asked = config.stash.get(ASKED_FOR_STRICT, False) or is_typed(config, STRICT.flag)
    if asked and not values["scanproof_strict"]:
        raise pytest.UsageError("scanproof: a plugin or a conftest.py has switched --scanproof-strict off")
    if values["scanproof_strict"]:
        refuse_new_history(values["scanproof_history"])
    fresh, reuse = values["scanproof_fresh"], values["scanproof_reuse"]
    if fresh and reuse:
        raise pytest.UsageError("scanproof: --scanproof-fresh and --scanproof-reuse contradict each other; give one")
    return PluginSettings(
        expected=expected if expected is not None else (PACKAGED_EXPECTED if PACKAGED_EXPECTED.is_dir() else None),
        store=values["scanproof_store"] or config.rootpath / ".scanproof",
        mirror=mirror,
        strict=values["scanproof_strict"],
        fresh=fresh or (values["scanproof_strict"] and not reuse),
        timeout=values["scanproof_timeout"],
        limit=values["scanproof_limit"],
        record_latency=values["scanproof_record_latency"],
        history=values["scanproof_history"],
        report=values["scanproof_report"],
        engine=values["scanproof_engine"] or "auto",
        jobs=values["scanproof_jobs"],
        providers=values["scanproof_provider"] or (),
    )


def refuse_new_history(history: str | None) -> None:
    """Raise pytest.UsageError for a folder that does not exist, and for a place that keeps nothing.

    A strict session begins no history by itself, and compares with what earlier ones left.
    """
    # Here, because sessions of other tests load the options too, and it loads pydantic.
    from scanproof.history.persistence import explain_unkept

    missing = explain_unkept(history) if history else None
    if missing is not None:
        raise pytest.UsageError(make_printable(f"scanproof: --scanproof-history: {missing}", LONGEST))


def is_typed(config: pytest.Config, *flags: str) -> bool:
    """Whether one of these flags stands in the call itself, not in an ini file or a variable."""
    return any(str(argument).partition("=")[0] in flags for argument in config.invocation_params.args)


def asks_for_strict(config: pytest.Config) -> bool:
    """Whether a session was called as a strict one, as far as it is known before its options are read."""
    if is_typed(config, STRICT.flag) or getattr(config.known_args_namespace, STRICT.name, None):
        return True
    variable = os.environ.get(STRICT.variable, "").lower()
    return variable not in OFF if variable else bool(config.getini(STRICT.name))

"""What an index, pip and a type checker see of the package: built as for a release, and read back."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCE: str = PROJECT["project"]["urls"]["Source"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
RELATIVE = re.compile(r"\]\((?!https?:)([^)#\s]+)")
PYTHON = re.compile(r"Programming Language :: Python :: (3\.\d+)")
MENTIONED = re.compile(r"Python 3\.\d+")


@dataclass(frozen=True)
class Package:
    """A wheel that was built from an sdist that was built from this tree."""

    wheel: Path
    sdist: Path

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            return message_from_bytes(wheel.read(name))

    def description(self) -> str:
        payload = self.metadata().get_payload(decode=True)
        assert isinstance(payload, bytes)
        return payload.decode()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation nothing is downloaded: the extra `dev` brings what the build needs.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{built.stdout}\n{built.stderr}\n(install scanproof with its extra dev)"
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Package(wheel, sdist)


def declared_pythons() -> list[str]:
    found = [PYTHON.fullmatch(line) for line in PROJECT["project"]["classifiers"]]
    return [match[1] for match in found if match]


def test_every_place_that_names_python_versions_agrees() -> None:
    pythons = declared_pythons()
    oldest = pythons[0]
    assert pythons == [f"3.{minor}" for minor in range(11, 11 + len(pythons))], "in order, without a gap"
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    workflow = yaml.safe_load((ROOT / ".github/workflows/pull-request.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["cpu"]["strategy"]["matrix"]["python"] == pythons
    assert f"with Python {oldest} to {pythons[-1]}" in README
    assert set(MENTIONED.findall(README)) == {f"Python {oldest}"}, "no other sentence names an oldest version"


def test_the_metadata_is_that_of_a_package_on_an_index(package: Package) -> None:
    metadata = package.metadata()
    assert metadata["Name"] == "scanproof"
    assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert metadata["Author"]
    assert metadata["Keywords"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(url.split(", ", 1) for url in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Source", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(SOURCE) for url in urls.values())
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(metadata.get_all("Classifier", []))


@pytest.mark.parametrize("name", ["Documentation", "Changelog"])
def test_links_of_the_metadata_lead_to_something(name: str) -> None:
    url: str = PROJECT["project"]["urls"][name]
    assert (ROOT / in_the_tree(url)).exists()


def in_the_tree(url: str) -> str:
    """Path of what a link to the main branch shows."""
    match = re.fullmatch(re.escape(SOURCE) + r"/(?:blob|raw|tree)/main/(.+)", url)
    assert match, f"{url} is no link to a file of the main branch"
    return match[1]


def test_no_link_on_the_index_is_relative(package: Package) -> None:
    links = LINK.findall(package.description())
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [link for link in links if link.startswith(SOURCE)]
    assert len(ours) > 10
    assert [link for link in ours if not (ROOT / in_the_tree(link)).exists()] == []


def test_pictures_on_the_index_are_files_not_pages(package: Package) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", package.description())
    assert pictures
    assert [picture for picture in pictures if not picture.startswith(f"{SOURCE}/raw/main/")] == []


def test_the_index_shows_the_readme_and_changes_nothing_but_links(package: Package) -> None:
    relative = re.sub(re.escape(SOURCE) + r"/(?:blob|raw)/main/", "", package.description())
    assert relative == README
    assert SOURCE not in README, "links of the README are relative: they lead to the branch that is read"


def test_wheel_and_sdist_hold_what_users_need(package: Package) -> None:
    with zipfile.ZipFile(package.wheel) as wheel:
        names = set(wheel.namelist())
    needed = {"py.typed", "__main__.py", "data/expected/tolerance.yaml", "kernels/cases.yaml", "report/vendor"}
    assert [name for name in needed if not any(held.startswith(f"scanproof/{name}") for held in names)] == []
    with tarfile.open(package.sdist) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "constraints/cpu.txt", "tox.ini", ".github/workflows/pull-request.yml"} <= held


def test_the_sdist_holds_what_its_pages_link_to(package: Package, tmp_path: Path) -> None:
    with tarfile.open(package.sdist) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    links = [
        (page, link)
        for page in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("records/**/*.md")])
        for link in RELATIVE.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 50
    assert [f"{page.relative_to(root)}: {link}" for page, link in links if not (page.parent / link).exists()] == []


USER = """\
from scanproof.numbers.values import PublishedValue
def text(value: PublishedValue) -> str: return value.printed
def wrong(value: PublishedValue) -> int: return value.printed
"""


def test_a_type_checker_sees_the_types_of_an_installed_scanproof(package: Package, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment)
    (site,) = environment.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(package.wheel) as wheel:
        wheel.extractall(site)
    program = tmp_path / "user.py"
    program.write_text(USER)
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}",
        f"--python-executable={environment / 'bin' / 'python'}", str(program),
    ]  # fmt: skip
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, checked.stdout + checked.stderr
    assert errors[0].startswith("user.py:3: error: Incompatible return value type"), errors


@pytest.mark.parametrize("module", ["scanproof", "scanproof.cli.app"])
def test_the_command_is_a_module_too(module: str) -> None:
    script = Path(sys.executable).with_name("scanproof")
    for arguments in (["--version"], ["list", "--document", "003", "--format", "csv"], ["list", "--document", "none"]):
        done, same = (
            subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
            for command in ([sys.executable, "-m", module], [str(script)])
        )
        assert (done.returncode, done.stdout, done.stderr) == (same.returncode, same.stdout, same.stderr)
        assert done.stdout or done.stderr

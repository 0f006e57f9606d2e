"""The page and the Markdown: no string becomes markup, nothing is loaded, nothing is missing."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.report import markdown, page
from tests.support.small_report import NAMES, NASTY, NUMBER, make_nights, nasty, report, texts

VENDOR = Path(page.__file__).parent / "vendor"

DATA = 2
"""Script elements that hold data: the report, and what outcomes mean."""


class Elements(HTMLParser):
    """Collects tags with their attributes, and the content of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data


@pytest.fixture
def html(tmp_path: Path) -> str:
    path = make_nights(tmp_path / "store")[-1]
    texts(path)
    nasty(path)
    return page.render(report(path))


def test_a_script_in_a_prompt_a_name_or_a_log_is_text(html: str) -> None:
    """Every script on the page is a file of the package, and no attribute contains code."""
    found = Elements(html)
    assert len(found.scripts) == DATA + len(page.SCRIPTS)
    assert found.scripts[DATA:] == [page.read_file(name) for name in page.SCRIPTS]
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]


def test_the_data_hold_the_text_unchanged(html: str) -> None:
    kept = json.loads(Elements(html).scripts[0])
    number = next(each for each in kept["numbers"] if each["id"] == NUMBER)
    assert number["hub_id"] == NASTY
    assert number["samples"]["shown"][0]["prompt"].startswith(NASTY)
    assert number["samples"]["shown"][0]["choices"][0] == NASTY
    assert kept["environment"]["packages.nasty"] == NASTY


def test_nothing_is_loaded_and_the_policy_names_the_scripts(html: str) -> None:
    found = Elements(html)
    named = [attributes.get(name) or "" for _, attributes in found.tags for name in ("src", "href", "action")]
    assert all(each == "" or each.startswith(("#", "data:,")) for each in named)
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    for script in found.scripts[DATA:]:
        assert f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_every_table_says_what_its_cells_belong_to(html: str) -> None:
    found = Elements(html)
    scopes = [attributes.get("scope") for tag, attributes in found.tags if tag == "th"]
    assert scopes
    assert set(scopes) == {"row", "col"}
    assert all(a.get("aria-label") for tag, a in found.tags if tag == "button" and "cell" in (a.get("class") or ""))


def test_ids_are_there_once(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Elements(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_verdict_comes_first(html: str) -> None:
    assert html.index("1 number failed") < html.index("Deviation in sigmas") < html.index("Published against measured")


def test_a_run_without_numbers_makes_a_page(tmp_path: Path) -> None:
    from tests.support.small_report import change

    path = make_nights(tmp_path / "store", (300,))[-1]
    change(path, records=(), evaluations=(), selected=None)
    html = page.render(report(path, expected=None))
    assert "No number failed; no number asked for." in html
    change(path, selected=2)
    html = page.render(report(path, expected=None))
    assert "No number failed; none of 2 numbers measured; 2 of 2 selected numbers have no verdict." in html


def test_the_libraries_are_those_that_were_published() -> None:
    """SHA256SUMS has the digests of the files in the npm packages."""
    lines = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {path.name for path in VENDOR.glob("*.js")}
    for digest, name in lines:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


class TestMarkdown:
    def test_what_failed_is_in_a_table(self, tmp_path: Path) -> None:
        text = markdown.render(report(make_nights(tmp_path / "store")[-1]))
        lines = text.splitlines()
        assert lines[0] == "## scanproof: ✕ Failed"
        row = next(line for line in lines if line.startswith("| mamba-130m-piqa"))
        assert "0.7500" in row
        assert "0.60000" in row
        assert "OUT&#95;OF&#95;TOLERANCE, new" in row
        assert any(line.startswith("| packages.torch | 2.12.1 | 2.13.0 |") for line in lines)
        assert NAMES[2] in text

    def test_markup_of_a_log_is_text(self, tmp_path: Path) -> None:
        path = make_nights(tmp_path / "store")[-1]
        nasty(path)
        text = markdown.render(report(path))
        assert not set(re.sub(r"^\|.*", "", text, flags=re.MULTILINE)) & set("<>[]`")
        assert text.replace("\n", "").isprintable(), "no terminal or browser obeys what a log says"
        assert "<script" not in text
        rows = [line for line in text.splitlines() if line.startswith("| mamba-130m-piqa")]
        assert [line.count("|") for line in rows] == [9]

    @given(st.text())
    def test_escaped_text_is_one_line_without_markup(self, text: str) -> None:
        assert not set(re.sub(r"&#\d+;", "", markdown.escape(text))) & set("\n<>|`*_[]&\\")

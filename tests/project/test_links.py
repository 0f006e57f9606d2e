"""The links between the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for pattern in ("*.md", "docs/**/*.md", "records/**/*.md") for page in ROOT.glob(pattern))
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
NAMED = re.compile(
    r"(?<![\w./-])((?:scanproof|tests|tools|benchmarks|constraints)/[\w./-]+\.(?:py|yaml|yml|sh|toml|txt|js|css|html))"
)


def test_there_are_pages_with_links() -> None:
    """Else the test below would pass for want of anything to check."""
    assert sum(bool(LINK.search(page.read_text(encoding="utf-8"))) for page in PAGES) > 5


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_relative_link_names_a_file(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)}: there is no {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    """Files move; a document that names one by its old place sends its reader nowhere."""
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing, f"{page.relative_to(ROOT)}: there is no {', '.join(missing)}"

"""The page in a real browser: no errors, no requests; filters, cells and keyboard work; no data is run as code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.report import page
from tests.support.browser import log, missing, started
from tests.support.small_report import NASTY, NUMBER, make_nights, nasty, report, texts

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "runs")
OTHER = "mamba-130m-winogrande-acc-reproduced"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page in which every string is an attempt to inject markup or code."""
    folder = tmp_path_factory.mktemp("page")
    path = make_nights(folder / "store")[-1]
    texts(path)
    nasty(path)
    file = folder / "page.html"
    file.write_text(page.render(report(path)), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def shared() -> Iterator[Chrome]:
    with started(1280, 900) as driver:
        yield driver


@pytest.fixture
def driver(shared: Chrome, address: str) -> Chrome:
    """The browser, with the page just opened."""
    shared.get("about:blank")
    log(shared, "browser")
    log(shared, "performance")
    shared.get(address)
    return shared


def run(driver: Chrome, script: str, *arguments: object) -> Any:
    return driver.execute_script(script, *arguments)


def visible(driver: Chrome, selector: str) -> list[str]:
    """Ids of the visible elements."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.dataset.id)"
    )
    found: list[str] = run(driver, script, selector)
    return found


def press(driver: Chrome, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def choose(driver: Chrome, name: str, value: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    Select(driver.find_element(By.CSS_SELECTOR, f"#filters [name={name}]")).select_by_value(value)


def open_cell(driver: Chrome, number: str = NUMBER) -> None:
    """Press Enter on a cell of the heat map."""
    from selenium.webdriver.common.keys import Keys

    run(driver, 'document.querySelector(`button.cell[data-id="${arguments[0]}"]`).focus()', number)
    press(driver, Keys.ENTER)
    assert run(driver, "return document.getElementById('detail').open")


def test_there_is_no_error_and_no_request(driver: Chrome) -> None:
    open_cell(driver)
    assert run(driver, "return document.documentElement.dataset.ready") == "yes"
    assert log(driver, "browser") == []
    events = [json.loads(entry["message"])["message"] for entry in log(driver, "performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


def test_a_script_in_the_data_is_shown_and_not_run(driver: Chrome) -> None:
    open_cell(driver)
    assert "scanproof" in driver.title
    assert run(driver, "return document.querySelectorAll('img').length") == 0
    assert run(driver, "return document.querySelectorAll('script:not([type])').length") == len(page.SCRIPTS)
    kept = run(driver, "return [...document.querySelectorAll('script[type=\"application/json\"]')].map(e => e.id)")
    assert kept == ["report", "outcomes"], "data, which no browser runs"
    assert run(driver, "return document.querySelectorAll('script').length") == len(kept) + len(page.SCRIPTS)
    shown = run(driver, "return document.querySelector('.sample pre').textContent")
    assert shown.startswith(NASTY)
    assert NASTY in run(driver, "return document.getElementById('not-run-title').parentElement.textContent")


def test_the_policy_stops_a_script_that_got_in(driver: Chrome) -> None:
    """The second protection: if a string were taken for HTML, its script would still not run."""
    run(driver, "const s = document.createElement('script'); s.textContent = \"document.title = 'run'\";"
                "document.body.append(s); document.body."
                "insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")  # fmt: skip
    assert "scanproof" in driver.title
    assert log(driver, "browser"), "and the browser says so"


def test_a_cell_opens_what_changed_with_both_scores_and_escape_closes_it(driver: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    open_cell(driver)
    text = run(driver, "return document.getElementById('detail').textContent")
    for part in (
        f"cccccccc {NUMBER} --store ",
        "0.7500",
        "0.60000",
        "line 47",
        "001/mamba-130m.yaml:12",
        "60 against the run",
        "rounding",
    ):
        assert part in text
    summary = run(driver, "return document.querySelector('.sample summary').textContent")
    assert summary == "piqa, document 240: 1 (right) before, 0 (wrong) now"
    cells = run(
        driver, "return [...document.querySelectorAll('.sample tbody tr:first-child td')].map(e => e.textContent)"
    )
    assert cells[:3] == [NASTY, "-4 ◀ chosen", "-6"]
    press(driver, Keys.ESCAPE)
    assert not run(driver, "return document.getElementById('detail').open")
    assert run(driver, "return document.activeElement.dataset.id") == NUMBER, "the focus is where it was"


def test_the_trend_has_every_night_and_marks_the_new_version(driver: Chrome) -> None:
    open_cell(driver)
    text = run(driver, "return document.querySelector('#detail .body').textContent")
    assert "torch 2.12.1 -> 2.13.0" in text
    assert "The same as a table, 3 nights" in text
    chart = "return document.querySelectorAll('#detail .chart svg [aria-label=\"dot\"] *').length"
    assert run(driver, chart) == 3


def test_filters_hide_rows_and_are_kept_in_the_address(driver: Chrome, address: str) -> None:
    everything = visible(driver, "tr[data-id]")
    assert {NUMBER, OTHER} < set(everything)
    choose(driver, "verdict", "failed")
    assert visible(driver, "tr[data-id]") == [NUMBER]
    assert visible(driver, "button.cell") == [NUMBER]
    assert run(driver, "return document.getElementById('shown').textContent") == "1 of 3 numbers"
    kept = driver.current_url
    driver.get("about:blank")
    driver.get(kept)
    assert visible(driver, "tr[data-id]") == [NUMBER]
    run(driver, "document.querySelector('#filters [type=reset]').click()")
    run(driver, "return new Promise(done => setTimeout(done, 50))")
    assert visible(driver, "tr[data-id]") == everything


def test_text_filters(driver: Chrome) -> None:
    from selenium.webdriver.common.by import By

    driver.find_element(By.CSS_SELECTOR, "#filters [name=text]").send_keys("Winogrande ACC")
    assert visible(driver, "tr[data-id]") == [OTHER]


def test_an_open_number_is_kept_in_the_address(driver: Chrome) -> None:
    open_cell(driver, OTHER)
    kept = driver.current_url
    driver.get("about:blank")
    driver.get(kept)
    assert run(driver, "return document.getElementById('detail-title').textContent") == OTHER


def test_arrow_keys_move_between_cells(driver: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    run(driver, 'document.querySelector(`button.cell[data-id="${arguments[0]}"]`).focus()', NUMBER)
    press(driver, Keys.ARROW_DOWN)
    assert run(driver, "return document.activeElement.dataset.id") == OTHER


@pytest.mark.parametrize("width", [390, 1280, 1920])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_width_makes_the_page_wider_than_the_window(address: str, width: int, dark: bool) -> None:
    with started(width, 900, dark=dark) as driver:
        driver.get(address)
        assert run(driver, "return document.documentElement.scrollWidth") <= width
        background = run(driver, "return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background.strip("rgb()").split(","))) < 200) == dark
        assert log(driver, "browser") == []


def test_it_prints_with_every_number(driver: Chrome) -> None:
    printed = run(driver, "dispatchEvent(new Event('beforeprint'));"
                          "return [...document.querySelectorAll('details')].every(each => each.open)")  # fmt: skip
    assert printed
    found = driver.execute_cdp_cmd("Page.printToPDF", {})
    assert len(found["data"]) > 10_000

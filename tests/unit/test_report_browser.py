"""The report in a real browser, on a desktop and on a phone: nothing scrolls sideways, and axe-core finds no fault that matters.

What the page says is the business of `test_report_page.py`.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from iom_platform.report.page import render_page
from tests.scored_day import made_day

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver is there; install the packages of those names"
)
WIDTHS = {"desktop": 1280, "phone": 390}
_TOO_WIDE = """
const root = document.documentElement;
const boxes = [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth);
return [root.scrollWidth, boxes.map(box => box.getAttribute("aria-label"))];
"""
_LETTERS = """
return Math.min(...[...document.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium's sandbox refuses to run as root
        options.add_argument("--no-sandbox")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "2026-05-01.html"
    file.write_text(render_page(made_day()), encoding="utf-8")
    return file


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    _open(browser, report, WIDTHS[request.param])
    return browser


def _open(browser: webdriver.Chrome, file: Path, width: int) -> None:
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(file.as_uri())


def _violations(browser: webdriver.Chrome) -> dict[str, list[str]]:
    """axe's violations that are more than minor: rule -> the elements that break it."""
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found: dict[str, Any] = browser.execute_async_script("const done = arguments[0]; axe.run().then(done);")
    assert len(found["passes"]) > 20
    return {v["id"]: [node["html"] for node in v["nodes"]] for v in found["violations"] if v["impact"] != "minor"}


def test_nothing_scrolls_sideways(opened: webdriver.Chrome) -> None:
    width, boxes = opened.execute_script(_TOO_WIDE)
    assert width <= opened.execute_script("return window.innerWidth")
    assert boxes == []


def test_axe_finds_nothing_that_matters(opened: webdriver.Chrome) -> None:
    assert _violations(opened) == {}


def test_the_letters_of_charts_can_be_read(opened: webdriver.Chrome) -> None:
    assert opened.execute_script(_LETTERS) >= 9  # CSS pixels


def test_nothing_is_requested_and_the_console_stays_empty(opened: webdriver.Chrome) -> None:
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert opened.get_log("browser") == []


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ('<p style="color:#999">too faint</p>', "color-contrast"),
        ('<svg role="img"></svg>', "svg-img-alt"),
        ('<p style="width:2000px">too wide</p>', None),
    ],
)
def test_a_planted_fault_is_found(
    browser: webdriver.Chrome, report: Path, tmp_path: Path, planted: str, rule: str | None
) -> None:
    file = tmp_path / "planted.html"
    file.write_text(report.read_text().replace("</main>", f"{planted}</main>"))
    _open(browser, file, WIDTHS["phone"])
    if rule:
        assert rule in _violations(browser)
    else:
        assert browser.execute_script(_TOO_WIDE)[0] > WIDTHS["phone"]

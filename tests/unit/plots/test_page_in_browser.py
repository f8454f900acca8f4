"""The page is opened and clicked in a browser, where there is one."""

from __future__ import annotations

import pytest

from pft_lightning.plots.report import write_report

from .browser import Browser, find_browser
from .conftest import failed_row, write_evaluation


BANDS = "document.querySelector('.bands')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    command = find_browser()
    if command is None:
        pytest.skip("no Chromium or Chrome on this machine")
    browser = Browser(command, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.usefixtures("unrendered")
def test_the_page_sorts_filters_switches_and_names_what_is_under_the_mouse(
    folder, browser
):
    browser.look(1200)
    browser.open(write_report(folder))

    def column(n: int) -> list[str]:
        return browser.value(
            "Array.from(document.querySelectorAll('#materials tbody tr'))"
            f".filter(r => !r.hidden).map(r => r.cells[{n}].textContent)"
        )

    def head(n: int) -> str:
        return f"document.querySelectorAll('#materials th')[{n}]"

    # The script is the one that the page allows: else its buttons would be off.
    assert browser.value("document.querySelectorAll('th button:disabled').length") == 0
    browser.click(f"{head(4)}.querySelector('button')")
    known = [float(x) for x in column(4) if x != "–"]
    assert known == sorted(known, reverse=True)
    assert column(4)[-3:] == ["–"] * 3
    assert browser.value(f"{head(4)}.getAttribute('aria-sort')") == "descending"
    browser.click(f"{head(4)}.querySelector('button')")
    assert [float(x) for x in column(4) if x != "–"] == known[::-1]
    assert browser.value(f"{head(4)}.getAttribute('aria-sort')") == "ascending"
    browser.click(f"{head(0)}.querySelector('button')")
    assert column(0) == sorted(column(0))
    assert browser.value(f"{head(4)}.getAttribute('aria-sort')") is None

    browser.click("document.getElementById('filter')")
    browser.send("Input.insertText", text="GONE")
    assert column(0) == ["gone", "gone"]
    assert browser.value("document.getElementById('count').textContent") == (
        "2 of 8 rows"
    )

    browser.value("document.getElementById('filter').value = ''")
    browser.click(f"{head(4)}.querySelector('button')")
    assert len(column(0)) == 8

    # Where the highest branch of DFT ends, at the right edge of the panel.
    x, y = browser.value(
        f"(() => {{const f = {BANDS}; f.scrollIntoView();"
        "const p = f.querySelector('.panel g.line path:last-child');"
        "const b = p.getBoundingClientRect();"
        "const q = p.getPointAtLength(0), m = p.getScreenCTM();"
        "const at = new DOMPoint(q.x, q.y).matrixTransform(m); return [at.x, at.y]})()"
    )
    browser.mouse("mouseMoved", x + 2, y)
    reading = browser.value(f"{BANDS}.querySelector('.reading').innerText")
    label, frequency, branch, where = reading.split("\n")
    assert label in ("DFT", "fine_tuned")
    assert frequency.endswith(" THz")
    assert branch.startswith("branch ")
    assert where.startswith(("Γ", "X"))

    check_arrow_keys(browser)

    drawn = (
        f"Array.from({BANDS}.querySelectorAll('.panel g.line'),"
        " g => getComputedStyle(g).display)"
    )
    assert browser.value(drawn) == ["inline"] * 2  # "hard" has no base model
    browser.click(f"{BANDS}.querySelectorAll('.models button')[1]")
    assert browser.value(drawn) == ["inline", "none"]
    pressed = f"{BANDS}.querySelectorAll('.models button')[1].ariaPressed"
    assert browser.value(pressed) == "false"
    browser.click(f"{BANDS}.querySelectorAll('.models button')[1]")
    assert browser.value(drawn) == ["inline"] * 2

    for width in (400, 1200):
        for scheme in ("light", "dark"):
            browser.look(width, scheme=scheme)
            size = "[document.documentElement.scrollWidth, innerWidth]"
            needed, there = browser.value(size)
            assert needed <= there
    for scheme, dark in (("light", False), ("dark", True)):
        browser.look(1200, scheme=scheme)
        colour = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (colour != "rgb(255, 255, 255)") == dark
    browser.look(1200, scheme="dark", media="print")
    colour = browser.value("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == (
        "none"
    )
    # "unrendered" figures are no pictures; that is all it may complain of.
    assert browser.problems() == []


def check_arrow_keys(browser):
    """They go along a branch, and to the next one at the same wave vector."""

    def press(key: str) -> list[str]:
        for kind in ("keyDown", "keyUp"):
            browser.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)
        return browser.value(f"{BANDS}.querySelector('.reading').innerText").split("\n")

    browser.value(f"{BANDS}.querySelector('.wide > svg').focus()")
    press("Escape")
    label, _, branch, start = press("ArrowRight")
    assert (label, branch, start) == ("DFT", "branch 1", "Γ")
    _, frequency, branch, where = press("ArrowRight")
    assert branch == "branch 1"
    assert where.startswith("Γ → ")
    heights = [float(frequency.split()[0].replace("−", "-"))]
    for _ in range(3):
        reading = press("ArrowUp")
        assert reading[3] == where
        heights.append(float(reading[1].split()[0].replace("−", "-")))
    assert heights == sorted(heights)
    assert press("ArrowLeft")[3] == start
    press("Escape")
    assert browser.value(f"{BANDS}.querySelector('.reading').hidden")


@pytest.mark.usefixtures("unrendered")
def test_of_thousands_of_rows_some_are_laid_out_and_all_are_sorted(tmp_path, browser):
    rows = [failed_row(f"m{n:04}", "m", "no") for n in range(1000)]
    browser.look(1200)
    browser.open(write_report(write_evaluation(tmp_path / "e", rows, {}, ["m"])))
    browser.value("document.querySelector('details').open = true")
    shown = (
        "Array.from(document.querySelectorAll('#materials tbody tr:not([hidden])'),"
        " row => row.cells[0].textContent)"
    )
    count = "document.getElementById('count').textContent"
    assert len(browser.value(shown)) == 300
    assert browser.value(count) == "1000 of 1000 rows, the first 300 shown"
    for _ in range(2):
        browser.click("document.querySelector('#materials th button')")
    assert browser.value(shown)[0] == "m0999"
    browser.click("document.getElementById('filter')")
    browser.send("Input.insertText", text="m099")
    assert browser.value(shown) == [f"m099{n}" for n in range(9, -1, -1)]
    browser.value("document.getElementById('filter').value = ''")
    browser.click("document.querySelector('#materials th button')")
    browser.click("document.getElementById('more')")
    assert browser.value(count) == "1000 of 1000 rows"
    assert browser.value(f"{shown}.length") == 1000
    assert browser.problems() == []

"""The page of the example service in a browser: what it shows, and what its controls do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.browser import Browser, chromium
from tests.calls import call, start, until

T = 1_360_000_000  # Monday, 4 February 2013, 17:46:40 UTC
TEXT = "document.querySelector('{}').innerText"
ANSWERED = (
    "document.querySelector('#answer')?.getAttribute('aria-busy') === 'false'"
    " && [...document.querySelectorAll('#answer li')].map(row => row.dataset.item).join(' ')"
)


def put(page: Browser, control: str, value: str, kind: str) -> None:
    page.js(
        f"{{const own = document.querySelector('{control}'); own.value = '{value}';"
        f" own.dispatchEvent(new Event('{kind}'))}}"
    )


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium: set STJAX_CHROMIUM, or install one on PATH")
def test_the_page_answers_to_its_controls_without_an_error(tmp_path: Path) -> None:
    binary = chromium()
    assert binary
    process, port = start(tmp_path / "state")
    try:
        until(lambda: call(port, "/health")[0] == 200)
        own = [{"user": "ann/1", "item": f"i{k}", "time": T + 60 * i} for i, k in enumerate([5, 7, 7])]
        assert call(port, "/events", {"events": own})[0] == 200
        with Browser(binary, tmp_path / "browser") as page:
            # What cannot be is not asked; the user's counts decide.
            page("Page.navigate", url=f"http://127.0.0.1:{port}/#user=ann%2F1&day=9&hour=77&place=x&km=-1")
            assert page.until(ANSWERED).split()[:2] == ["i7", "i5"]
            assert page.js(TEXT.format("#about")).startswith("11 places, 1 user · counts@")
            assert page.js(TEXT.format("#moment")) == "Mon, 4 Feb 2013, 18:30, at the last place"
            assert page.js(TEXT.format("#recent-head")) == "Last 3 places, latest first"
            assert "time or place" in page.js(TEXT.format("#unread"))
            drawn = "document.querySelector('#map').getContext('2d').getImageData(0, 0, 800, 700).data"
            assert page.js(f"new Set({drawn}).size") > 50  # shades of red, green, blue

            put(page, "#hour", "2", "input")
            page.until(f"{TEXT.format('#moment')}.startsWith('Mon, 11 Feb 2013, 01:00, ')")
            page.click(400, 300)
            page.until(f"{TEXT.format('#moment')}.endsWith('km from the last place')")
            page.until(ANSWERED)
            assert "hour=1&place=" in page.js("location.hash")

            go = "document.querySelector('[data-item=i9] button:enabled')"
            for count in (1, 2, 3):
                page.until(f"{ANSWERED} && {go} && ({go}.click(), true)")
                page.until(f"{TEXT.format('#recent-head')} === 'Last {3 + count} places, latest first'")
            page.until(f"({ANSWERED} || '').startsWith('i9 i7 i5')")
            _, told = call(port, "/users/ann%2F1")
            assert [event["item"] for event in told["events"]] == ["i5", "i7", "i7", "i9", "i9", "i9"]

            put(page, "#user", "new", "change")
            page.until(f"{TEXT.format('#recent-head')} === 'No places yet'")
            page.until(f"{ANSWERED} && {go} && ({go}.click(), true)")
            page.until(f"{TEXT.format('#recent-head')} === 'Last 1 place, latest first'")
            _, told = call(port, "/users/new")
            assert 0 <= time.time() - told["events"][0]["time"] < 3600  # not ahead of the clock
            assert page.errors == []

            page.until(ANSWERED)
            process.terminate()
            assert process.wait(30) == 0
            put(page, "#hour", "4", "input")
            page.until("!document.querySelector('#problem').hidden")
            assert page.js(TEXT.format("#problem span")) == "The service does not answer."
            assert page.js("document.querySelector('#answer').className") == "old"
    finally:
        process.kill()
        process.communicate()

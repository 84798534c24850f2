# SPDX-License-Identifier: Apache-2.0
"""The page of `ledpose view` in a real browser without a screen: it shows what was published."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("playwright.sync_api")

from diagnostic_msgs.msg import DiagnosticStatus
from fake_estimator import HEIGHT, WIDTH, FakeEstimator, peer, running_view
from playwright.sync_api import Error, sync_playwright
from ros_graph import Client

from ledpose_ros.images import read_image

BROWSER = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")

# Where on the map the peer's arrow is: the mean of the pixels of its colour, and their count.
ARROW = """() => {
    const plan = document.querySelector("#plan"), {width, height} = plan;
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--peer");
    probe.fillRect(0, 0, 1, 1);
    const wanted = probe.getImageData(0, 0, 1, 1).data;
    const pixels = plan.getContext("2d").getImageData(0, 0, width, height).data;
    let count = 0, u = 0, v = 0;
    for (let at = 0; at < pixels.length; at += 4) {
        if ([0, 1, 2].some((k) => Math.abs(pixels[at + k] - wanted[k]) > 3)) continue;
        count += 1;
        u += at / 4 % width;
        v += Math.floor(at / 4 / width);
    }
    return {count, u: u / count / width, v: v / count / height};
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=BROWSER)
        except Error as error:
            pytest.skip(f"{BROWSER} does not start: {str(error).partition(chr(10))[0]}")
        yield browser
        browser.close()


class Page:
    """The page in a browser, beside an estimator that goes on speaking while the test waits for the page."""

    def __init__(self, page, address: str, estimator: FakeEstimator) -> None:
        self.page, self._estimator = page, estimator
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.goto(address)

    def text(self, selector: str) -> str:
        # Not inner_text: it would wait for the element, and nobody speaks meanwhile.
        return " ".join(" ".join(self.page.locator(selector).all_inner_texts()).split())

    def shows(self, selector: str, *words: str) -> None:
        """Wait until the element holds all the words."""
        self._estimator.say_until(
            lambda: all(word in self.text(selector) for word in words),
            lambda: f"{words} in '{self.text(selector)}'; complaints: {self.complaints}",
        )

    def arrow(self) -> dict[str, float]:
        return self.page.evaluate(ARROW)

    def picture_size(self) -> list[int]:
        return self.page.evaluate("() => [frame.naturalWidth, frame.naturalHeight]")


@pytest.fixture
def estimator(client: Client) -> FakeEstimator:
    return FakeEstimator(client)


@pytest.fixture
def view(client, domain, tmp_path) -> Iterator[tuple]:
    with running_view(client, domain, tmp_path / "log") as running:
        yield running


@pytest.fixture
def page(browser, view, estimator) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="dark")
    yield Page(context.new_page(), view[1], estimator)
    context.close()


def test_the_page_shows_what_is_published(page, estimator, tmp_path):
    estimator.peers = [peer(WIDTH / 2, 2.0), peer(40, 3.2)]
    page.shows("#peers", "robot_b 2.00 m ahead", "2.00 m", "peer 5", "3.20 m", "left", "truth")
    page.shows("#leds", "front 93 %", "left 4 %", "back 60 %", "right 50 %")
    page.shows("#nodes", "ok", "estimator", "1 peers in the last image")
    page.shows("#headline", "estimator: 1 peers in the last image")
    estimator.say_until(lambda: page.picture_size() == [WIDTH, HEIGHT], lambda: str(page.picture_size()))

    page.page.click("#nodes summary")
    page.shows("#nodes", "images answered 12")
    widths = page.page.eval_on_selector_all("#leds .share", "all => all.map((bar) => bar.clientWidth)")
    assert widths[0] > widths[2] > widths[3] > widths[1]

    page.page.click("text=plain")
    estimator.say_until(
        lambda: page.picture_size() == [WIDTH // 2, HEIGHT // 2], lambda: str(page.picture_size())
    )
    for name in 5 * ("overlay", "plain"):
        page.page.click(f"text={name}")
    page.page.click("text=overlay")
    estimator.say_until(lambda: page.picture_size() == [WIDTH, HEIGHT], "the overlay again")
    page.page.click("text=off")
    estimator.say_until(lambda: not page.page.is_visible("#frame"), "no picture")
    assert all(url.startswith((page.page.url, "ws:", "blob:")) for url in page.requests), page.requests
    assert page.complaints == []

    dark, light = tmp_path / "dark.png", tmp_path / "light.png"
    page.page.screenshot(path=dark)
    page.page.emulate_media(color_scheme="light")
    page.page.screenshot(path=light)
    assert np.median(read_image(dark)) < 60 < 200 < np.median(read_image(light))


def test_the_arrow_on_the_map_moves_as_the_peer_does(page, estimator):
    def arrow_at(u: float, distance: float) -> dict[str, float]:
        estimator.peers = [peer(u, distance)]
        page.shows("#peers li:first-child .distance", f"{distance:.2f} m")
        return page.arrow()

    middle = arrow_at((WIDTH - 1) / 2, 1.5)
    assert middle["count"] > 50
    assert middle["u"] == pytest.approx(0.5, abs=0.01)
    right = arrow_at(WIDTH * 0.7, 1.6)
    assert right["u"] > middle["u"] + 0.05
    near = arrow_at((WIDTH - 1) / 2, 0.8)
    assert near["v"] > middle["v"] + 0.1
    estimator.peers = []
    page.shows("#map", "no peer is seen")
    assert page.arrow()["count"] == 0


def test_the_page_says_what_is_missing(page, view, client, estimator):
    told = {"#picture": "no pictures on /debug_image", "#map": "no poses on /peer_poses"}
    told |= {"#leds": "no LED states on /peer_led_states", "#nodes": "no diagnostics on /diagnostics"}
    for selector, words in told.items():
        page.page.locator(selector).get_by_text(words).first.wait_for()
    assert page.page.get_attribute("#headline", "data-level") == "error"

    estimator.level, estimator.summary = DiagnosticStatus.WARN, "no images arrive on /image"
    page.shows("#headline", "no images arrive on /image")
    assert page.page.get_attribute("#headline", "data-level") == "warn"
    assert "stale" not in (page.page.get_attribute("#peers", "class") or "")

    # The estimator falls silent, then `ledpose view` itself ends.
    page.page.locator("#headline").get_by_text("silent for").wait_for()
    assert page.page.get_attribute("#headline", "data-level") == "stale"
    assert "stale" in (page.page.get_attribute("#peers", "class") or "")
    view[0].end()
    page.page.locator("#headline").get_by_text("no connection to ledpose view").wait_for()


def test_the_page_fits_a_phone(page, estimator, tmp_path: Path):
    page.page.set_viewport_size({"width": 390, "height": 844})
    page.shows("#peers", "robot_b")
    page.shows("#nodes", "estimator")
    page.page.click("#nodes summary")
    page.shows("#nodes", "images answered")
    assert page.page.evaluate("() => document.scrollingElement.scrollWidth") <= 390
    tops = [page.page.locator(part).bounding_box()["y"] for part in ("#picture", "#map", "#peers", "#leds")]
    assert tops == sorted(set(tops)), "the panels stand below each other"

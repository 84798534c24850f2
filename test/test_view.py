# SPDX-License-Identifier: Apache-2.0
"""`ledpose view` as a process of its own, over DDS and over HTTP; how it looks: test_page.py."""

import asyncio
import http.client
import json
import math
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus
from fake_estimator import DEVIATIONS, HEIGHT, WIDTH, FakeEstimator, peer, running_view
from ros_graph import PATIENCE, run_program
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from ledpose_ros.images import decode_image
from ledpose_ros.web_server import MOST_BROWSERS

LISTENED = ("markers", "peer_poses", "peer_led_states", "camera_info", "ground_truth", "debug_image")


class Browser:
    """A page as the server knows it: it keeps what was sent, and says "shown" when told to.

    A thread of its own answers the server's pings, however long a test takes.
    """

    def __init__(self, address: str, **headers: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._inbox: deque[str | bytes | None] = deque()
        self.state: dict[str, Any] = {}
        self.picture = b""
        self.is_closed = False
        self.farewell: str | None = None
        self.count = 0
        self._await(self._connect(HTTPRequest(f"{address.replace('http', 'ws', 1)}/live", headers=headers)))

    async def _connect(self, request: HTTPRequest) -> None:
        try:
            self._socket = await websocket_connect(request, on_message_callback=self._inbox.append)
        except HTTPClientError:
            self._loop.call_soon(self._loop.stop)
            raise

    def _await(self, coroutine: Coroutine) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def take(self) -> bool:
        """Take one message if one is there; True if so."""
        if not self._inbox:
            time.sleep(0.01)
            return False
        message = self._inbox.popleft()
        self.is_closed = message is None
        self.farewell = self._socket.close_reason
        self._is_picture = isinstance(message, bytes)
        self.count += 1
        if isinstance(message, bytes):
            self.picture = message
        elif message is not None:
            self.state = json.loads(message)
        return not self.is_closed

    def say(self, text: str) -> None:
        self._await(self._say(text))

    async def _say(self, text: str) -> None:
        await self._socket.write_message(text)

    def follow(self) -> dict[str, Any]:
        """Take all that has come, and show it as the page does."""
        while self.take():
            if self._is_picture or not self.state["picture"]["follows"]:
                self.say("shown")
        return self.state

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._socket.close)
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.1, self._loop.stop)
        self._thread.join()


@pytest.fixture
def estimator(client) -> FakeEstimator:
    return FakeEstimator(client)


@pytest.fixture
def view(client, domain, tmp_path) -> Iterator[tuple]:
    with running_view(client, domain, tmp_path / "log") as running:
        yield running
        assert "Traceback" not in running[0].log, running[0].log


def get(address: str, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a plain request."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_the_page_comes_whole_and_asks_nobody_else(view):
    _, address = view
    status, headers, body = get(address)
    assert status == 200 and b"<canvas" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    for path, kind in (
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg"),
    ):
        status, headers, body = get(address, path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and body
        assert headers["X-Content-Type-Options"] == "nosniff"
    # The one foreign address names the SVG format.
    assert b"//" not in get(address)[2].replace(b"<!--", b"")
    for path in ("/page.py", "/../cli.py", "/%2e%2e/cli.py", "/page.js/../../cli.py", "//etc/passwd"):
        assert get(address, path)[0] == 404


def test_foreign_names_and_pages_are_turned_away(view):
    _, address = view
    port = urlsplit(address).port
    assert get(address, Host=f"localhost:{port}")[0] == 200
    for path in ("/", "/page.js", "/live"):
        assert get(address, path, Host=f"evil.example:{port}")[0] == 421
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}):
        with pytest.raises(HTTPClientError) as refused:
            Browser(address, **headers)
        assert refused.value.code == 403
    with pytest.raises(HTTPClientError) as refused:
        Browser(address, Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}")
    assert refused.value.code == 421
    Browser(address, Origin=address).close()


def test_what_nobody_asked_for_is_not_read(view):
    """Hosts are looked at only after all that a request brings along."""
    _, address = view
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "50000000")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_a_browser_is_told_all_that_the_estimator_says(view, estimator):
    browser = Browser(view[1])
    estimator.peers = [peer(WIDTH * 0.75, 2.0, psi=math.pi), peer(20, 3.0)]
    estimator.level, estimator.summary = DiagnosticStatus.WARN, "look here"

    def is_told() -> bool:
        state = browser.follow()
        if not (state and browser.picture):
            return False
        peers, leds, nodes = (state[name]["value"] for name in ("peers", "leds", "nodes"))
        # Before the first markers the peers are those of peer_poses, without ids.
        has_peers = [found["id"] for found in peers] == [4, 5] and peers[0]["identity"]
        return bool(has_peers and leds and nodes and state["field"] and state["truth"])

    estimator.say_until(is_told, lambda: str(browser.state))
    state = browser.state
    first, second = state["peers"]["value"]
    assert first["label"] == "peer 4" and second["label"] == "peer 5"
    assert first["distance"] == pytest.approx(2.0, abs=2e-3)
    # A quarter of the picture right of its middle, 80 px at a focal length of 160 px; it shows its back.
    right, forward = first["place"]
    assert right / forward == pytest.approx(0.5, abs=0.01)
    assert first["heading"] == pytest.approx([right / 2, forward / 2], abs=0.01)
    assert first["ellipse"][:2] == pytest.approx([2 * DEVIATIONS[2], 2 * DEVIATIONS[0]], abs=1e-3)
    assert first["identity"][0] == {"name": "robot_b", "probability": 0.97}
    assert second["place"][0] < 0
    assert state["truth"]["place"] == pytest.approx(first["place"], abs=1e-3)
    left_edge, right_edge = state["field"]
    assert left_edge[0] < 0 < right_edge[0] and left_edge[1] == pytest.approx(right_edge[1], abs=0.01)
    assert state["leds"]["value"][0] == {"name": "front", "on": 0.93}
    assert state["headline"] == {"level": "warn", "text": "estimator: look here"}
    assert state["nodes"]["value"][0]["values"] == {"images answered": "12"}
    assert decode_image(browser.picture).shape == (HEIGHT, WIDTH, 3)

    estimator.peers = []
    estimator.say_until(lambda: browser.follow()["peers"]["value"] == [])
    assert browser.state["peers"]["note"] == browser.state["leds"]["note"] == "no peer is seen"

    browser.say("camera")
    estimator.say_until(lambda: browser.follow() and decode_image(browser.picture).shape[1] == WIDTH // 2)
    browser.close()


def test_topics_are_subscribed_to_only_while_somebody_looks(view, client):
    def heard() -> list[bool]:
        return [client.node.count_subscribers(topic) > 0 for topic in LISTENED]

    client.spin_for(1.5)
    assert not any(heard())
    first, second = Browser(view[1]), Browser(view[1])
    client.wait_until(lambda: all(heard()), what=lambda: str(heard()))
    for browser in (first, second):
        browser.say("none")
    client.wait_until(lambda: client.node.count_subscribers("debug_image") == 0, what="no overlay is wanted")
    second.say("camera")
    client.wait_until(lambda: client.node.count_subscribers("image") == 1, what="the camera is wanted")
    first.close()
    client.spin_for(0.5)
    assert client.node.count_subscribers("markers") == 1
    second.close()
    client.wait_until(
        lambda: not any(heard()) and client.node.count_subscribers("image") == 0, what=lambda: str(heard())
    )


def test_a_slow_browser_gets_the_newest_and_keeps_nobody_waiting(view, estimator):
    slow, quick = Browser(view[1]), Browser(view[1])
    estimator.grey = 30
    estimator.say_until(lambda: quick.follow() and quick.picture)
    known = quick.count
    estimator.say_until(lambda: quick.follow() and quick.count > known + 20)
    while slow.take():
        pass
    assert slow.count <= 2, "it has not shown what it got, and should get nothing more"

    estimator.grey = 220
    estimator.say_until(lambda: quick.follow() and decode_image(quick.picture).mean() > 200)
    slow.picture = b""
    slow.say("shown")
    estimator.client.wait_until(lambda: slow.take() and slow.picture, what="the next picture")
    assert decode_image(slow.picture).mean() > 200, "an old picture was kept for it"
    slow.close()
    quick.close()


def test_nonsense_from_a_browser_ends_only_its_own_connection(view, estimator):
    rude, polite = Browser(view[1]), Browser(view[1])
    rude.say("rm -rf /")
    estimator.client.wait_until(lambda: not rude.take() and rude.is_closed, what="the end of the connection")
    estimator.say_until(lambda: polite.follow() and polite.picture)
    rude.close()
    polite.close()


def test_one_page_too_many_is_told_so_and_may_come_when_another_has_gone(view, estimator):
    pages = [Browser(view[1]) for _ in range(MOST_BROWSERS)]
    late = Browser(view[1])
    estimator.client.wait_until(lambda: not late.take() and late.is_closed, what="the end of the connection")
    assert late.farewell == "16 pages are open already: close another"
    assert late.count == 1, "it was sent something"
    pages.pop().close()

    def is_let_in() -> bool:
        page = Browser(view[1])
        pages.append(page)
        estimator.client.spin_for(0.3)
        return bool(page.follow())

    estimator.client.wait_until(is_let_in, what="a place for another page")
    for page in (late, *pages):
        page.close()


def test_it_follows_a_namespace_and_remapped_topics(client, domain, tmp_path):
    estimator = FakeEstimator(client, "/robot_a/")
    arguments = ["--namespace", "robot_a", "--ros-args", "-r", "image:=front/image_raw"]
    with running_view(client, domain, tmp_path / "log", arguments) as (_, address):
        browser = Browser(address)
        browser.say("camera")
        estimator.say_until(lambda: (state := browser.follow()) and state["peers"]["value"])
        assert browser.state["headline"]["text"].startswith("robot_a/estimator")
        assert browser.state["picture"]["note"] == (
            "no pictures on /robot_a/front/image_raw: nobody publishes it"
        )
        browser.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_tells_the_browser(view, client, number):
    process, address = view
    browser = Browser(address)
    client.wait_until(lambda: browser.follow(), what="the first state")
    code, seconds = process.end(number)
    assert code == 0, process.log
    assert seconds < 5  # a third of one where others do not crowd the machine
    client.wait_until(lambda: not browser.take() and browser.is_closed, what="the end of the connection")
    browser.close()


def refusal(words: list[str], domain: int, tmp_path) -> str:
    """What `ledpose view` says when it does not start."""
    with run_program(["ledpose_ros.cli", "view", *words], domain, tmp_path / "log") as process:
        assert process.wait() == 2, process.log
        return process.log


def test_what_keeps_it_from_starting_is_one_sentence(domain, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = refusal(["--port", port], domain, tmp_path)
        assert told.count("\n") == 1 and f"port {port} of 127.0.0.1" in told and "--port" in told
    for words, said in (
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--namespace", "not a name"], "not a name"),
    ):
        told = refusal(words, domain, tmp_path)
        assert told.count("\n") == 1 and said in told, told


def test_listening_to_the_network_is_warned_of(client, domain, tmp_path):
    with running_view(client, domain, tmp_path / "log", ["--host", "0.0.0.0"]) as (process, _):
        client.wait_until(lambda: "warning: everybody" in process.log, what=lambda: process.log)

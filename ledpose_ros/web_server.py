# SPDX-License-Identifier: Apache-2.0
"""The web server of `ledpose view`: one page, and a web socket by which it hears what there is to see.

The server sends the newest state and picture (JPEG or PNG, if there is a new one), and sends nothing more
before the page has said "shown". So a slow browser sees fewer pictures, never old ones, and nothing piles up.
The page also says which picture it wants: "overlay", "camera" or "none".
"""

import asyncio
import errno
import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from importlib.resources import files
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ledpose_ros.errors import LedposeError
from ledpose_ros.live_view import PICTURES, LiveView

NO_PICTURE = "none"
# Seconds between two states; also between two pictures.
PERIOD = 0.1
# A browser that does not answer for so long is gone: a phone that left the network says no goodbye [s].
PING = 5.0
# Each costs the robot a share of its processor.
MOST_BROWSERS = 16
# Bytes that a request may bring along, and how long a connection may say nothing [s].
MOST_SENT, IDLE = 1000, 60.0
ENDING_SECONDS = 2.0
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class PageServer:
    """Serves the page from a thread of its own; `on_demand` is called there when `wanted` changes."""

    def __init__(self, view: LiveView, host: str, port: int, on_demand: Callable[[], None]) -> None:
        self.view = view
        self.wanted: frozenset[str] | None = None
        """The pictures that are looked at; None without any browser."""
        self._on_demand = on_demand
        self._browsers: set[_Browser] = set()
        self._sockets = _bound_sockets(host, port)
        self.port: int = self._sockets[0].getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="web server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say goodbye to the browsers and end the thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(ENDING_SECONDS)

    def come(self, browser: "_Browser") -> None:
        """A browser has come."""
        if len(self._browsers) >= MOST_BROWSERS:
            browser.close(1013, f"{MOST_BROWSERS} pages are open already: close another")
            return
        self._browsers.add(browser)
        browser.begin()
        self.tell_demand()

    def go(self, browser: "_Browser") -> None:
        """A browser has gone."""
        self._browsers.discard(browser)
        self.tell_demand()

    def tell_demand(self) -> None:
        """Browsers have come or gone, or want other pictures."""
        wanted = frozenset(browser.subject for browser in self._browsers) - {NO_PICTURE}
        new = wanted if self._browsers else None
        if new != self.wanted and not self._stopping.is_set():
            self.wanted = new
            self._on_demand()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        routes: list = [(path, _Page, {"name": name, "kind": kind}) for path, (name, kind) in FILES.items()]
        routes.append(("/live", _Browser, {"server": self}))
        application = Application(
            routes,
            log_function=lambda _handler: None,
            websocket_max_message_size=100,
            websocket_ping_interval=PING,
            websocket_ping_timeout=PING,
        )
        # Nobody has anything to send here, and the names of hosts are looked at only after that.
        server = HTTPServer(application, max_body_size=MOST_SENT, idle_connection_timeout=IDLE)
        server.add_sockets(self._sockets)
        await self._stopping.wait()
        server.stop()
        for browser in list(self._browsers):
            browser.close(1001, "ledpose view has ended")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Checked(RequestHandler):
    """Refuses requests by a foreign name.

    A page elsewhere can let its own name point to this machine (DNS rebinding), and then its requests pass
    for those of our page: but for the name. Addresses cannot be made to point elsewhere.
    """

    def prepare(self) -> None:
        if not is_own_name(self.request.host):
            raise HTTPError(
                421, reason="Misdirected Request: use the address or the own name of this machine"
            )


class _Page(_Checked):
    def initialize(self, name: str, kind: str) -> None:
        self._name, self._kind = name, kind

    def get(self) -> None:
        self.set_header("Content-Type", self._kind)
        self.write((files("ledpose_ros") / "web" / self._name).read_bytes())

    def set_default_headers(self) -> None:
        # Safari before 15.4 takes 'self' for no web socket, hence the name of the host, which is checked.
        host = self.request.host if is_own_name(self.request.host) else ""
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
            f"connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.set_header("Content-Security-Policy", policy)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-cache")


class _Browser(_Checked, WebSocketHandler):
    """A page that is open somewhere. Tornado refuses pages of another origin than the request's host."""

    def initialize(self, server: PageServer) -> None:
        self._server = server
        self.subject = PICTURES[0]
        self._sent = 0
        self._task: asyncio.Future | None = None
        self._is_shown = asyncio.Event()
        self._is_shown.set()

    def open(self) -> None:
        self.set_nodelay(True)
        self._server.come(self)

    def begin(self) -> None:
        """Send what there is to see, from now on."""
        self._task = asyncio.ensure_future(self._show())

    def on_close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._server.go(self)

    def on_message(self, message: str | bytes) -> None:
        if message == "shown":
            self._is_shown.set()
        elif message in (*PICTURES, NO_PICTURE):
            self.subject, self._sent = str(message), 0
            self._server.tell_demand()
        else:
            self.close(1003, "not understood")

    async def _show(self) -> None:
        """Send the newest of everything, each time that the page has shown what was sent before."""
        view = self._server.view
        try:
            while True:
                await self._is_shown.wait()
                self._is_shown.clear()
                subject = self.subject
                picture = view.picture(subject)
                is_new = picture is not None and picture.number != self._sent
                state = view.state(subject)
                state["picture"] |= {"kind": subject, "follows": is_new}
                await self.write_message(json.dumps(state, allow_nan=False))
                if picture is not None and is_new:
                    self._sent = picture.number
                    await self.write_message(picture.data, binary=True)
                await asyncio.sleep(PERIOD)
        except WebSocketClosedError:
            pass


def is_own_name(host: str) -> bool:
    """Whether a Host header holds an address, or a name that this machine has for itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        own = socket.gethostname().lower()
        return name in ("localhost", own, f"{own}.local")


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound_sockets(host: str, port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, host)
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "it is in use; end what uses it, or choose another --port",
            errno.EACCES: "that is not allowed; choose a --port above 1023",
        }.get(error.errno or 0, error.strerror)
        raise LedposeError(f"cannot listen on port {port} of {host}: {advice}") from error

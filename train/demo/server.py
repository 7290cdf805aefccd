"""The server of the demo: it listens on the loopback address, sends one page, and answers what the page asks.

    GET  /            the page
    GET  /panels      the facts of all panels, a JSON list
    POST /panels/0    a question to the first panel, a JSON object → a JSON object, or several, a line each

Whatever it cannot answer is refused in JSON, `{"error": "…"}`. Pages of other sites can ask nothing: the names in
`Host` and `Origin` must be this machine's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from train.demo import requests
from train.demo.panels import Panel
from train.launch import hearing_interruption

_LOG = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"

MOST_BYTES, _MOST_CONNECTIONS, _LONGEST_WAIT, _LINGER = 2**16, 64, 15.0, 1.0
"""Of a body, and at a time; seconds for a client that says nothing, and to read what a refused one still sends."""

_OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
"""Any port will do, as a tunnel may have another at its other end."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RefusedError(Exception):
    """A request that is not answered, and the status that says so."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves panels from when it is made until `close`, once `serve_forever` runs.

    Args:
      panels: what the page shows, in order.
      port: to listen on; 0 for any that is free, see `url`.

    Raises:
      OSError: the port is taken.
    """

    daemon_threads = False  # a thread inside XLA must not outlive Python
    request_queue_size = _MOST_CONNECTIONS
    allow_reuse_address = os.name == "posix"  # elsewhere it would let two servers share a port

    def __init__(self, panels: Sequence[Panel], port: int = 0):
        self.panels = list(panels)
        self.page = resources.files("train.demo").joinpath("page.html").read_bytes()
        self.closing = threading.Event()
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._open: set[socket.socket] = set()
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, as long as they are not too many."""
        if self._places.acquire(blocking=False):
            self._open.add(request)
            return super().process_request(request, client_address)
        body = json.dumps({"error": f"there are {_MOST_CONNECTIONS} connections at a time, and no more"})
        with contextlib.suppress(OSError):
            request.settimeout(_LINGER)
            request.sendall(
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
            )
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """All requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to speak of."""
        _LOG.debug("a connection ended", exc_info=True)

    def close(self) -> None:
        """Ends all connections, and returns when their threads have ended."""
        self.closing.set()
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # of what cannot be read: version 0.9 has no status
    server_version, sys_version = "flaxzoo", ""
    timeout = _LONGEST_WAIT

    def do_GET(self) -> None:
        """Also what is not there."""
        self._serve()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a stroke sends many requests."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself cannot read, in JSON as all the rest."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._refuse(RefusedError(status, message or status.phrase))

    def _serve(self) -> None:
        try:
            self._require_own_page()
            answer = self._answer()
        except RefusedError as error:
            return self._refuse(error)
        except ValueError as error:
            return self._send({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except OSError:
            raise
        except Exception:
            _LOG.exception("the demo cannot answer a request")
            message = "the request could not be answered; the terminal of the server says why"
            return self._send({"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(answer, Iterator):
            return self._stream(answer)
        self._send(answer)

    def _require_own_page(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"a request has one Host header, not {len(hosts)}")
        if not _OWN_HOST.fullmatch(hosts[0].strip()):
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, f"this server is {ADDRESS} or localhost, and no other")
        own = f"http://{hosts[0].strip()}"
        others = self.headers.get("Origin", own).lower() != own.lower()
        if others or (self.command == "POST" and self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")):
            raise RefusedError(HTTPStatus.FORBIDDEN, "pages of other sites can ask nothing here")

    def _answer(self) -> Any:
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"/panels/([0-9]{1,4})", path)
        if path not in ("/", "/panels") and not (found and int(found[1]) < len(self.server.panels)):
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here; the page is /")
        if (self.command == "POST") != bool(found):
            wanted = "POST" if found else "GET"
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} is asked for with {wanted}")
        if found:
            return self.server.panels[int(found[1])].answer(requests.parse(self._body()))
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"a request for {path} has no body")
        return self.server.page if path == "/" else [panel.facts for panel in self.server.panels]

    def _body(self) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must have the type application/json")
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not lengths:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the body must have a Content-Length")
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,20}", lengths[0].strip()):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "Content-Length must be one whole number")
        length = int(lengths[0])
        if length > MOST_BYTES:
            message = f"the body has at most {MOST_BYTES} bytes, not {length}"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        try:
            body = self.rfile.read(length)
        except TimeoutError:
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "the body did not come") from None
        if len(body) < length:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"the body ends after {len(body)} of {length} bytes")
        return body

    def _refuse(self, error: RefusedError) -> None:
        """Says why, and ends the connection, as there may be a body that nobody has read."""
        self.close_connection = True
        self._send({"error": str(error)}, error.status)
        self.wfile.flush()
        with contextlib.suppress(OSError):  # read on for a moment, or the client may never see the answer
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER)
            end = time.monotonic() + _LINGER
            while time.monotonic() < end and self.connection.recv(2**16):
                pass

    def _send(self, answer: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        html = isinstance(answer, bytes)
        self._head(status, "text/html; charset=utf-8" if html else "application/json", {"Content-Length": len(body)})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, answers: Iterator[Any]) -> None:
        """A line for each answer, as it is made. What goes wrong on the way is the last line."""
        chunked = self.request_version == "HTTP/1.1"
        self.close_connection |= not chunked
        self._head(HTTPStatus.OK, "application/x-ndjson", {"Transfer-Encoding": "chunked"} if chunked else {})

        def lines() -> Iterator[dict[str, Any]]:
            try:
                yield from answers
            except Exception:
                _LOG.exception("the demo cannot go on with an answer")
                yield {"error": "the answer could not be finished; the terminal of the server says why"}

        for answer in lines():
            if self.server.closing.is_set():
                self.close_connection = True
                return
            line = json.dumps(answer).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) if chunked else line)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: HTTPStatus, content_type: str, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **headers, **_HEADERS}.items():
            self.send_header(name, str(value))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD, POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def serve(panels: Sequence[Panel], port: int = 0) -> None:
    """Prints where the page is and what it shows, and serves it until Ctrl-C.

    Raises:
      OSError: the port is taken.
    """
    try:
        server = Server(panels, port)
    except OSError as error:
        raise OSError(f"port {port} cannot be had: {error.strerror}; --port 0 takes any that is free") from None
    print(f"{server.url} (Ctrl-C ends it)")
    for panel in panels:
        print(f"  {panel.facts['title']}: {panel.facts['run']}", flush=True)
    try:
        with hearing_interruption():
            server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        print()
    finally:
        server.close()

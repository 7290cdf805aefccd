"""The server alone: what it answers, what it refuses, and that nothing of it keeps the next request from its answer."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from train.demo import Panel, Server, serve
from train.demo.panels import DRAWING
from train.demo.server import MOST_BYTES

ROOT = Path(__file__).parents[3]
DIGIT = np.zeros((DRAWING, DRAWING), np.uint8)
DIGIT[20:120, 60:75] = 255
BODY = json.dumps({"picture": base64.b64encode(DIGIT.tobytes()).decode()})
JSON = {"Content-Type": "application/json"}


def ask(server, method, path, body=None, headers=None):
    """Status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, JSON if headers is None else headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()


def spoken(server, words, *, shut=False):
    """What comes back for bytes as they are."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(words)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(2**16):
                heard += more
    return heard


def assert_well(server):
    status, _, body = ask(server, "POST", "/panels/0", BODY)
    assert status == 200
    assert sum(json.loads(body)["probabilities"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_the_page_and_its_panels(server, panels):
    status, headers, page = ask(server, "GET", "/", headers={})
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(rb"(src|href)=\"(?!data:)|https?://|@import|url\(", page), "it needs nothing from elsewhere"
    status, headers, body = ask(server, "GET", "/panels", headers={})
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == json.loads(json.dumps([panel.facts for panel in panels]))
    status, headers, body = ask(server, "HEAD", "/", headers={})
    assert (status, int(headers["Content-Length"]), body) == (200, len(page), b"")


@pytest.mark.slow
def test_it_listens_on_the_loopback_address_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_connection_serves_many_requests(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    with contextlib.closing(connection):
        for body, wanted in ((BODY, 200), ("{}", 400), (BODY, 200)):
            connection.request("POST", "/panels/0", body, JSON)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == wanted
            assert connection.sock is not None, "it stays open"


@pytest.mark.slow
def test_a_text_is_streamed(server):
    body = json.dumps({"prompt": "it was", "temperature": 0.6, "length": 300, "seed": 4})
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/panels/2", body, JSON)
        reply = connection.getresponse()
        assert reply.headers["Transfer-Encoding"] == "chunked"
        lines = [json.loads(line) for line in reply]
    assert len(lines) > 3
    assert sum(len(line["text"]) for line in lines) == 300
    request = b"POST /panels/2 HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    head, _, plain = spoken(server, request + b"%d\r\n\r\n%s" % (len(body), body.encode())).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert [json.loads(line) for line in plain.splitlines()] == lines


HOST = {"Host": "127.0.0.1:8000"}
REFUSED = {
    "a path that is not there": ("GET", "/etc/passwd", None, {}, 404),
    "a way out": ("GET", "/../../../../etc/passwd", None, {}, 404),
    "a hidden way out": ("GET", "/%2e%2e/%2e%2e/etc/passwd", None, {}, 404),
    "the package's own file": ("GET", "/page.html", None, {}, 404),
    "a panel too many": ("POST", "/panels/4", BODY, JSON, 404),
    "a panel of another sort": ("POST", "/panels/-1", BODY, JSON, 404),
    "a panel with a huge number": ("POST", "/panels/" + 5000 * "9", BODY, JSON, 404),
    "a method of no use": ("GET", "/panels/0", None, {}, 405),
    "a post to the page": ("POST", "/", BODY, JSON, 405),
    "an unknown method": ("DELETE", "/panels/0", None, {}, 405),
    "a page that is asked for with a body": ("GET", "/", "x", {}, 400),
    "another content type": ("POST", "/panels/0", BODY, {"Content-Type": "text/plain"}, 415),
    "a form": ("POST", "/panels/0", "a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "no content type": ("POST", "/panels/0", BODY, {}, 415),
    "a body too large": ("POST", "/panels/0", " " * (MOST_BYTES + 1), JSON, 413),
    "a body of megabytes": ("POST", "/panels/0", " " * 2**24, JSON, 413),
    "no body": ("POST", "/panels/0", None, {**JSON, "Content-Length": "0"}, 400),
    "no JSON": ("POST", "/panels/0", "{", JSON, 400),
    "no UTF-8": ("POST", "/panels/0", b'{"picture": "\xff"}', JSON, 400),
    "a list": ("POST", "/panels/0", "[]", JSON, 400),
    "a depth of thousands": ("POST", "/panels/0", "[" * 60_000, JSON, 400),
    "a number of thousands of digits": ("POST", "/panels/1", '{"seed": %s}' % ("9" * 50_000), JSON, 400),
    "NaN": ("POST", "/panels/1", '{"points": [[NaN, 0]], "seed": 0}', JSON, 400),
    "an infinite number": ("POST", "/panels/1", '{"points": [[1e999, 0]], "seed": 0}', JSON, 400),
    "half a character": ("POST", "/panels/3", r'{"text": "\ud800"}', JSON, 400),
    "another host": ("GET", "/", None, {"Host": "evil.example"}, 421),
    "a host that begins alike": ("GET", "/", None, {"Host": "localhost.evil.example:8000"}, 421),
    "a host that ends alike": ("GET", "/", None, {"Host": "evil.example@127.0.0.1"}, 421),
    "an empty host": ("GET", "/", None, {"Host": ""}, 421),
    "a page of another site": ("POST", "/panels/0", BODY, {**JSON, **HOST, "Origin": "http://evil.example"}, 403),
    "a page of another port": ("POST", "/panels/0", BODY, {**JSON, **HOST, "Origin": "http://127.0.0.1:1"}, 403),
    "a page of no origin": ("POST", "/panels/0", BODY, {**JSON, "Origin": "null"}, 403),
    "a frame elsewhere": ("POST", "/panels/0", BODY, {**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
    "a long path": ("GET", "/" + "a" * 70_000, None, {}, 414),
    "a long header": ("GET", "/", None, {"X": "a" * 70_000}, 431),
    "many headers": ("GET", "/", None, {f"X-{n}": "a" for n in range(200)}, 431),
}


@pytest.mark.parametrize("case", REFUSED)
def test_requests_that_are_refused(server, case):
    method, path, body, headers, wanted = REFUSED[case]
    status, found, answer = ask(server, method, path, body, headers)
    assert status == wanted
    assert found["Content-Type"] == "application/json"
    assert list(json.loads(answer)) == ["error"]
    assert json.loads(answer)["error"]
    assert ("Allow" in found) == (wanted == 405)


HEAD = b"POST /panels/0 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SPOKEN = {
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a version that is none": (b"GET / HTTP/x\r\nHost: localhost\r\n\r\n", 400),
    "a version to come": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
    "a strange method": (b"P\xd6ST / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    "no length": (HEAD + b"\r\n{}", 411),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n{}", 400),
    "a length in words": (HEAD + b"Content-Length: \xb2\r\n\r\n{}", 400),
    "a length of many digits": (HEAD + b"Content-Length: %s\r\n\r\n{}" % (b"9" * 30), 400),
    "a length that would fill the memory": (HEAD + b"Content-Length: 99999999999\r\n\r\n{}", 413),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    "chunks and a length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 411),
}


@pytest.mark.parametrize("case", SPOKEN)
def test_words_that_are_refused(server, case):
    words, wanted = SPOKEN[case]
    head, _, body = spoken(server, words, shut=True).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == wanted
    assert b"\nConnection: close" in head
    assert json.loads(body)["error"]


def test_a_body_that_ends_early_is_refused(server):
    head, _, body = spoken(server, HEAD + b"Content-Length: 9\r\n\r\n{}", shut=True).partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert json.loads(body) == {"error": "the body ends after 2 of 9 bytes"}


def test_after_a_hundred_hostile_requests_all_is_well(server, caplog):
    hostile = [*SPOKEN.values(), *((HEAD, 0), (HEAD + b"Content-Length: 9\r\n\r\n{", 0), (b"\0" * 999, 0), (b"", 0))]

    def attack(number):
        if number % 3:
            return spoken(server, hostile[number % len(hostile)][0], shut=True)
        return ask(server, *list(REFUSED.values())[number % len(REFUSED)][:4])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(attack, range(120)))
    assert_well(server)
    assert not caplog.records, "nothing of it is an error of ours"
    assert sum(thread.is_alive() for thread in threading.enumerate()) < 60


def test_a_client_that_goes_away_ends_its_answer_alone(server, monkeypatch):
    """The text stops being written, and nobody else waits."""
    made = []

    def endless(body):
        return ({"text": made.append(0) or "x" * 1000} for _ in iter(int, 1))

    monkeypatch.setattr(server, "panels", [*server.panels, Panel({}, endless)])
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(HEAD.replace(b"/0", b"/4") + b"Content-Length: 2\r\n\r\n{}")
        assert connection.recv(1000)
        assert_well(server)
    deadline, before = time.monotonic() + 20, -1
    while before != len(made):
        assert time.monotonic() < deadline, "it goes on"
        before = len(made)
        time.sleep(0.3)
    assert_well(server)


def test_two_are_answered_at_once(server, monkeypatch):
    """Each waits inside its answer for the other."""
    both = threading.Barrier(2, timeout=20)
    waiting = Panel({}, lambda body: {"place": both.wait()})
    monkeypatch.setattr(server, "panels", [waiting])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: ask(server, "POST", "/panels/0", "{}"), range(2)))
    assert sorted(json.loads(body)["place"] for _, _, body in found) == [0, 1]


def test_many_drawings_at_once_are_each_answered(server):
    wanted = ask(server, "POST", "/panels/0", BODY)[2]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(server, "POST", "/panels/0", BODY)[2], range(40))) == {wanted}


def test_an_error_of_ours_is_told_and_logged(server, monkeypatch, caplog):
    def fail(body):
        raise RuntimeError("secret")

    def fail_later(body):
        yield {"text": "a"}
        raise RuntimeError("secret")

    monkeypatch.setattr(server, "panels", [Panel({}, fail), Panel({}, fail_later)])
    status, _, body = ask(server, "POST", "/panels/0", "{}")
    assert status == 500
    assert "terminal" in json.loads(body)["error"]
    status, _, body = ask(server, "POST", "/panels/1", "{}")
    lines = [json.loads(line) for line in body.splitlines()]
    assert status == 200
    assert lines[0] == {"text": "a"}
    assert "could not be finished" in lines[1]["error"]
    assert b"secret" not in body
    assert caplog.text.count("RuntimeError: secret") == 2


def test_too_many_connections_are_refused_and_closing_ends_all(panels):
    server = Server(panels)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=20))
        head, _, body = spoken(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
        assert b" 503 " in head
        assert "64 connections" in json.loads(body)["error"]
        server.shutdown()
        thread.join()
        begin = time.monotonic()
        server.close()
        assert time.monotonic() - begin < 10, "it does not wait for those who say nothing"
    with pytest.raises(ConnectionError):
        ask(server, "GET", "/", headers={})


def test_a_port_that_is_taken_is_told(server, panels):
    with pytest.raises(OSError, match=f"port {server.server_port} cannot be had: .*; --port 0 takes any that is free"):
        serve(panels, server.server_port)


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(runs):
    """In the middle of an answer, with a connection open."""
    command = [sys.executable, "-m", "zoo", "demo", str(runs / "write"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:([0-9]+)/ ", line)
        assert found, line + process.stderr.read()
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_the_command_refuses_what_it_cannot_show(runs):
    from tests.train.cli.command import error

    assert "the run does regression; the demo has panels for" in error("demo", runs / "unsuited")
    assert "--port is from 0 to 65535, not 70000" in error("demo", runs / "draw", "--port", 70000)

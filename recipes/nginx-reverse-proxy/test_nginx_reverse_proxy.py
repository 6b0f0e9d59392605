"""The configuration in a real nginx before servers that are dead, silent, slow, break off or lose what they got."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recipes.engines import Nginx, free_port, wait_for

CONFIGURATION = (Path(__file__).parent / "nginx.conf").read_text(encoding="utf-8")
NAME = "server_name api.example.com;"
Fault = Callable[[str, str], None]


@dataclass
class Hit:
    """One request that a server has read, to the end of its body."""

    method: str
    path: str
    version: str
    headers: dict[str, str]
    body: bytes
    nth: int  # on its connection
    send: Callable[[bytes], object] = field(repr=False)

    def answer(self, status: int = 200, body: bytes = b"fine", more: str = "") -> None:
        self.send(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)


Behaviour = Callable[[Hit], bool | None]  # True: the connection is closed


class Upstream:
    """A server of the tests' own; what it does with a request can be changed at any time."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave, self.hits, self.connections, self.open = behave, list[Hit](), 0, 0
        upstream = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                upstream.connections += 1
                upstream.open += 1
                with suppress(ConnectionError):
                    upstream.serve(self)
                upstream.open -= 1

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 1000

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, handler: socketserver.StreamRequestHandler) -> None:
        nth = 0
        while line := handler.rfile.readline().decode():
            nth += 1
            headers = {}
            while (text := handler.rfile.readline().decode().strip()) != "":
                name, _, headers_value = text.partition(": ")
                headers[name.lower()] = headers_value
            body = handler.rfile.read(int(headers.get("content-length", 0)))
            method, path, version = line.split()
            hit = Hit(method, path, version, headers, body, nth, handler.wfile.write)
            self.hits.append(hit)
            if self.behave(hit):
                break

    def count(self, method: str) -> int:
        return sum(hit.method == method for hit in self.hits)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Proxy(Nginx):
    """nginx with the recipe's configuration before servers of the tests."""

    def __init__(self, folder: Path, servers: list[str], changes: dict[str, str]) -> None:
        port = free_port()
        if os.getuid() == 0:  # pytest's folders are for their owner alone
            changes = {"worker_processes auto;": "worker_processes 1; user root;", **changes}
        else:
            changes = {"worker_processes auto;": "worker_processes 1;", **changes}
        changes = {
            "listen 8080 default_server;": f"listen 127.0.0.1:{port} default_server;",
            "listen 8080;": f"listen 127.0.0.1:{port};",
            "/var/log/nginx/error.log warn": "logs/error.log notice",
            "/var/log/nginx/access.log": "logs/access.log",
            "10.0.0.0/16": "127.0.0.9/32",  # the balancer of the tests has this address
            "10.0.1.11:8080": servers[0],
            "10.0.1.12:8080": servers[1],
            **changes,
        }
        text = CONFIGURATION.replace("fail_timeout=10s", "fail_timeout=60s")  # no test outlives it on a busy machine
        for before, after in changes.items():
            assert text.count(before) <= 1, before  # 0 when it is the guard that is taken out
            text = text.replace(before, after)
        super().__init__(folder, text, port)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(source, 0))

    def ask(self, method: str = "GET", path: str = "/", body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body; status 0 when the connection ends without an answer."""
        source = headers.pop("source", "127.0.0.1")
        named = {"Host": "api.example.com", **{name.replace("_", "-"): text for name, text in headers.items()}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(source, 0))
        with closing(connection):
            try:
                connection.request(method, path, body, named)
                response = connection.getresponse()
                return response.status, response.headers, response.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                return 0, {}, b""

    def logged(self, path: str) -> dict[str, str]:
        """The line of the access log for a path, once it is there."""

        def lines() -> list[dict[str, str]]:
            text = (self.folder / "logs" / "access.log").read_text(encoding="utf-8")
            return [line for line in map(json.loads, text.splitlines()) if f" {path} " in line["request"]]

        wait_for("the log", lines)
        return lines()[0]


Serve = Callable[..., Upstream]
Start = Callable[..., Proxy]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    def serve(behave: Behaviour | None = None) -> Upstream:
        upstream = Upstream(behave or fine)
        stack.callback(upstream.stop)
        return upstream

    return serve


@pytest.fixture
def start(tmp_path: Path, stack: ExitStack) -> Start:
    def start(*servers: Upstream | str, **changes: str) -> Proxy:
        addresses = [each if isinstance(each, str) else each.address for each in servers]
        folder = tmp_path / f"nginx{time.monotonic_ns()}"
        folder.mkdir()
        proxy = Proxy(folder, addresses, changes.pop("changes", {}))  # type: ignore[arg-type]
        stack.callback(proxy.stop)
        return proxy

    return start


def fine(hit: Hit) -> None:
    hit.answer(body=b"" if hit.method == "HEAD" else b"fine")


def loses(hit: Hit) -> bool:
    return True


def bad_gateway(hit: Hit) -> None:
    hit.answer(502, b"bad")


def drain(connection: socket.socket) -> bytes:
    """All that comes until the end, however it ends."""
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(65_536):
            found += data
    return found


def test_connections_to_the_servers_are_kept_and_shared(serve: Serve, start: Start, fault: Fault) -> None:
    one, two = serve(), serve()
    proxy = start(one, two, changes={NAME: f"{NAME} location /other {{ proxy_pass http://api; }}"})
    answers = Counter(proxy.ask(path=path)[0] for path in ("/", "/other") for _ in range(50))
    connections = one.connections + two.connections
    seen = {(hit.version, hit.headers.get("connection")) for hit in one.hits + two.hits}
    assert answers == {200: 100} and connections == 2 and seen == {("HTTP/1.1", None)}
    fault(
        "100 requests over 100 connections of clients, through two locations",
        f"{connections} connections to two servers, HTTP/1.1 without a Connection header",
    )


def test_this_version_keeps_connections_by_itself_but_not_between_locations(
    serve: Serve, start: Start, fault: Fault
) -> None:
    found = {}
    for name, keep in (("none", ""), ("shared", "keepalive 32;"), ("off", "keepalive 0;")):
        one, two = serve(), serve()
        proxy = start(
            one, two, changes={"keepalive 32;": keep, NAME: f"{NAME} location /other {{ proxy_pass http://api; }}"}
        )
        for path in ("/", "/other"):
            assert Counter(proxy.ask(path=path)[0] for _ in range(10)) == {200: 10}
        found[name] = one.connections + two.connections
        assert {hit.version for hit in one.hits} == {"HTTP/1.1"}
    assert found == {"none": 4, "shared": 2, "off": 20}
    fault(
        "10 requests through each of two locations to two servers: `keepalive` left out; `keepalive 32`; `keepalive 0`",
        f"{found['none']}; {found['shared']}; {found['off']} connections",
    )


def test_a_dead_server_costs_nobody_an_answer(serve: Serve, start: Start, fault: Fault) -> None:
    alive = serve()
    proxy = start(f"127.0.0.1:{free_port()}", alive)
    answers = Counter(proxy.ask(method, body=b"x")[0] for method in ("GET", "PUT", "POST", "PATCH") for _ in range(25))
    assert answers == {200: 100} and len(alive.hits) == 100
    both = start(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    nobody = both.ask()[0]
    assert nobody == 502
    fault(
        "one of two servers refuses connections; both do",
        f"{answers[200]} of 100 answers 200, POST and PATCH too, since nothing was sent to it; {nobody}",
    )


def test_a_server_that_takes_no_connection_costs_the_connect_timeout(serve: Serve, start: Start, fault: Fault) -> None:
    alive = serve()
    with ExitStack() as stack:
        hole = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        address = hole.getsockname()
        for _ in range(20):  # fill its queue, so that the next one gets no answer at all
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(address)
        quicker = {"proxy_connect_timeout 2s;": "proxy_connect_timeout 1s;"}
        proxy = start(f"127.0.0.1:{address[1]}", alive, changes=quicker)
        began = time.monotonic()
        answers = [proxy.ask("POST", body=b"x")[0] for _ in range(2)]
        took = time.monotonic() - began
    assert answers == [200, 200] and took > 0.9 and alive.count("POST") == 2
    fault(
        "one of two servers is unreachable, packets vanish",
        f"POST waits for proxy_connect_timeout, then {answers[0]} from the other, once",
    )


def test_a_post_that_was_received_is_never_repeated(serve: Serve, start: Start, fault: Fault) -> None:
    repeatable, once = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"), ("POST", "PATCH")
    found = {}
    for method in repeatable + once:
        one, two = serve(loses), serve()
        proxy = start(one, two)
        answers = Counter(proxy.ask(method, body=b"order")[0] for _ in range(20))
        found[method] = answers, one.count(method), two.count(method)
    assert {method: found[method] for method in repeatable} == dict.fromkeys(repeatable, ({200: 20}, 3, 20))
    assert {method: found[method] for method in once} == dict.fromkeys(once, ({502: 3, 200: 17}, 3, 17))
    fault(
        f"one of two servers reads each request and closes the connection; 20 requests each of {', '.join(repeatable)}",
        f"{found['GET'][0][200]} answers 200 each; that server is left alone after {found['GET'][1]} requests",
    )
    fault(
        f"the same with 20 requests each of {', '.join(once)}",
        f"{found['POST'][0][502]} answers 502 and {found['POST'][0][200]} answers 200 each: {found['POST'][1]} "
        f"requests at the one, {found['POST'][2]} at the other, none at both",
    )


def test_a_502_of_a_server_is_hidden_for_get_only(serve: Serve, start: Start, fault: Fault) -> None:
    found = {}
    for method in ("GET", "POST"):
        one, two = serve(bad_gateway), serve()
        proxy = start(one, two)
        answers = [proxy.ask(method, body=b"x")[0] for _ in range(2)]
        found[method] = sorted(answers), len(one.hits) + len(two.hits)
    assert found == {"GET": ([200, 200], 3), "POST": ([200, 502], 2)}
    bad = [serve(bad_gateway) for _ in range(3)]
    third = {"keepalive 32;": f"server {bad[2].address}; keepalive 32;"}
    all_bad = start(bad[0], bad[1], changes=third).ask()[0]
    tries = sum(len(server.hits) for server in bad)
    assert (all_bad, tries) == (502, 2)
    fault(
        "one of two servers answers 502; three of three do",
        f"two GET: 200 both times; two POST: 200 and 502, each sent once; {all_bad} after {tries} requests",
    )


def test_a_slow_server_is_given_up_and_not_doubled(serve: Serve, start: Start, stack: ExitStack, fault: Fault) -> None:
    go = threading.Event()
    stack.callback(go.set)

    def silent(hit: Hit) -> bool:
        go.wait(60)
        return True

    one, two = serve(silent), serve(silent)
    proxy = start(one, two, changes={"proxy_read_timeout 15s;": "proxy_read_timeout 2s;",
                                     "proxy_next_upstream_timeout 5s;": "proxy_next_upstream_timeout 1s;"})  # fmt: skip
    with ThreadPoolExecutor(20) as pool:
        answers = Counter(pool.map(lambda number: proxy.ask(("GET", "POST")[number % 2])[0], range(20)))
    sent = len(one.hits) + len(two.hits)
    assert answers == {504: 20} and sent == 20
    fault(
        "both servers take requests and never answer; 10 GET and 10 POST",
        f"{answers[504]} answers 504 after proxy_read_timeout, {sent} requests sent, none twice",
    )


def test_an_answer_that_breaks_off_is_not_taken_for_whole(serve: Serve, start: Start, fault: Fault) -> None:
    def half(hit: Hit) -> bool:
        framing = {"/length": "Content-Length: 9\r\n\r\n", "/chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\n"}
        hit.send(f"HTTP/1.1 200 OK\r\n{framing[hit.path]}half ".encode())
        return True

    one, two = serve(half), serve(half)
    proxy = start(one, two)
    seen = 0
    for path in ("/length", "/chunked"):
        with pytest.raises(http.client.IncompleteRead):
            proxy.ask(path=path)
        seen += 1
    sent = len(one.hits) + len(two.hits)
    assert sent == 2
    fault(
        "a server breaks off in the middle of an answer, with a length; chunked",
        f"{seen} of {seen} clients see that it is not whole; {sent} requests sent, since bytes had gone out",
    )


def test_a_server_that_closes_a_kept_connection_under_a_request(serve: Serve, start: Start, fault: Fault) -> None:
    def closes_kept(hit: Hit) -> bool:
        if hit.nth == 1:
            hit.answer()
        return hit.nth > 1

    found = {}
    for method in ("GET", "POST"):
        one, two = serve(closes_kept), serve()
        proxy = start(one, two)
        answers = Counter(proxy.ask(method, body=b"x")[0] for _ in range(20))
        found[method] = answers, len(one.hits) + len(two.hits)
    assert found == {"GET": ({200: 20}, 23), "POST": ({200: 17, 502: 3}, 20)}
    both = start(serve(closes_kept), serve(closes_kept))
    unlucky = [both.ask()[0] for _ in range(4)]
    assert unlucky == [200, 200, 502, 200]
    fault(
        "one of two servers closes a kept connection in the moment when the next request comes on it; 20 GET, 20 POST",
        f"{found['GET'][0][200]} answers 200; {found['POST'][0][502]} answers 502 and {found['POST'][0][200]} answers "
        f"200, {found['POST'][1]} requests at the servers",
    )
    fault(
        "both servers do that: a GET when there is a kept connection to each",
        f"{unlucky[2]}, since each server is tried once; the next one {unlucky[3]}",
    )


def test_clients_that_dawdle_are_cut(serve: Serve, start: Start, fault: Fault) -> None:
    one = serve()
    proxy = start(one, one, changes={"client_header_timeout 10s;": "client_header_timeout 1s;",
                                     "client_body_timeout 10s;": "client_body_timeout 1s;"})  # fmt: skip
    head = b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1000\r\n"
    with closing(proxy.connect()) as drips, closing(proxy.connect()) as stalls:
        stalls.sendall(head + b"\r\n" + b"x" * 10)
        sent = 0
        with suppress(ConnectionError):
            for sent in range(300):
                drips.sendall(head[sent % 60 : sent % 60 + 1] if sent < 60 else b"x")
                time.sleep(0.1)
        stalled = drain(stalls)
    logged = proxy.logged("/")["status"]
    assert sent < 299 and not one.hits and stalled == b"" and logged == "408"
    fault(
        "a head that drips, a byte each 100 ms; a body that stops, both timeouts are 1 s",
        f"both connections reset without a byte of an answer, {logged} in the log, nothing reached a server",
    )


def test_a_slow_upload_holds_no_server(serve: Serve, start: Start, fault: Fault) -> None:
    one = serve()
    proxy = start(one, one)
    head = b"POST /upload HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 200000\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        uploads = [stack.enter_context(closing(proxy.connect())) for _ in range(50)]
        for upload in uploads:
            upload.sendall(head + b"x" * 199_999)
        assert proxy.ask()[0] == 200  # by now they have been read
        before = one.connections, one.count("POST")
        for upload in uploads:
            upload.sendall(b"x")
        answers = Counter(drain(upload)[9:12] for upload in uploads)
    assert before == (1, 0) and answers == {b"200": 50}
    assert {len(hit.body) for hit in one.hits if hit.method == "POST"} == {200_000}
    fault(
        "50 uploads of 200 kB that stop before the last byte, one other request",
        f"{before[0]} connection to the server, the other request's, and {before[1]} uploads there; after the last "
        f"byte {answers[b'200']} answers 200",
    )


def test_a_client_that_does_not_read_holds_no_server(serve: Serve, start: Start, fault: Fault) -> None:
    taken = threading.Event()

    def long(hit: Hit) -> None:
        hit.answer(200, b"x" * 30_000_000)
        taken.set()

    one = serve(long)
    proxy = start(one, one)
    with closing(proxy.connect()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
        assert taken.wait(30)
        body = drain(client).partition(b"\r\n\r\n")[2]
    assert len(body) == 30_000_000
    fault(
        "a client reads nothing of an answer of 30 MB",
        f"the server is rid of it before the client reads; it then gets all {len(body):,} bytes",
    )


def test_requests_that_are_too_large_do_not_reach_the_servers(serve: Serve, start: Start, fault: Fault) -> None:
    one = serve()
    proxy = start(one, one)
    fits = proxy.ask("POST", body=b"x" * 1_048_576)[0]
    with closing(proxy.connect()) as declared:
        declared.sendall(b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1048577\r\n\r\n")
        at_once = declared.recv(12)[9:].decode()
    with closing(proxy.connect()) as chunked:
        chunked.sendall(b"POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunked.sendall(b"100000\r\n" + b"x" * 1_048_576 + b"\r\n1\r\nx\r\n")
        counted = chunked.recv(12)[9:].decode()
    head = proxy.ask(X_Long="x" * 9000)[0]
    unknown = proxy.ask(Host="else.example.com")[0]
    assert (fits, at_once, counted, head, unknown, len(one.hits)) == (200, "413", "413", 400, 421, 1)
    fault(
        "a body of 1 MiB; declared one byte longer; chunked and one byte longer; a header of 9 kB; another Host",
        f"{fits}; {at_once} before the body; {counted} at the byte too many; {head}; {unknown}",
    )


def test_the_probe_of_the_balancer_is_answered_without_a_server(serve: Serve, start: Start, fault: Fault) -> None:
    one = serve()
    proxy = start(one, one)
    answers = [proxy.ask(path="/nginx-health", Host=host)[0] for host in (f"127.0.0.1:{proxy.port}", "10.0.0.7")]
    through = proxy.ask(path="/nginx-health")[0]
    assert answers == [200, 200] and through == 200 and len(one.hits) == 1
    fault(
        "the balancer asks /nginx-health with an address as Host; a client does with the API's name",
        f"{answers[0]} from nginx; {through} from a server, as for any path",
    )


def test_the_address_of_the_client_cannot_be_forged(serve: Serve, start: Start, fault: Fault) -> None:
    one = serve()
    proxy = start(one, one)

    def seen(**how: Any) -> tuple[str, str]:
        assert proxy.ask(**how)[0] == 200
        headers = one.hits[-1].headers
        assert headers["x-real-ip"] == headers["x-forwarded-for"]
        return headers["x-forwarded-for"], headers.get("forwarded", "none")

    false = {
        "X_Forwarded_For": "203.0.113.1",
        "X_Real_IP": "203.0.113.1",
        "Forwarded": "for=203.0.113.1",
    }
    direct = seen(source="127.0.0.5", **false)
    through = seen(source="127.0.0.9", X_Forwarded_For="198.51.100.7")
    forged = seen(source="127.0.0.9", X_Forwarded_For="203.0.113.1, 198.51.100.7")
    two_of_ours = seen(source="127.0.0.9", X_Forwarded_For="203.0.113.1, 198.51.100.7, 127.0.0.9")
    assert direct == ("127.0.0.5", "none")
    assert through[0] == forged[0] == two_of_ours[0] == "198.51.100.7"
    fault(
        "a client sends X-Forwarded-For, X-Real-IP and Forwarded: directly; through the balancer; through two of ours",
        "the server sees the client's own address each time, and no Forwarded",
    )


def test_every_request_has_one_id_from_client_to_log(serve: Serve, start: Start, fault: Fault) -> None:
    one, two = serve(loses), serve()
    proxy = start(one, two)
    odd = 'x" onload="\\'
    ids = {}
    for path, method, sent in (
        ("/given", "GET", "order-4711"),
        ("/odd", "GET", odd),
        ("/failed", "POST", "order-4712"),
    ):
        status, headers, _ = proxy.ask(method, path, X_Request_ID=sent, User_Agent=odd)
        at_servers = [hit.headers["x-request-id"] for hit in one.hits + two.hits if hit.path == path]
        log = proxy.logged(path)
        assert log["agent"] == odd and log["status"] == str(status)
        ids[path] = {*at_servers, headers["X-Request-ID"], log["id"]}, len(at_servers), status
    assert ids["/given"] == ({"order-4711"}, 2, 200) and ids["/failed"][0] == {"order-4712"}
    status, headers, _ = proxy.ask(path="/elsewhere", Host="else.example.com")
    assert status == 421 and headers["X-Request-ID"] == proxy.logged("/elsewhere")["id"]
    (made,), _, _ = ids["/odd"]
    assert len(made) == 32 and made.isalnum() and ids["/failed"][2] == 502
    fault(
        "a request id from the client, the first server fails; one with quotes in it; one of a POST that fails",
        f"the same id at both servers, in the answer and in the log; a new one of {len(made)} letters and digits; "
        f"on the {ids['/failed'][2]} too, and on a {status} of nginx itself. Each line of the log is JSON",
    )


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGQUIT])
def test_a_reload_and_a_stop_finish_what_runs(
    serve: Serve, start: Start, stack: ExitStack, fault: Fault, how: signal.Signals
) -> None:
    go = threading.Event()
    stack.callback(go.set)

    def waits(hit: Hit) -> None:
        if hit.path == "/wait":
            go.wait(60)
        hit.answer()

    one = serve(waits)
    proxy = start(one, one, changes={"proxy_read_timeout 15s;": "proxy_read_timeout 60s;"})
    with ThreadPoolExecutor(20) as pool:
        running = [pool.submit(proxy.ask, path="/wait") for _ in range(20)]
        wait_for("the requests", lambda: len(one.hits) == 20)
        proxy.process.send_signal(how)
        log = proxy.folder / "logs" / "error.log"
        wait_for("the old worker", lambda: "gracefully shutting down" in log.read_text())
        meanwhile = proxy.ask()[0]
        go.set()
        answers = Counter(each.result()[0] for each in running)
    assert answers == {200: 20} and meanwhile == (200 if how == signal.SIGHUP else 0)
    what = {signal.SIGHUP: "SIGHUP (reload)", signal.SIGQUIT: "SIGQUIT (stop)"}[how]
    new = "a new request gets 200 meanwhile" if meanwhile else "no new connections"
    fault(f"{what} with 20 requests in flight", f"{answers[200]} answers 200, {new}")

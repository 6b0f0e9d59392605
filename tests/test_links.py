"""The link check tells sound links from others, against a server of its own on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maintain import links

PAGES = {
    "/page": (200, '<html><h2 id="here">A</h2><a name="there"></a></html>'),
    "/source.go": (200, "package main"),
    "/gone": (404, "gone"),
    "/slow": (200, "never seen"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/slow":
                threading.Event().wait(1)
            if self.path == "/moved":
                self.send_response(301)
                self.send_header("Location", "/page")
                self.end_headers()
                return
            status, text = PAGES[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # who asked for the slow page has gone

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/page", ""),
        ("/page#here", ""),
        ("/page#there", ""),
        ("/page#elsewhere", "no anchor #elsewhere"),
        ("/moved#here", ""),
        ("/source.go#L1", ""),
        ("/gone", "status 404"),
    ],
)
def test_a_link_is_sound_when_its_page_and_anchor_are_there(server: str, path: str, wrong: str) -> None:
    assert links.fault(server + path) == wrong


def test_a_page_that_does_not_come_is_named_with_the_reason(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "TIMEOUT", 0.2)
    assert links.fault(server + "/slow").startswith("no answer (")
    assert links.fault("http://127.0.0.1:1/").startswith("no answer (")
    assert links.fault("https:/").startswith("no answer (")


def test_a_fault_is_listed_with_the_rows_that_name_the_link(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "LEFT_OUT", {"localhost": "for this test"})
    asked = {server + "/gone": ["go/b", "go/a"], server + "/page": ["go/a"], "http://localhost:1/": ["go/a"]}
    assert list(links.faults(asked)) == [f"{server}/gone: status 404 (go/a, go/b)"]


def test_every_source_of_rows_playbooks_and_evidence_is_asked() -> None:
    every = links.sources([])
    assert len(every) > 1000
    some = links.sources(["go/"])
    assert 20 < len(some) < len(every)
    assert all(any(ref.startswith("go/") for ref in refs) for refs in some.values())

"""A line between a component and a server on which bytes are held, lost or cut, for suites that need one."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit


class Gate:
    """One direction of all connections: open, or holding what arrives."""

    def __init__(self) -> None:
        self.open, self.held = threading.Event(), threading.Event()
        self.waiting = bytearray()  # what arrived since hold() and has not gone on
        self.open.set()

    def hold(self) -> None:
        """Keep what arrives from now on; `held` is set when the first of it is there."""
        self.waiting.clear()
        self.held.clear()
        self.open.clear()

    def release(self) -> None:
        """Let it all go on."""
        self.open.set()


class Wire:
    """Listens on a port of loopback and passes bytes on to a server: `requests` and `answers` are its gates."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.target, self.listener = (parts.hostname or "", parts.port or 0), socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        user = f"{parts.username}@" if parts.username else ""
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{self.port}"))
        self.requests, self.answers = Gate(), Gate()
        self.lock, self.links = threading.Lock(), set[Link]()
        self.traps: list[tuple[bytes, Gate]] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client: socket.socket) -> None:
        while not self.requests.open.is_set():  # the server never hears of who gives up meanwhile
            time.sleep(0.01)
            if gone(client):
                return client.close()
        try:
            server = socket.create_connection(self.target, timeout=2)
            server.settimeout(None)
        except OSError:
            return client.close()
        link = Link(client, server)
        with self.lock:
            self.links.add(link)
        for gate, source, sink in ((self.requests, client, server), (self.answers, server, client)):
            threading.Thread(target=self.pump, args=(link, gate, source, sink), daemon=True).start()

    def pump(self, link: Link, gate: Gate, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if gate is self.requests:
                    self.spring(data)
                if not gate.open.is_set():
                    gate.waiting += data
                    gate.held.set()
                while link.silent or not gate.open.is_set():
                    if link.cut:
                        return
                    time.sleep(0.01)
                sink.sendall(data)
        if not link.silent:  # on a silent line nobody hears that the other end is gone
            link.close()
            with self.lock:
                self.links.discard(link)

    def trap(self, marker: str, gate: Gate) -> None:
        """Hold this gate from the moment on in which a request with the marker comes: it, or the answer to it."""
        self.traps.append((marker.encode(), gate))

    def spring(self, data: bytes) -> None:
        for trap in self.traps[:]:
            if trap[0] in data:
                self.traps.remove(trap)
                trap[1].hold()

    def hold(self) -> None:
        """Silence in both directions, also for connections that are yet to come."""
        self.requests.hold()
        self.answers.hold()

    def heal(self) -> None:
        """New connections work; those that there are stay silent for ever, as after a change of the route."""
        with self.lock:
            for link in self.links:
                link.silent = True
        self.requests.release()
        self.answers.release()

    def cut(self) -> None:
        """Break all connections; what was held on them is lost. New ones work."""
        with self.lock:
            for link in self.links:
                link.close()
            self.links.clear()
        self.requests.release()
        self.answers.release()

    def stop(self) -> None:
        """Break all connections and refuse new ones."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


def gone(client: socket.socket) -> bool:
    """Whether the other end has closed the connection."""
    watch = select.poll()
    watch.register(client, select.POLLRDHUP)
    return bool(watch.poll(0))


class Link:
    """One connection, that is two sockets."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends, self.silent, self.cut = (client, server), False, False

    def close(self) -> None:
        self.cut = True
        for each in self.ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

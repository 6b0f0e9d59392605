"""A login server as a process of its own, with one worker thread and a ticker that sees whatever blocks it."""

from __future__ import annotations

import http.client
import os
import re
import select
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest

from recipes.engines import cargo, free_port, listening, program, wait_for

pytestmark = pytest.mark.slow  # compiles

HERE = Path(__file__).parent
PATIENCE = 60.0
OWASP = {"MEMORY_KIB": 19 << 10, "PASSES": 2}
TODAY = "$argon2id$v=19$m=19456,t=2,p=1$"
LONG = 150  # passes: a hash that takes a second or more
Fault = Callable[[str, str], None]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe; its files are new to cargo, which goes by their times."""
    if not program("cargo"):
        pytest.skip("needs Rust's cargo")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder, copy_function=shutil.copyfile)
    return folder


@pytest.fixture(scope="module")
def binary(code: Path) -> Path:
    words = ["build", "--release", "--locked", "--example", "login", "--message-format", "json-render-diagnostics"]
    done = cargo(code, *words)
    assert done.returncode == 0, done.stderr
    path = done.stdout.rpartition('"executable":"')[2].partition('"')[0]
    return Path(shutil.copy(path, code / "login"))


class Server:
    def __init__(self, binary: Path, folder: Path, settings: dict[str, int]) -> None:
        self.port = free_port()
        self.log = folder / f"{self.port}.log"
        chosen = {**OWASP, "RUNNING": 1, "WAITING": 1000, "WAIT": 60_000, **settings}
        environment = {name: str(value) for name, value in chosen.items()} | {"ADDR": f"127.0.0.1:{self.port}"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [binary], env=os.environ | environment, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_for("the server", lambda: listening(self.port) or self.process.poll() is not None)

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body.encode())
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def login(self, user: str, password: str) -> int:
        return self.ask("POST", f"/login/{user}", password)[0]

    def register(self, user: str, password: str) -> str:
        """The hash that is stored."""
        assert self.ask("POST", f"/users/{user}", password)[0] == 201
        return self.stored(user)

    def stored(self, user: str, new: str | None = None) -> str:
        if new is not None:
            assert self.ask("PUT", f"/stored/{user}", new)[0] == 200
        return self.ask("GET", f"/stored/{user}")[1]

    def begin(self, user: str, password: str) -> socket.socket:
        """A login whose answer nobody has read yet."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        head = f"POST /login/{user} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(password)}\r\n\r\n"
        client.sendall((head + password).encode())
        return client

    def state(self) -> tuple[int, int, int]:
        """Permits that are free, handlers dropped before their end, milliseconds that the ticker was late at most."""
        free, gone, late = map(int, self.ask("GET", "/state")[1].split())
        return free, gone, late

    def peak(self) -> float:
        """The most memory that the process has held so far, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024

    def processor(self) -> float:
        """Seconds of processor time that the process has used so far."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9


@pytest.fixture
def start(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers = []

    def begin(**settings: int) -> Server:
        servers.append(Server(binary, tmp_path, settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.kill()
        server.process.wait(timeout=PATIENCE)


Start = Callable[..., Server]


def test_formatted_and_without_a_warning(code: Path) -> None:
    for words in (["fmt", "--check"], ["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]):
        done = cargo(code, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_200_logins_at_once_stall_nobody_else(start: Start, fault: Fault) -> None:
    server = start(RUNNING=2)
    hashed = server.register("ann", "right")
    assert hashed.startswith(TODAY) and server.login("ann", "right") == 200
    before, health = server.peak(), Counter[int]()
    with ThreadPoolExecutor(200) as pool:
        logins = [pool.submit(server.login, "ann", "right" if n % 2 else "wrong") for n in range(200)]
        while not all(login.done() for login in logins):
            health[server.ask("GET", "/health")[0]] += 1
            time.sleep(0.01)
        found = Counter(login.result() for login in logins)
    late, grown = server.state()[2], server.peak() - before
    assert found == {200: 100, 401: 100} and set(health) == {200}, (found, health)
    assert late < 1000 and grown < 2 * 19, (late, grown)
    fault(
        "200 logins at once, `running` is 2, one worker thread",
        f"{found[200]} right and {found[401]} wrong, every request to /health meanwhile 200, a ticker of 5 ms never "
        "1 s late, memory grown by less than 2 hashes of 19 MiB",
    )


def test_a_long_hash_stalls_nobody_else(start: Start, fault: Fault) -> None:
    server = start(PASSES=2 * LONG, RUNNING=1, WAITING=0)
    began = time.monotonic()
    status = server.login("nobody", "x")
    took, late = time.monotonic() - began, server.state()[2] / 1000
    assert status == 401 and late < took / 2, (took, late)
    fault(
        f"a hash with {2 * LONG} passes, one worker thread",
        "the ticker never late by half of the time that the hash takes",
    )


def test_what_would_wait_too_long_is_refused(start: Start, fault: Fault) -> None:
    server = start(PASSES=LONG, RUNNING=1, WAITING=9, WAIT=60_000)
    clients = [server.begin("nobody", "x") for _ in range(200)]
    wait_for("190 refusals", lambda: len(answered(clients)) >= 190, PATIENCE)
    refused = answered(clients)
    heads = Counter(client.recv(1000).split(b"\r\n")[0].decode() for client in refused)
    for client in clients:
        client.close()
    wait_for("the others to be gone", lambda: server.state()[1] == 10, PATIENCE)
    assert heads == {"HTTP/1.1 503 Service Unavailable": 190}, heads
    fault(
        "200 logins at once, `running` is 1, `waiting` is 9", f"{len(refused)} answered 503 while the first is hashed"
    )


def answered(clients: list[socket.socket]) -> list[socket.socket]:
    return select.select(clients, [], [], 0)[0]


def test_nobody_waits_longer_than_the_deadline(start: Start, fault: Fault) -> None:
    server = start(PASSES=LONG, RUNNING=1, WAIT=100)
    with server.begin("nobody", "x") as first:
        wait_for("the hash", lambda: server.state()[0] == 0, PATIENCE)
        status = server.login("nobody", "x")
        ended = bool(answered([first]))
        assert (status, ended) == (503, False)
        last = first.recv(1000).split(b" ")[1].decode()
    assert last == "401"
    fault(f"a login behind a hash with {LONG} passes, `wait` is 100 ms", f"{status}, the first {last}")


def test_a_permit_comes_back_when_the_hash_ends(start: Start, fault: Fault) -> None:
    server = start(PASSES=LONG, RUNNING=1, WAIT=100)
    client = server.begin("nobody", "x")
    wait_for("the hash", lambda: server.state()[0] == 0, PATIENCE)
    client.close()
    wait_for("the handler to be dropped", lambda: server.state()[1] == 1, PATIENCE)
    held, status = server.state()[0] == 0, server.login("nobody", "x")
    wait_for("the permit", lambda: server.state()[0] == 1, PATIENCE)
    assert held and status == 503, (held, status)
    fault(
        "a client goes away in the middle of its hash",
        f"the hash keeps its permit, another login {status}; free when it ends",
    )


def test_who_goes_away_while_waiting_leaves_the_queue(start: Start, fault: Fault) -> None:
    server = start(PASSES=LONG, RUNNING=1, WAITING=1)
    first = server.begin("nobody", "x")
    wait_for("the hash", lambda: server.state()[0] == 0, PATIENCE)
    second = server.begin("nobody", "x")
    wait_for("a full queue", lambda: server.login("nobody", "x") == 503, PATIENCE)
    second.close()
    wait_for("the handler to be dropped", lambda: server.state()[1] == 1, PATIENCE)
    third = server.begin("nobody", "x")
    answers = [client.recv(1000).split(b" ")[1].decode() for client in (first, third)]
    assert answers == ["401", "401"], answers
    fault("a client goes away while it waits, `waiting` is 1", "its place is free for the next")


def test_an_unknown_user_takes_as_long_as_a_wrong_password(start: Start, fault: Fault) -> None:
    server = start()
    server.register("ann", "right")
    times: dict[str, list[float]] = {"ann": [], "nobody": []}
    busy = {"ann": 0.0, "nobody": 0.0}
    for _ in range(40):
        for user, found in times.items():
            began, worked = time.perf_counter(), server.processor()
            assert server.login(user, "wrong") == 401
            found.append(time.perf_counter() - began)
            busy[user] += server.processor() - worked
    work, answer = busy["nobody"] / busy["ann"], median(times["nobody"]) / median(times["ann"])
    assert 0.8 < work < 1.25 and 0.67 < answer < 1.5, (work, answer)
    fault(
        "40 logins of an unknown user against 40 with a wrong password",
        "ratio of the processor time between 0.8 and 1.25, of the median times to the answer between 0.67 and 1.5",
    )


def test_old_parameters_are_renewed_at_login(start: Start, fault: Fault) -> None:
    old = start(MEMORY_KIB=8 << 10, PASSES=1).register("ann", "right")
    server = start()
    server.stored("ann", old)
    wrong, kept = server.login("ann", "wrong"), server.stored("ann") == old
    right, new = server.login("ann", "right"), server.stored("ann")
    again, same = server.login("ann", "right"), server.stored("ann") == new
    assert old.startswith("$argon2id$v=19$m=8192,t=1,p=1$") and new.startswith(TODAY), (old, new)
    assert (wrong, kept, right, again, same) == (401, True, 200, 200, True)
    # Of the reference implementation: the password "password", the salt "somesalt".
    server.stored("bob", "$argon2i$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b+dWRWJTmaaJObG")
    imported, changed = server.login("bob", "password"), server.stored("bob").startswith(TODAY)
    assert (imported, changed, server.login("bob", "password")) == (200, True, 200)
    fault(
        "a hash with 8 MiB and 1 pass, the parameters are 19 MiB and 2",
        f"wrong password {wrong}, unchanged; right {right}, renewed; again {again}, unchanged",
    )
    fault("an Argon2i hash of the reference implementation with 64 MiB and 4 lanes", f"{imported}, renewed")


def test_a_hash_that_cannot_be_used_is_no_wrong_password(start: Start, fault: Fault) -> None:
    server = start()
    good = server.register("ann", "right")
    before = server.peak()
    broken = {
        "empty": "",
        "no PHC string": "5f4dcc3b5aa765d61d8327deb882cf99",
        "cut off before its salt": good[: len(TODAY) - 1],
        "cut off before its output": good.rpartition("$")[0],
        "without its version": good.replace("v=19$", ""),
        "of another algorithm": good.replace("argon2id", "scrypt"),
    }
    found = Counter[int]()
    for name, text in broken.items():
        server.stored("ann", text)
        status = server.login("ann", "right")
        assert status == 500, (name, status)
        found[status] += 1
    logged = server.log.read_text(encoding="utf-8").count("broken hash")
    greedy = []
    for parameters in ("m=524288,t=2,p=1", "m=19456,t=4000000,p=1"):
        server.stored("ann", good.replace("m=19456,t=2,p=1", parameters))
        greedy.append(server.login("ann", "right"))
    server.stored("ann", good)
    right, grown = server.login("ann", "right"), server.peak() - before
    assert logged == len(broken) and greedy == [500, 500] and right == 200 and grown < 40, (greedy, right, grown)
    fault(
        f"a stored hash that is {', '.join(broken)}",
        f"{found[500]} of {len(broken)} answered 500, {logged} lines in the log",
    )
    fault("a stored hash that asks for 512 MiB, or for 4 million passes", f"{greedy[0]} at once, memory not taken")


def test_a_long_password_is_refused_before_the_queue(start: Start, fault: Fault) -> None:
    server = start(PASSES=LONG, RUNNING=1, WAITING=0)
    with server.begin("nobody", "x"):
        wait_for("the hash", lambda: server.state()[0] == 0, PATIENCE)
        short, large = server.login("nobody", "x"), server.login("nobody", "x" * 1_000_000)
        register = server.ask("POST", "/users/ann", "x" * 1025)[0]
        wait_for("the permit", lambda: server.state()[0] == 1, PATIENCE)
    assert (short, large, register) == (503, 413, 413)
    quick = start()
    quick.register("ann", "x" * 1024)
    most, other = quick.login("ann", "x" * 1024), quick.login("ann", "x" * 1023 + "y")
    assert (most, other) == (200, 401)
    fault("a password of 1 MB while no place is free", f"{large}, where a short one gets {short}")
    fault("a password of 1024 bytes, `longest`", f"{most}; with another last letter {other}")


def test_one_keyboard_or_another_is_the_same_password(start: Start, fault: Fault) -> None:
    server = start()
    composed, decomposed = "caf\u00e9 \u1ec7", "cafe\u0301 e\u0323\u0302"
    server.register("ann", composed)
    server.register("bob", decomposed)
    found = [server.login(user, text) for user in ("ann", "bob") for text in (composed, decomposed)]
    plain, ligature = server.login("ann", "cafe e"), server.register("eve", "\ufb01sh")
    folded = server.login("eve", "fish")
    assert found == [200] * 4 and plain == 401 and folded == 401, (found, plain, folded)
    assert ligature.startswith(TODAY)
    fault(
        "a password with accents set as NFC or NFD, typed as NFC or NFD",
        f"{found.count(200)} of 4 logins right; without accents {plain}",
    )
    fault("a password set with the ligature \ufb01, typed as fi", f"{folded}: NFC keeps such characters apart")

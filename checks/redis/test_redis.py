"""Each Redis check finds its problem on a real server, made on purpose, and says nothing of a healthy one."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from valkey import Valkey as Client

import search
from recipes.engines import Valkey, free_port, wait_for

CHECKS = Path(__file__).with_name("checks.awk")
SOUND = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
# finding: options of a server that has it
SETTINGS = {
    "maxmemory | no limit": ("--maxmemory", "0"),
    "maxmemory | leaves no room": (*SOUND[2:], "--maxmemory", "1000gb"),
    "tcp-keepalive | connections of clients": (*SOUND, "--tcp-keepalive", "0"),
    "slowlog-log-slower-than | slow commands": (*SOUND, "--slowlog-log-slower-than", "-1"),
}
# What cannot be made at will in a test, as INFO would say it.
SAID = {
    "memory | fragmentation": "mem_fragmentation_ratio:2.1\nused_memory:200000000",
    "fork | the last fork": "latest_fork_usec:700000",
    "version | this line": "redis_version:6.2.14\nserver_name:redis",
    "persistence | the last save failed": "aof_last_write_status:err",
}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[Valkey, Client]]:
    server = Valkey(folder, *options)
    try:
        with Client(port=server.port, decode_responses=True) as client:
            yield server, client
    finally:
        server.stop()


def awk(text: str) -> list[str]:
    done = subprocess.run(["awk", "-f", CHECKS], input=text, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


def ask(server: Valkey) -> str:
    """What `valkey-cli INFO everything` and `CONFIG GET *` print, over a connection of our own."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"INFO everything\r\nQUIT\r\n")
        info = b"".join(iter(lambda: connection.recv(65536), b"")).decode().partition("\r\n")[2]
    with Client(port=server.port, decode_responses=True) as client:
        config = client.config_get("*")
    return info + "\n" + "\n".join(f"{name}={value}" for name, value in config.items())


def findings(server: Valkey) -> list[str]:
    return [line.partition(" | ")[2] for line in awk(ask(server))]


def test_a_healthy_server_gets_no_finding(tmp_path: Path) -> None:
    with serving(tmp_path, *SOUND) as (server, client):
        client.set("a", 1, ex=100)
        assert findings(server) == []


@pytest.mark.parametrize("finding", SETTINGS)
def test_a_setting_that_bites_is_found(tmp_path: Path, finding: str) -> None:
    with serving(tmp_path, *SETTINGS[finding]) as (server, _):
        assert [line for line in findings(server) if line.startswith(finding)]


@pytest.mark.parametrize("finding", SAID)
def test_what_a_server_says_of_its_state_is_found(finding: str) -> None:
    text = "redis_version:8.4.0\nmaxmemory:1000000000\nmaxmemory_policy:allkeys-lru\n" + SAID[finding]
    assert [line for line in awk(text) if line.partition(" | ")[2].startswith(finding)]


def test_writes_that_are_about_to_fail_are_found(tmp_path: Path) -> None:
    with serving(tmp_path, "--maxmemory", "5mb", "--maxmemory-policy", "noeviction") as (server, client):
        with pytest.raises(Exception, match="maxmemory"):
            for number in range(10_000):
                client.set(f"key{number}", "x" * 1000)
        assert [line for line in findings(server) if line.startswith("maxmemory-policy | nothing is evicted")]


def test_keys_that_cannot_be_evicted_are_found(tmp_path: Path) -> None:
    with serving(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as (server, client):
        client.mset({f"key{number}": 1 for number in range(1200)})
        assert [line for line in findings(server) if line.startswith("maxmemory-policy | volatile-lru")]


def test_an_open_server_is_found_by_its_settings() -> None:
    text = "redis_version:9.1.0\nmaxmemory:1\nmaxmemory_policy:allkeys-lru\nprotected-mode=no\nrequirepass=\n"
    assert [line for line in awk(text + "bind=* -::*") if " | bind | " in line]
    assert not [line for line in awk(text + "bind=127.0.0.1 -::1") if " | bind | " in line]


def test_a_primary_that_would_lose_writes_and_its_replica_are_told(tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    with ExitStack() as stack:
        primary, _ = stack.enter_context(serving(tmp_path, *SOUND, "--save", ""))
        of = ("--replicaof", f"127.0.0.1 {primary.port}")
        replica, client = stack.enter_context(serving(tmp_path / "replica", *SOUND, *of))
        wait_for("the replica", lambda: client.info("replication")["master_link_status"] == "up")
        said = findings(primary)
        assert [line for line in said if line.startswith("persistence | nothing is kept on disk")]
        assert [line for line in said if line.startswith("min-replicas-to-write")]
        client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        assert [line for line in findings(replica) if line.startswith("replication | this replica has no connection")]


def test_a_crowd_at_the_door_is_found(tmp_path: Path) -> None:
    with serving(tmp_path, *SOUND, "--maxclients", "8") as (server, client), ExitStack() as stack:
        client.ping()
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_for("the crowd", lambda: client.info("clients")["connected_clients"] >= 6)
        said = findings(server)
        assert [line for line in said if line.startswith("maxclients | more than four fifths")]
        for _ in range(6):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_for("the refusal", lambda: client.info("stats")["rejected_connections"] > 0)
        text = "redis_version:9.1.0\nmaxmemory:1\nrejected_connections:3"
        assert [line for line in awk(text) if "clients were turned away" in line]


def test_walking_over_all_keys_is_found(tmp_path: Path) -> None:
    with serving(tmp_path, *SOUND) as (server, client):
        client.keys("*")
        assert [line for line in findings(server) if line.startswith("KEYS | ")]


def test_every_reference_is_a_row_and_there_are_eight_checks_and_more() -> None:
    refs = re.findall(r'find\("([^"]+)"', CHECKS.read_text(encoding="utf-8"))
    assert len(refs) >= 8
    assert set(refs) <= set(search.open_index(search.DATA).references())


def test_what_is_no_info_gets_a_message() -> None:
    done = subprocess.run(["awk", "-f", CHECKS], input="NOAUTH", capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2 and "expected the output of redis-cli INFO" in done.stderr

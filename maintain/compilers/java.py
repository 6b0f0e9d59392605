"""Java: javac over the cells, a package each, with the real libraries of pom.xml; programs are compiled and started."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from maintain.code import SURROUNDINGS, cells, surrounded
from maintain.compilers import postgres
from recipes import engines

ENDING = "java"
HERE = SURROUNDINGS / "java"
POM = HERE / "pom.xml"
SMALL = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # starts in half the time, with a small heap
# All phases also after a fault, so that each cell hears of its own faults.
OPTIONS = ("-Xlint:deprecation", "-proc:none", "-parameters", "-Xmaxerrs", "999", "-XDshould-stop.ifError=FLOW")


def jdk(program: str, *words: str | Path, seconds: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the JDK."""
    return subprocess.run(
        [engines.java_home() / "bin" / program, *words], env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", timeout=seconds, check=False,
    )  # fmt: skip


def versions(build: Path) -> str:
    """The version of the JDK; the libraries' are those that pom.xml names, the rest is what Spring Boot manages."""
    pinned = re.findall(r"<artifactId>([\w-]+)</artifactId>\s*<version>([\w.]+)</version>", POM.read_text("utf-8"))
    return ", ".join(
        [jdk("javac", "--version").stdout.strip(), *(f"{name} {version}" for name, version in pinned if name != "code")]
    )


def javac(build: Path, sources: Path) -> str:
    """What javac says of all sources of a folder; the classes go to its `classes`, those of lib are at hand."""
    files = sorted(sources.rglob("*.java"))
    classpath = f"{build / 'lib' / 'classes'}:{engines.classpath(HERE)}"
    words: list[str | Path] = ["-cp", classpath, "-d", sources / "classes", *files]
    done = jdk("javac", "-J-Xmx700m", *(f"-J{option}" for option in SMALL), *OPTIONS, *words)
    return done.stderr + done.stdout


def lib(build: Path) -> None:
    """Compile what all cells and programs share."""
    shutil.rmtree(build / "lib", ignore_errors=True)
    shutil.copytree(HERE / "lib", build / "lib")
    output = javac(build, build / "lib")
    if output:
        raise SystemExit(output)
    shutil.copy(HERE / "logback.xml", build / "lib" / "classes")


def written(folder: Path, texts: dict[str, str]) -> None:
    """Write packages of one file, each of which imports what the file `imports` names, then its own."""
    shutil.rmtree(folder, ignore_errors=True)
    each = (HERE / "imports").read_text(encoding="utf-8").split()
    imports = "".join(f"import {path}{'' if path.rpartition('.')[2][0].isupper() else '.*'}; " for path in each)
    for name, text in texts.items():
        path = folder / name / "Code.java"
        path.parent.mkdir(parents=True)
        path.write_text(f"package {name}; {imports}{text}", encoding="utf-8")


@functools.cache
def faults_of_programs(build: Path) -> str:
    """Compile all programs in one go; what javac refuses of them."""
    output = javac(build, build / "run")
    return output if "error:" in output else ""


def compile(build: Path, texts: dict[str, str]) -> dict[str, str]:
    """{name: faults} of the packages that javac refuses; what is deprecated is a fault in Good Code."""
    lib(build)
    programs = {cell.name: surrounded(cell, ENDING, ".run") for cell in cells("java") if cell.name in texts}
    written(build / "run", {name: text for name, text in programs.items() if text})
    written(build / "cells", texts)
    output = javac(build, build / "cells")
    faults: dict[str, str] = {}
    for block in re.split(r"^(?=\S+?\.java:\d+: )", output, flags=re.MULTILINE):
        found = re.match(r"\S*/(\w+)/Code\.java:(\d+): (error|warning): (.*)", block, re.DOTALL)
        if found and (found[3] == "error" or found[1].endswith("_good")):
            faults[found[1]] = faults.get(found[1], "") + f"line {found[2]}: {found[4]}"
    if "error:" in output and not faults:
        raise SystemExit(output)
    return faults


@functools.cache
def kafka() -> engines.Kafka:
    """A Kafka broker for the programs, which ends with this process."""
    return engines.until_exit(engines.Kafka(Path(tempfile.mkdtemp(prefix="code-java-"))))


def run(build: Path, name: str, text: str) -> tuple[int, str]:
    """(exit status, output) of a program; one that names DATABASE or KAFKA gets an empty database or a broker."""
    if faults_of_programs(build):
        return 70, faults_of_programs(build)
    added = {}
    if "DATABASE" in text:
        added["DATABASE"] = "jdbc:" + postgres().new_database().replace("//postgres@", "//")
    if "KAFKA" in text:
        added["KAFKA"] = kafka().url
    classpath = f"{build / 'run' / 'classes'}:{build / 'lib' / 'classes'}:{engines.classpath(HERE)}"
    words = ["-Xmx400m", *SMALL, "--enable-native-access=ALL-UNNAMED", "-cp", classpath, f"{name}.Main"]
    try:
        done = jdk("java", *words, seconds=120, **added)
    except subprocess.TimeoutExpired:
        return 70, "still running after 120 s"
    if done.returncode and "VERDICT" not in done.stderr:  # a program at fault itself, which has measured nothing
        return 70, done.stdout + done.stderr
    return done.returncode, done.stdout

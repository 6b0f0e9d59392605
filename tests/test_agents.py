"""What agents and shells need: several questions, pastes, gaps, and an output that may fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import search

from .conftest import ROOT, finish, start, write_csv

Run = Callable[..., tuple[int, str, str]]
EIGHT = [
    "jwt expiry", "kafka rebalance storm", "postgres connection pool size", "http client hangs",
    "charged twice on retry", "cache stampede", "p99 spikes under load", "order saved but event never published",
]  # fmt: skip


def ask(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Run search.py on the shipped knowledge base as a process."""
    command = [sys.executable, str(ROOT / "search.py"), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", input=stdin, check=False)
    return done.returncode, done.stdout, done.stderr


def test_several_questions_give_each_its_best_row_whole_and_the_next_two_in_a_line() -> None:
    status, out, err = ask(*(word for question in EIGHT for word in ("-q", question)))
    assert (status, err) == (search.FOUND, "")
    assert len(out) <= search.SEVERAL_CHARACTERS
    parts = out.split("\n# ")
    assert len(parts) == len(EIGHT)
    for part in parts:
        assert part.count("\n## ") + part.count("Whole: --show") == 1
        assert part.count("\n- **") >= 2


def test_a_row_is_printed_whole_only_once(run: Run) -> None:
    _, out, _ = run("-q", "burnt toast", "-q", "charcoal toast")
    assert out.count("## Burnt toast") == 1
    assert "`kitchen/burnt-toast` (printed above)" in out


def test_several_questions_as_json_are_an_array(run: Run) -> None:
    answers = json.loads(run("toast", "-q", "tyre", "--json")[1])
    assert [answer["query"] for answer in answers] == ["toast", "tyre"]


def test_a_question_comes_from_standard_input() -> None:
    trace = (
        "Traceback (most recent call last):\n" + "  File x.py, line 3\n" * 50 + "HikariPool connection is not available"
    )
    status, out, _ = ask("-", "--json", stdin=trace)
    assert status == search.FOUND
    assert len(json.loads(out)["query"]) <= search.ECHO
    assert ask("-", stdin="")[0] == search.USAGE


@pytest.mark.parametrize(
    "paste",
    ["x" * 100_000, " ".join(f"zq{number}xv" for number in range(12_000)), "2026-11-28 ERROR timeout pool\n" * 4_000],
    ids=["one long word", "unknown words", "a log"],
)
def test_the_frame_of_an_answer_stays_small(paste: str) -> None:
    _, out, err = ask("-", "--brief", stdin=paste)
    assert len(out + err) < 3_000
    _, out, err = ask("-", "--json", "-n", "1", stdin=paste)
    answer = json.loads(out)
    del answer["results"]
    assert len(json.dumps(answer)) < 3_000


def test_list_of_a_scope_names_its_rows(run: Run) -> None:
    assert run("--list", "--domain", "kitchen")[1].splitlines()[0] == "kitchen/burnt-toast  Burnt toast"
    assert json.loads(run("--list", "--stack", "garage", "--json")[1]) == [
        {"ref": "garage/flat-tyre", "name": "Flat tyre"}
    ]


def test_show_prints_what_exists_and_names_the_nearest_for_the_rest(run: Run) -> None:
    status, out, err = run("--show", "kitchen/burnt-toast", "kitchen/burned-toast")
    assert status == search.NOTHING
    assert "## Burnt toast" in out
    assert "kitchen/burned-toast" in err
    assert "nearest kitchen/burnt-toast" in err
    shown = json.loads(run("--show", "garage/flat-tyre", "nowhere", "--json")[1])
    assert shown["missing"] == ["nowhere"]
    assert (
        "security/jwt-validation" in ask("--show", "jwt")[2] or "jwt" in ask("--show", "jwt")[2].partition("nearest")[2]
    )


def test_version_names_program_day_and_rows() -> None:
    _, out, _ = ask("--version")
    assert search.__version__ in out
    assert "rows" in out
    assert out.count("-") >= 2


def test_json_says_what_is_weak_unknown_and_how_many(run: Run) -> None:
    answer = json.loads(run("quantum chromodynamics toast", "--json")[1])
    assert answer["weak"] is True
    assert answer["unknown"]
    assert answer["total"] == 1
    assert 0 < answer["results"][0]["coverage"] < 1
    assert answer["playbook"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-old-space-size", "heap"], "follows --"),
        (["--versin"], "nearest is --version"),
        (["--limit", "3"], "follows --"),
        (["-x"], "follows --"),
    ],
)
def test_an_unknown_option_names_only_near_ones(run: Run, arguments: list[str], message: str) -> None:
    status, _, err = run(*arguments)
    assert status == search.USAGE
    assert message in err


def test_short_options_take_their_value_at_once(run: Run) -> None:
    assert len(json.loads(run("heat", "-n2", "--json")[1])["results"]) == 2
    assert json.loads(run("heat", "-dkitchen", "--json")[1])["scope"] == ["kitchen"]


def test_help_and_checks_survive_optimisation() -> None:
    for option in ("--help", "--version", "--check"):
        command = [sys.executable, "-OO", str(ROOT / "search.py"), option]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (search.FOUND, "")
        assert done.stdout
    command = [sys.executable, "-OO", str(ROOT / "render_skill.py"), "--help"]
    assert "--agent" in subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_an_answer_that_cannot_be_written_is_status_4() -> None:
    command = [sys.executable, str(ROOT / "search.py"), "jwt"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert done.returncode == search.UNWRITTEN
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [*command[:2], "jwt"], stderr=subprocess.PIPE, encoding="utf-8", check=False, preexec_fn=lambda: os.close(1)
    )
    assert done.returncode == search.UNWRITTEN
    assert "Traceback" not in done.stderr


def test_line_ends_do_not_matter(data: Path, run: Run) -> None:
    wanted = run("heat", "--json")[1]
    for path in [*data.rglob("*.csv"), data / "index.tsv"]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    status, out, err = finish(start("heat", "--json", "--data", str(data), python=(sys.executable, "-S")))
    assert (status, err) == (search.FOUND, "")
    assert out == wanted
    write_csv(data / "domains" / "tea.csv", [["a", "Lemon\r\ntea", "", "Sour.", ""]])
    (data / "domains" / "tea.csv").write_bytes(b"ID,Name\r\na,Lemon tea\r\n")
    assert json.loads(run("lemon", "--json")[1])["results"][0]["fields"]["Name"] == "Lemon tea"


@pytest.mark.parametrize("name", ["._api.csv", ".#api.csv", "~$api.csv"])
def test_what_editors_leave_behind_is_passed_over(data: Path, run: Run, name: str) -> None:
    wanted = run("heat")[1]
    (data / "domains" / name).write_bytes(b"\x00\xff no CSV")
    assert run("heat")[:2] == (search.FOUND, wanted)


def test_a_header_near_ours_is_a_layout_of_ones_own(data: Path, run: Run) -> None:
    from maintain import tables

    for columns in (tables.DOMAIN_COLUMNS[:-2], [*tables.DOMAIN_COLUMNS, "Colour"]):
        write_csv(data / "domains" / "tea.csv", [["a", "Lemon", *["x"] * (len(columns) - 2)]], columns)
        assert json.loads(run("lemon", "--json")[1])["results"][0]["ref"] == "tea/a"


def test_brief_of_a_row_without_prose_is_its_name_alone(data: Path, run: Run) -> None:
    write_csv(data / "domains" / "tea.csv", [["a", "Lemon"]], ["ID", "Name"])
    assert "- **Lemon** `tea/a`\n" in run("lemon", "--brief")[1] + "\n"

"""What people type: compound names, symbols, other scripts, right words and misspelt ones."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

import search

from .conftest import ROOT

SPELLING = Path(__file__).with_name("spelling")


def found(query: str, hits: int = 3) -> list[str]:
    """The references of the best rows of the shipped knowledge base."""
    index = search.open_index(search.DATA)
    return [index.row(hit.number)[0] for hit in search.answer(index, query, (), hits).hits]


@pytest.mark.parametrize(
    ("query", "ref"),
    [
        ("DeadLetterQueue", "messaging/dead-letter-queue"),
        ("deadLetterQueue", "messaging/dead-letter-queue"),
        ("RFC9457", "api/problem-details"),
        ("redis8", "caching/redis-8-acl-changes"),
        ("maxConnIdleTime", "go/database-sql-pool"),
        ("TLSv1.3", "security/tls-and-mtls"),
        ("N + 1", "database/n-plus-one"),
        ("idempotency", "api/idempotency-key"),
    ],
)
def test_a_name_as_it_is_typed_finds_its_row_first(query: str, ref: str) -> None:
    assert found(query)[0] == ref


@pytest.mark.parametrize(
    ("query", "spaced"),
    [
        ("CannotAcquireLockException", "cannot acquire lock exception"),
        ("Redis缓存击穿", "Redis 缓存击穿"),
        ("indices", "indexes"),
    ],
)
def test_two_forms_of_a_question_find_the_same_rows(query: str, spaced: str) -> None:
    assert found(query, 10) == found(spaced, 10) != []


def test_dotnet_is_a_word_of_its_own() -> None:
    assert "dotnet" in search.words("a .NET service")
    assert "dotnet" in search.words("C#/.NET 10")
    assert "dotnet" in search.words("ASP.NET Core")
    for text in ("java.net.SocketException", "example.net", "https://api.example.net/orders", "node.network"):
        assert "dotnet" not in search.words(text)


def test_csharp_leads_to_dotnet_rows() -> None:
    assert found("c# memory leak")[0].startswith("dotnet/")


def test_right_words_are_left_alone() -> None:
    index = search.open_index(search.DATA)
    right = (SPELLING / "right.txt").read_text(encoding="utf-8").split()
    assert len(right) >= 300
    replaced = [word for word in right if search.understand(index, word)[1]]
    assert len(replaced) <= 0.02 * len(right), replaced
    _, out = search.understand(index, "rapid growth of table")[1:]
    assert out == ["rapid"]


def test_misspelt_words_are_mended() -> None:
    index = search.open_index(search.DATA)
    with open(SPELLING / "misspelt.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 300
    lost = []
    for row in rows:
        used = search.understand(index, row["typed"])[1].get(row["typed"], "")
        if search.tokenize(used) != search.tokenize(row["meant"]):
            lost.append(row["typed"])
    assert len(lost) <= 0.1 * len(rows), lost


def test_the_repository_holds_no_strays_and_no_large_files() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        pytest.skip("no clone")
    files = done.stdout.split("\n")[:-1]
    at_root = {
        ".gitattributes", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md",
        "SKILL.md", "SKILL.md.tmpl", "__main__.py", "gemini-extension.json", "hatch_build.py", "mcp_server.py",
        "plugin.json", "pyproject.toml", "render_skill.py", "requirements-dev.txt", "search.py", "terminal.py",
    }  # fmt: skip
    folders = {
        ".ci", ".claude-plugin", ".codex-plugin", ".cursor-plugin", ".github", "benchmarks", "checks", "data",
        "evidence", "maintain", "recipes", "skills", "templates", "tests",
    }  # fmt: skip
    strays = [path for path in files if path not in at_root and ("/" not in path or path.split("/")[0] not in folders)]
    assert strays == []
    assert [path for path in files if (ROOT / path).exists() and (ROOT / path).stat().st_size > 3_000_000] == []
    text = [path for path in files if path.startswith(("data/", "maintain/", "tests/", "benchmarks/"))]
    kinds = {Path(path).suffix for path in text if "/components/" not in path}  # those are whole programs
    assert kinds <= {".csv", ".tsv", ".py", ".txt", ".md"}

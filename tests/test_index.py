"""The index: what it holds, and what happens when it does not fit the data."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rank_bm25 import BM25Okapi

import search
from maintain import build

from .conftest import PLAIN, ROOT, finish, start, write_csv

Run = Callable[..., tuple[int, str, str]]


def rows_of(data: Path) -> tuple[list[str], list[list[str]]]:
    """References and token lists of all rows, read with none of the program's own reading."""
    import csv

    references, documents = [], []
    for path in sorted(data.glob("*/*.csv"), key=lambda path: path.stem):
        with open(path, encoding="utf-8", newline="") as file:
            columns, *rows = csv.reader(file)
        for row in sorted(rows):
            references.append(f"{path.stem}/{row[0]}")
            documents.append(build.row_tokens(dict(zip(columns, row))))
    return references, documents


def scores(index: search.Index, terms: list[str]) -> dict[str, float]:
    """{reference: summed weight} of every row that holds one of the terms, repeated terms counting each time."""
    totals: dict[int, float] = {}
    for term in terms:
        search.add(totals, index.postings(term))
    return {index.row(row)[0]: score / 1000 for row, score in totals.items()}


# ---------------------------------------------------------------- what it holds


def test_summed_weights_equal_rank_bm25_for_random_queries_over_all_rows() -> None:
    """Rows and playbooks are collections apart."""
    references, documents = rows_of(ROOT / "data")
    index = search.open_index(str(ROOT / "data"))
    kinds = {scope.name: scope.kind == "playbook" for scope in index.scopes}
    layers = [[ref for ref in references if kinds[ref.split("/")[0]] is layer] for layer in (False, True)]
    tokens = dict(zip(references, documents))
    models = [
        BM25Okapi([tokens[ref] for ref in layer], k1=search.K1, b=search.B, epsilon=search.EPSILON) for layer in layers
    ]
    terms = sorted({term for document in documents for term in document})
    chance = random.Random(20240707)
    for _ in range(300):
        query = chance.choices(terms, k=chance.randint(1, 8))
        wanted = {
            ref: score for refs, model in zip(layers, models) for ref, score in zip(refs, model.get_scores(query))
        }
        found = scores(index, query)
        for reference, score in wanted.items():
            # Weights are kept in thousandths, and none falls below one of them.
            assert found.get(reference, 0.0) == pytest.approx(score, abs=0.0016 * len(query))
        assert {ref for ref, score in found.items() if score} == {
            ref for ref, document in zip(references, documents) if set(query) & set(document)
        }


def test_the_committed_index_is_what_the_sources_give() -> None:
    assert build.index_bytes(str(ROOT / "data")) == (ROOT / "data" / "index.tsv").read_bytes(), (
        "data/index.tsv is out of date: type python3 search.py --reindex"
    )


def test_builds_are_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    """Each process has a hash seed of its own, so that an order taken from a set would show."""
    builds = set()
    for number in "123":
        data = Path(shutil.copytree(ROOT / "data", tmp_path / number))
        status, _, err = finish(start("--reindex", "--data", str(data)))
        assert (status, err) == (search.FOUND, "")
        builds.add((data / "index.tsv").read_bytes())
    assert len(builds) == 1


def test_the_index_is_text_with_one_sorted_line_for_each_term(data: Path) -> None:
    lines = build.index_bytes(str(data)).decode("utf-8").partition("\n\n")[2].splitlines()
    keys = [line.partition("\t")[0] for line in lines]
    assert keys == sorted(set(keys))
    assert "toast" in keys


# ---------------------------------------------------------------- stale or damaged


def change_a_row(data: Path) -> None:
    path = data / "domains" / "kitchen.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("charcoal", "cinders"), encoding="utf-8", newline="")


def change_keeping_size_and_time(data: Path) -> None:
    path = data / "domains" / "kitchen.csv"
    before = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace("charcoal", "cinderss"), encoding="utf-8", newline="")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def add_a_file(data: Path) -> None:
    write_csv(data / "domains" / "tea.csv", [["a", "Cinders in the tea", "", "", ""]])


def remove_a_file(data: Path) -> None:
    (data / "stacks" / "garage.csv").unlink()


def change_the_synonyms(data: Path) -> None:
    write_csv(data / "synonyms.csv", [["cinders", "charcoal"]], ["Term", "Means"])


def truncate(data: Path) -> None:
    path = data / "index.tsv"
    path.write_bytes(path.read_bytes()[:-100])


def other_version(data: Path) -> None:
    path = data / "index.tsv"
    path.write_bytes(path.read_bytes().replace(search.INDEX_VERSION.encode(), b"backend-index 0", 1))


def other_tokeniser(data: Path) -> None:
    path = data / "index.tsv"
    raw = path.read_bytes()
    place = raw.index(b"settings\t") + len(b"settings\t")
    rest = raw[raw.index(b"\n") + 1 : place] + b"00000000" + raw[place + 8 :]
    path.write_bytes(f"{search.INDEX_VERSION}\t{len(rest)}\t{search.checksum(rest)}\n".encode() + rest)


def noise(data: Path) -> None:
    (data / "index.tsv").write_bytes(random.Random(7).randbytes(5000))


def noise_inside(data: Path) -> None:
    path = data / "index.tsv"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = b"#" * 40
    path.write_bytes(bytes(raw))


def empty(data: Path) -> None:
    (data / "index.tsv").write_bytes(b"")


def missing(data: Path) -> None:
    (data / "index.tsv").unlink()


HARM = [
    change_a_row, change_keeping_size_and_time, add_a_file, remove_a_file, change_the_synonyms, truncate,
    other_version, other_tokeniser, noise, noise_inside, empty, missing,
]  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_with_rank_bm25_a_stale_or_damaged_index_is_mended_and_the_answer_is_right(
    data: Path, run: Run, harm: Callable[[Path], None]
) -> None:
    run("heat")  # builds the index and notes that it fits
    harm(data)
    fresh = build.index_bytes(str(data))
    status, out, err = run("heat cinders cinderss", "-n", "9", "--json")
    assert (status, err) == (search.FOUND, "")
    assert (data / "index.tsv").read_bytes() == fresh
    wanted = search.answer(search.Index(fresh), "heat cinders cinderss", (), 9)
    assert [hit["ref"] for hit in json.loads(out)["results"]] == [
        search.Index(fresh).row(hit.number)[0] for hit in wanted.hits
    ]


@pytest.mark.parametrize("harm", HARM)
def test_without_rank_bm25_a_stale_or_damaged_index_is_status_3_and_the_mending_command(
    data: Path, run: Run, harm: Callable[[Path], None]
) -> None:
    run("heat")
    harm(data)
    before = (data / "index.tsv").read_bytes() if (data / "index.tsv").exists() else None
    status, out, err = finish(start("heat", "--data", str(data), python=PLAIN))
    assert (status, out) == (search.BROKEN, "")
    assert "--reindex --data " + str(data) in err
    assert "pip install" in err
    named: dict[Callable[[Path], None], str] = {
        change_a_row: "kitchen.csv has changed",
        change_keeping_size_and_time: "kitchen.csv has changed",
        add_a_file: "tea.csv is new",
        remove_a_file: "garage.csv is gone",
        change_the_synonyms: "synonyms.csv has changed",
        other_tokeniser: "tokeniser",
    }
    assert named.get(harm, "index.tsv") in err
    assert "Traceback" not in err
    after = (data / "index.tsv").read_bytes() if (data / "index.tsv").exists() else None
    assert after == before


def test_a_fresh_index_serves_without_rank_bm25(data: Path, run: Run) -> None:
    run("heat")
    assert finish(start("heat", "--data", str(data), python=PLAIN))[0] == search.FOUND


def test_a_read_only_folder_is_served_from_memory(data: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    status, out, err = run("charcoal", "--json")
    assert (status, err) == (search.FOUND, "")
    assert json.loads(out)["results"][0]["ref"] == "kitchen/burnt-toast"
    assert sorted(path.name for path in data.iterdir()) == ["domains", "stacks", "synonyms.csv"]
    assert run("--reindex")[0] == search.BROKEN


def test_fifty_searches_during_a_rebuild_all_answer_rightly_and_leave_one_whole_index(data: Path, run: Run) -> None:
    run("heat")
    change_a_row(data)
    searches = [start("cinders", "--data", str(data), "--json", python=(sys.executable,)) for _ in range(50)]
    for process in searches:
        status, out, err = finish(process)
        assert (status, err) == (search.FOUND, "")
        assert [hit["ref"] for hit in json.loads(out)["results"]] == ["kitchen/burnt-toast"]
    assert [path.name for path in data.iterdir() if "index" in path.name] == ["index.tsv"]
    assert (data / "index.tsv").read_bytes() == build.index_bytes(str(data))


def test_a_search_writes_nothing_but_the_index(data: Path, run: Run) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in data.rglob("*.csv")}

    before = state()
    run("heat")
    run("--check")
    run("--reindex")
    assert state() == before
    assert sorted(path.name for path in data.iterdir()) == ["domains", "index.tsv", "stacks", "synonyms.csv"]


# ---------------------------------------------------------------- broken CSV files


BROKEN_FILES = {
    "a byte order mark": (b"\xef\xbb\xbfID,Name\na,Tea\n", "byte order mark"),
    "old line ends": (b"ID,Name\ra,Tea\r", "carriage return"),
    "a missing column": (b"ID,Title\na,Tea\n", "lacks Name"),
    "a column twice": (b"ID,Name,Name\na,Tea,Tea\n", "stands there twice"),
    "a row with a cell more": (b"ID,Name\na,Tea,hot\n", "has 3 cells, expected 2"),
    "a row with a cell less": (b"ID,Name\na\n", "has 1 cells, expected 2"),
    "an ID twice": (b"ID,Name\na,Tea\nb,Milk\na,Juice\n", "'a' stands in row 2 too"),
    "an ID with a tab in it": (b"ID,Name\na\tb,Tea\n", "control characters"),
    "a column with a bar in its name": (b"ID,Name,One|two\na,Tea,x\n", "has a bar"),
    "an empty ID": (b"ID,Name\n,Tea\n", "is empty"),
    "an empty name": (b"ID,Name\na, \n", "is empty"),
    "bytes that are not UTF-8": (b"ID,Name\na,T\xe9a\n", "line 2 is not UTF-8"),
    "a quote that is not closed": (b'ID,Name\na,"Tea\nb,Milk\n', "quote that is not closed"),
    "no rows": (b"ID,Name\n", "no row follows"),
    "nothing at all": (b"", "lacks ID and Name"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
@pytest.mark.parametrize("python", [(sys.executable,), PLAIN], ids=["with rank-bm25", "without"])
def test_a_broken_file_gets_one_message_that_names_it_and_loses_nothing(
    data: Path, run: Run, name: str, python: tuple[str, ...]
) -> None:
    run("heat")
    content, message = BROKEN_FILES[name]
    (data / "domains" / "tea.csv").write_bytes(content)
    before = (data / "index.tsv").read_bytes()
    status, out, err = finish(start("heat", "--data", str(data), python=python))
    assert (status, out) == (search.BROKEN, "")
    assert "tea.csv" in err
    assert message in err
    assert "Traceback" not in err
    assert (data / "index.tsv").read_bytes() == before
    status, out, _ = run("--check")
    assert status == search.BROKEN
    assert "tea.csv" in out
    assert message in out


def test_an_unreadable_file_gets_one_message_that_names_it(data: Path, run: Run) -> None:
    run("heat")
    (data / "domains" / "tea.csv").mkdir()
    status, out, err = run("heat")
    assert (status, out) == (search.BROKEN, "")
    assert "tea.csv cannot be read" in err


def test_a_domain_and_a_stack_of_one_name_are_an_error(data: Path, run: Run) -> None:
    write_csv(data / "stacks" / "kitchen.csv", [["a", "Tea", "", "", ""]])
    status, _, err = run("heat")
    assert status == search.BROKEN
    assert "domains/kitchen.csv and stacks/kitchen.csv" in err

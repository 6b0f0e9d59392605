"""How well the right row is found, beside three other engines on the same rows and questions.

    python benchmarks/retrieval.py                     the half of the questions that is for tuning
    python benchmarks/retrieval.py --report            the half that only reports
    python benchmarks/retrieval.py --misses            and the questions whose row is not among the first three
    python benchmarks/retrieval.py --collection DIR    a test collection (docs.csv[.gz], queries.tsv, qrels.tsv)

success@k: the share of questions with an answering row among the first k. MRR@10: the mean of one over the rank of the
first answering row (Voorhees 1999, TREC-8). nDCG@10: gains of 1, discount log2(rank + 1) (Järvelin and Kekäläinen 2002,
doi:10.1145/582415.582418). Collections have graded gains; a grade of 0 or less is not relevant, as in trec_eval.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import math
import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import search  # noqa: E402
from maintain import tables  # noqa: E402

QUESTIONS = ROOT / "tests" / "queries.csv"
UNANSWERABLE = "none"  # the kind of questions that the knowledge base cannot answer
DEPTH = 10


class Question(NamedTuple):
    """One line of tests/queries.csv."""

    text: str
    scope: str
    kind: str
    grades: dict[str, int]

    @property
    def reports(self) -> bool:
        """Whether it belongs to the half that only reports: decided once and for all by its text."""
        return hashlib.sha256(self.text.encode("utf-8")).digest()[0] % 2 == 1


# An engine answers (question, scope) with references, best first.
Engine = Callable[[str, str], list[str]]


# ---------------------------------------------------------------- questions and measures


def questions() -> list[Question]:
    """All questions of tests/queries.csv."""
    with open(QUESTIONS, encoding="utf-8", newline="") as file:
        return [
            Question(row["Query"], row["Scope"], row["Kind"], dict.fromkeys(filter(None, row["Refs"].split("; ")), 1))
            for row in csv.DictReader(file)
        ]


def discounted(grades: Iterable[int]) -> float:
    """Discounted cumulative gain of grades in rank order."""
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1) if grade > 0)


def measures(ranked: list[str], grades: dict[str, int]) -> tuple[float, float, float, float]:
    """(success@1, success@3, MRR@10, nDCG@10) of one question."""
    gains = [grades.get(ref, 0) for ref in ranked[:DEPTH]]
    first = next((rank for rank, gain in enumerate(gains, 1) if gain > 0), 0)
    ideal = discounted(sorted(grades.values(), reverse=True)[:DEPTH])
    return float(first == 1), float(1 <= first <= 3), 1 / first if first else 0.0, discounted(gains) / ideal


def mean(values: list[tuple[float, float, float, float]]) -> list[float]:
    """The mean of each measure."""
    return [sum(column) / len(values) for column in zip(*values)]


def is_doubted(index: search.Index, question: Question) -> bool:
    """Whether the answer says that nothing fits, or that the match is weak."""
    found = search.answer(index, question.text, (question.scope,) if question.scope else ())
    return found.weak or not found.hits


# ---------------------------------------------------------------- engines


def documents(data: str) -> dict[str, str]:
    """{reference: the text of a row, without references, links and dates}."""
    found = {}
    for path in search.csv_files(data):
        if path not in search.TABLES:
            table = tables.read_table(data, path)
            wanted = [place for place, column in enumerate(table.columns) if column not in search.UNSEARCHED]
            for record in table.records:
                ref = f"{search.scope_name(path)}/{record.cells[table.columns.index('ID')]}"
                found[ref] = " ".join(record.cells[place] for place in wanted)
    return found


def in_scope(ranked: Iterable[str], scope: str) -> list[str]:
    """The references of a scope, in their order."""
    return [ref for ref in ranked if not scope or ref.startswith(scope + "/")][:DEPTH]


def ours(data: str) -> Engine:
    """search.py."""
    index = search.open_index(data)

    def ask(text: str, scope: str) -> list[str]:
        found = search.answer(index, text, (scope,) if scope else (), DEPTH)
        return [index.row(hit.number)[0] for hit in found.hits]

    return ask


def plain_bm25(data: str) -> Engine:
    """rank-bm25's BM25Okapi on lowercased words."""
    from rank_bm25 import BM25Okapi

    texts = documents(data)
    refs = list(texts)
    model = BM25Okapi([re.findall(r"\w+", text.lower()) for text in texts.values()])

    def ask(text: str, scope: str) -> list[str]:
        scores = model.get_scores(re.findall(r"\w+", text.lower()))
        order = sorted(range(len(refs)), key=lambda row: -scores[row])
        return in_scope((refs[row] for row in order if scores[row] > 0), scope)

    return ask


def stemmed_bm25s(data: str) -> Engine:
    """bm25s with Snowball stems and its English stopwords."""
    import bm25s
    import Stemmer

    texts = documents(data)
    refs = list(texts)
    stemmer = Stemmer.Stemmer("english")
    model = bm25s.BM25()
    model.index(
        bm25s.tokenize(list(texts.values()), stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )

    def ask(text: str, scope: str) -> list[str]:
        tokens = bm25s.tokenize([text], stopwords="en", stemmer=stemmer, show_progress=False)
        rows, scores = model.retrieve(tokens, k=len(refs), show_progress=False)
        return in_scope((refs[row] for row, score in zip(rows[0], scores[0]) if score > 0), scope)

    return ask


def sqlite_fts5(data: str) -> Engine:
    """SQLite's FTS5 with the porter tokeniser, the words joined by OR."""
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE rows USING fts5(ref UNINDEXED, text, tokenize = 'porter unicode61')")
    base.executemany("INSERT INTO rows VALUES (?, ?)", documents(data).items())

    def ask(text: str, scope: str) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", text))
        found = base.execute("SELECT ref FROM rows WHERE rows MATCH ? ORDER BY bm25(rows), ref", (words,))
        return in_scope((ref for (ref,) in found), scope)

    return ask


ENGINES: dict[str, Callable[[str], Engine]] = {
    "search.py": ours,
    "rank-bm25, lowercased words": plain_bm25,
    "bm25s, stems and stopwords": stemmed_bm25s,
    "SQLite FTS5, porter": sqlite_fts5,
}


# ---------------------------------------------------------------- reports


def show(what: str, values: list[tuple[float, float, float, float]]) -> None:
    """Print one line of means."""
    print(f"{what:<34} {len(values):>5}  " + "  ".join(f"{value:9.3f}" for value in mean(values)))


def report(half: list[Question], misses: bool) -> None:
    """Print the measures of every engine, and of search.py by scope and by kind."""
    answerable = [question for question in half if question.kind != UNANSWERABLE]
    print(f"{'':<34} {'n':>5}  " + "  ".join(f"{name:>9}" for name in ("success@1", "success@3", "MRR@10", "nDCG@10")))
    results: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, make in ENGINES.items():
        ask = make(search.DATA)
        results[name] = [measures(ask(question.text, question.scope), question.grades) for question in answerable]
        show(name, results[name])
    own = list(zip(answerable, results["search.py"]))
    print()
    for kind in sorted({question.kind for question in answerable}):
        show(kind, [value for question, value in own if question.kind == kind])
    print()
    for scope in sorted({question.scope for question in answerable}):
        show(scope or "(no scope)", [value for question, value in own if question.scope == scope])
    index = search.open_index(search.DATA)
    print()
    for what, group in (
        ("doubted, cannot be answered", [question for question in half if question.kind == UNANSWERABLE]),
        ("doubted, can be answered", answerable),
    ):
        doubted = [question for question in group if is_doubted(index, question)]
        print(f"{what:<34} {len(group):>5}  {len(doubted) / max(1, len(group)):9.3f}")
    if misses:
        print()
        ask = ours(search.DATA)
        for question, value in own:
            if not value[1]:
                found = ", ".join(ask(question.text, question.scope)[:3])
                print(f"[{question.scope}] {question.text}\n    wanted {', '.join(question.grades)}; found {found}")


def collection(folder: Path) -> tuple[list[tuple[float, float, float, float]], int]:
    """The measures of search.py for every question of a test collection, and how many documents it has."""
    name = folder.name
    with tempfile.TemporaryDirectory() as data:
        target = Path(data) / "domains" / f"{name}.csv"
        target.parent.mkdir()
        packed = folder / "docs.csv.gz"
        target.write_bytes(
            gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / "docs.csv").read_bytes()
        )
        grades: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines():
            query, document, grade = line.split("\t")
            grades.setdefault(query, {})[f"{name}/{document}"] = int(grade)
        index = search.open_index(data)
        values = []
        for line in (folder / "queries.tsv").read_text(encoding="utf-8").splitlines():
            query, text = line.split("\t")
            judged = {ref: grade for ref, grade in grades.get(query, {}).items() if grade > 0}
            if judged:
                hits = search.answer(index, text, (), DEPTH).hits
                values.append(measures([index.row(hit.number)[0] for hit in hits], judged))
        return values, index.count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="the half of the questions that only reports")
    parser.add_argument("--misses", action="store_true", help="list the questions that were missed (tuning half only)")
    parser.add_argument("--collection", metavar="DIR", type=Path, help="a test collection instead of the questions")
    options = parser.parse_args()
    if options.collection:
        values, count = collection(options.collection)
        print(f"{options.collection.name}: {count} documents")
        print(f"{'':<34} {'n':>5}  success@1  success@3     MRR@10    nDCG@10")
        show("search.py", values)
        return
    if options.report and options.misses:
        parser.error("--misses would show questions of the half that only reports: leave out --report")
    half = [question for question in questions() if question.reports == options.report]
    print(f"{'Reporting' if options.report else 'Tuning'} half, {search.open_index(search.DATA).count} rows")
    report(half, options.misses)


if __name__ == "__main__":
    main()

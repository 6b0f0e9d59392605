"""What each step of the search is worth: the measures with one step taken away at a time.

    python benchmarks/ablation.py [COLLECTION]...

Questions of the tuning half are asked in their scope and over everything, which is harder; test collections are folders
as for retrieval.py. Prints MRR@10 for the questions and nDCG@10 for the collections, as a Markdown table.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import search  # noqa: E402
from benchmarks import retrieval  # noqa: E402
from maintain import build  # noqa: E402

PLAIN_COLUMNS = {column: min(weight, 1) for column, weight in search.COLUMN_WEIGHTS.items()}
LOUD_COLUMNS = {column: max(weight, 1) for column, weight in search.COLUMN_WEIGHTS.items()}
# What stands in place of which part of search.py.
STEPS: dict[str, dict[str, object]] = {
    "all steps": {},
    "without stems": {"stem": lambda word: word},
    "without stopwords": {"STOPWORDS": frozenset()},
    "without names with symbols": {"SYMBOLS": ()},
    "Name and Keywords count once": {"COLUMN_WEIGHTS": PLAIN_COLUMNS},
    "Keywords count three times": {"COLUMN_WEIGHTS": {**search.COLUMN_WEIGHTS, "Keywords": 3}},
    "exceptions, alternatives and code count once": {"COLUMN_WEIGHTS": LOUD_COLUMNS},
    "without synonyms and joined words": {"synonyms_at": lambda index, typed, place: (1, [])},
    "synonyms as good as the typed word": {"SYNONYM_FACTOR": 1.0},
    "without spelling correction": {"correct": lambda index, word: ""},
    "without coverage": {"COVERAGE_POWER": 0.0},
    "without pairs of words": {"PAIR_COLUMNS": ()},
    "K1 1.2": {"K1": 1.2},
    "K1 2.0": {"K1": 2.0},
    "B 0.5": {"B": 0.5},
    "B 0.9": {"B": 0.9},
}


@contextlib.contextmanager
def changed(parts: dict[str, object]) -> Iterator[None]:
    """search.py with other parts in place of its own, for a while."""
    kept = {name: getattr(search, name) for name in parts}
    search.STEMS.clear()
    for name, part in parts.items():
        setattr(search, name, part)
    try:
        yield
    finally:
        search.STEMS.clear()
        for name, part in kept.items():
            setattr(search, name, part)


def reciprocal_rank(index: search.Index, questions: list[retrieval.Question], scoped: bool) -> float:
    """MRR@10 over the questions."""
    values = []
    for question in questions:
        scopes = (question.scope,) if scoped and question.scope else ()
        try:
            hits = search.answer(index, question.text, scopes, retrieval.DEPTH).hits
        except search.UsageError:
            hits = []
        values.append(retrieval.measures([index.row(hit.number)[0] for hit in hits], question.grades))
    return retrieval.mean(values)[2]


def main() -> None:
    """Measure and print."""
    folders = [Path(name) for name in sys.argv[1:]]
    tuning = [each for each in retrieval.questions() if each.kind != retrieval.UNANSWERABLE and not each.reports]
    heads = ["step", "in scope", "over everything", *(folder.name for folder in folders)]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, parts in STEPS.items():
        with changed(parts):
            index = search.Index(build.index_bytes(search.DATA))
            values = [reciprocal_rank(index, tuning, scoped) for scoped in (True, False)]
            values += [retrieval.mean(retrieval.collection(folder)[0])[3] for folder in folders]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main()

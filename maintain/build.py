"""Building the index: what terms each row has, and the weights that rank-bm25 computes for them."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import search
from maintain.tables import Table, read_table

# Stems of English and names that are spelt right, though a row may lack them; where they come from says README.md.
RIGHT_WORDS = ("english.txt", "names.txt")
OLD = 3600  # seconds after which what a killed rebuild left behind is cleared away

# From the rows' token lists and {term: rows that hold it}: {term: the rows' scores for it, in that order}.
Weigh = Callable[[list[list[str]], dict[str, list[int]]], dict[str, list[float]]]


def row_words(fields: dict[str, str]) -> set[str]:
    """All words of a row that can be searched for."""
    return set(search.words("\n".join(cell for column, cell in fields.items() if column not in search.UNSEARCHED)))


def row_tokens(fields: dict[str, str]) -> list[str]:
    """A row's terms for BM25, each repeated as its column's weight says, and the pairs of its telling columns."""
    tokens = []
    for column, cell in fields.items():
        if column not in search.UNSEARCHED:
            tokens += search.tokenize(cell) * search.COLUMN_WEIGHTS.get(column, 1)
        if column in search.PAIR_COLUMNS:
            for phrase in cell.split("; "):
                tokens += search.pairs(search.tokenize(phrase))
    return tokens


# ---------------------------------------------------------------- weights


def rank_bm25_scores(documents: list[list[str]], rows_of: dict[str, list[int]]) -> dict[str, list[float]]:
    """The scores that rank-bm25 computes; ImportError where it is not installed."""
    from rank_bm25 import BM25Okapi  # brings NumPy

    model = BM25Okapi(documents, k1=search.K1, b=search.B, epsilon=search.EPSILON)
    return {term: [float(score) for score in model.get_batch_scores([term], rows)] for term, rows in rows_of.items()}


def plain_scores(documents: list[list[str]], rows_of: dict[str, list[int]]) -> dict[str, list[float]]:
    """The same scores by the same formula, where rank-bm25 cannot be had: BM25Okapi of rank-bm25 0.2.2.

    idf(t) = ln(N - n + 0.5) - ln(n + 0.5), or EPSILON times the mean of all idf where that is negative;
    score = idf(t) f (K1 + 1) / (f + K1 (1 - B + B length / mean length)).
    """
    counts = [Counter(document) for document in documents]
    mean = sum(map(len, documents)) / len(documents)
    norms = [search.K1 * (1 - search.B + search.B * len(document) / mean) for document in documents]
    rarity = {
        term: math.log(len(documents) - len(rows) + 0.5) - math.log(len(rows) + 0.5) for term, rows in rows_of.items()
    }
    floor = search.EPSILON * sum(rarity.values()) / len(rarity)
    scores = {}
    for term, rows in rows_of.items():
        idf = rarity[term] if rarity[term] >= 0 else floor
        found = [(counts[row][term], norms[row]) for row in rows]
        scores[term] = [idf * count * (search.K1 + 1) / (count + norm) for count, norm in found]
    return scores


def weights(documents: list[list[str]], rows: list[int], weigh: Weigh) -> dict[str, dict[int, float]]:
    """{term: {row: weight}} of some of the rows, weighed as a collection of their own."""
    rows_of: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        for term in dict.fromkeys(documents[row]):
            rows_of.setdefault(term, []).append(place)
    scores = weigh([documents[row] for row in rows], rows_of) if rows_of else {}
    return {term: {rows[place]: score for place, score in zip(rows_of[term], scores[term])} for term in rows_of}


def posting_lines(
    documents: list[list[str]], playbooks: set[int], found_in: dict[str, list[int]], weigh: Weigh
) -> dict[str, str]:
    """{term: posting line} for the rows' token lists and {term: rows in which it stands in any column}.

    Rows and playbooks are collections apart: what is common among tasks may be rare among rows.
    """
    layers = [[row for row in range(len(documents)) if (row in playbooks) is layer] for layer in (False, True)]
    scores: dict[str, dict[int, float]] = {}
    for layer in layers:
        for term, found in weights(documents, layer, weigh).items():
            scores.setdefault(term, {}).update(found)
    lines = {}
    for term, rows in found_in.items():
        heavy = sorted(scores.get(term, {}))
        rounded = [max(round(scores[term][row] * 1000), search.MIN_WEIGHT) for row in heavy]
        light = sorted(set(rows) - set(heavy))
        lines[term] = "\t".join(" ".join(map(str, numbers)) for numbers in (heavy, rounded, light))
    return lines


# ---------------------------------------------------------------- the file


def index_bytes(data: str, weigh: Weigh = rank_bm25_scores) -> bytes:
    """The index of a data folder, in the format that search.py describes.

    DataError when a CSV is broken; ImportError without rank-bm25, unless `weigh` does without.
    """
    paths = search.csv_files(data)
    owners: dict[str, str] = {}
    for path in paths:
        owner = owners.setdefault(search.scope_name(path), path)
        if owner != path:
            raise search.DataError(f"{owner} and {path} have the same name: rename one")
    tables = {path: read_table(data, path) for path in paths}
    synonyms, scopes = tables.pop("synonyms.csv", None), tables.pop("scopes.csv", None)
    descriptions = {record.cells[0]: record.cells[1:] for record in scopes.records} if scopes else {}
    head: list[str] = []
    rows: list[str] = []
    documents: list[list[str]] = []
    playbooks: set[int] = set()
    found_in: dict[str, list[int]] = {}
    counts: Counter[str] = Counter()
    for path in sorted(tables, key=lambda path: (path.startswith("playbooks/"), search.scope_name(path))):
        table = tables[path]
        about = descriptions.get(search.scope_name(path), [categories(table), "", ""])
        head.append(file_line(path, table, len(rows), ["|".join(table.columns), *about]))
        for record in sorted(table.records, key=lambda record: record.cells[table.columns.index("ID")]):
            fields = dict(zip(table.columns, record.cells))
            title = " ".join(fields["Name"].split())
            if path.startswith("playbooks/"):
                playbooks.add(len(documents))
            documents.append(row_tokens(fields))
            found = row_words(fields)
            counts.update(found)
            for term in {*documents[-1], *search.terms_of(found)}:
                found_in.setdefault(term, []).append(len(rows))
            rows.append(f"{search.scope_name(path)}/{fields['ID']}\t{record.start}\t{record.size}\t{title}")
    for path, extra in (("scopes.csv", scopes), ("synonyms.csv", synonyms)):
        if extra:
            head.append(file_line(path, Table([], [], extra.size, extra.checksum), len(rows), ["", "", "", ""]))
    body = {f"!{number:06}": row for number, row in enumerate(rows)}
    body.update((f"~{size:02}", " ".join(listed)) for size, listed in vocabulary(counts).items())
    body.update((f"?{start}", " ".join(ends)) for start, ends in right_words(set(found_in)).items())
    body.update(posting_lines(documents, playbooks, found_in, weigh))
    body.update(("=" + term, "|".join(sorted(same))) for term, same in synonym_pairs(synonyms).items())
    newest = max((day for table in tables.values() for day in table.column("Verified")), default="")
    return assemble([f"settings\t{search.fingerprint()}\t{search.printable(newest)}", *head], body)


def categories(table: Table) -> str:
    """What a file without a description is about: its first categories."""
    return search.printable(", ".join(list(dict.fromkeys(table.column("Category")))[:8]))


def file_line(path: str, table: Table, first: int, texts: list[str]) -> str:
    """A file's line in the index's header."""
    numbers = (table.size, table.checksum, first, len(table.records))
    return "\t".join(["file", path, *map(str, numbers), *map(search.printable, texts)])


def vocabulary(counts: Counter[str]) -> dict[int, list[str]]:
    """{length: words, the commonest first} from how many rows hold each: what a misspelt word may have meant."""
    by_length: dict[int, list[str]] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        if word.isalpha() and len(word) <= search.LONG_WORD and word not in search.STOPWORDS:
            by_length.setdefault(len(word), []).append(word)
    return by_length


def right_words(known: set[str]) -> dict[str, list[str]]:
    """{first two letters: ends of right search.words that no row holds}, which spelling correction leaves alone."""
    stems: set[str] = set()
    for name in RIGHT_WORDS:
        path = Path(__file__).with_name(name)
        stems.update(search.stem(word) for word in path.read_text(encoding="utf-8").split())
    found: dict[str, list[str]] = {}
    for term in sorted(stems - known):
        found.setdefault(term[:2], []).append(term[2:])
    return found


def synonym_pairs(table: Table | None) -> dict[str, set[str]]:
    """{terms joined by blanks: {terms that mean the same}}, in both directions."""
    same: dict[str, set[str]] = {}
    for pair in zip(table.column("Term"), table.column("Means")) if table else ():
        term, means = (" ".join(map(search.stem, search.words(cell))) for cell in pair)
        if term and means and term != means:
            same.setdefault(term, set()).add(means)
            same.setdefault(means, set()).add(term)
    return same


def assemble(head: list[str], body: dict[str, str]) -> bytes:
    """The index file's bytes, from the lines of its header and its body {key: rest of the line}."""
    lines = [f"{key}\t{body[key]}" for key in sorted(body, key=str.encode)]
    rest = "\n".join([*head, "", *lines, ""]).encode("utf-8")
    return f"{search.INDEX_VERSION}\t{len(rest)}\t{search.checksum(rest)}\n".encode("ascii") + rest


def write_index(data: str, raw: bytes) -> bool:
    """Replace the index in one step, so that nothing half written is ever seen; returns whether that was possible."""
    path = Path(data, search.INDEX_NAME)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(raw)
        os.replace(temporary, path)
    except OSError:  # a read-only folder, a full disk, or on Windows an index in use
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    for left in path.parent.glob(f"{path.name}.*.tmp"):  # by a rebuild that was killed
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - OLD:
                left.unlink()
    return True


def reindex(data: str) -> str:
    """Rebuild the index and write it; returns what to say. DataError where it cannot be built or written."""
    try:
        raw = index_bytes(data)
    except ImportError:
        raise search.DataError(how_to_rebuild(data, "it was to be rebuilt"))
    path = os.path.join(data, search.INDEX_NAME)
    if not write_index(data, raw):
        raise search.DataError(
            f"{search.printable(path)} cannot be written: mend the folder's permissions or make room"
        )
    return f"{search.printable(path)}: {search.Index(raw).count} rows, {len(raw)} bytes"


def how_to_rebuild(data: str, reason: str) -> str:
    """What to say, with a command that works, where rank-bm25 is missing.

    A system's own Python refuses packages from outside (PEP 668), so the command makes a virtual environment.
    """
    folder = os.path.join(tempfile.gettempdir(), "backend-architecture-index")
    python = os.path.join(folder, *(("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")))
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "search.py")
    place = "" if data == search.DATA else f" --data {search.quoted(data)}"
    return (
        f"the index does not fit the data: {reason}.\n"
        "It is rebuilt with rank-bm25, which is not installed for this Python. Type:\n"
        f"  {search.quoted(sys.executable or 'python3')} -m venv {search.quoted(folder)}\n"
        f'  {search.quoted(python)} -m pip install "rank-bm25>=0.2.2,<0.3"\n'
        f"  {search.quoted(python)} {search.quoted(script)} --reindex{place}\n"
        "On Debian and Ubuntu the first needs the package python3-venv."
    )

#!/usr/bin/env python3
"""Answer a backend question from curated rows, ranked with BM25.

  search.py "order saved but event never published"       best rows of all domains and stacks
  search.py "charged twice on retry" --domain api         one domain; repeat --domain for several
  search.py "http client hangs" --stack go -n 1           one stack, the best row only
  search.py "jwt" --domain security --stack java --brief  a line for each hit
  search.py "p99 spikes under load" --json                for programs
  search.py --show messaging/transactional-outbox         whole rows by reference
  search.py --list                                        domains and stacks, and what each is for
  search.py --check                                       validate the CSV files
  search.py --reindex                                     rebuild the index (needs rank-bm25)

options:
  -d, --domain D   search this domain (repeatable)
  -s, --stack S    search this stack (repeatable)
  -n N             how many rows (default 3)
  --brief          a line for each row
  --json           JSON, also for --show and --list
  --data DIR       another knowledge base of the same layout
  -h, --help       this text

exit status: 0 found, 1 nothing found, 2 wrong usage, 3 data broken or stale
"""

from __future__ import annotations

import io
import math
import mmap
import os
import sys
from _csv import Error as CsvError  # csv, argparse and getopt import re, which alone
from _csv import reader as csv_reader  # costs half a bare interpreter start
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:  # a query need not wait for what only type checkers read
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# ---------------------------------------------------------------- constants

FOUND, NOTHING, USAGE, BROKEN = 0, 1, 2, 3  # exit statuses

DATA = os.path.join(os.path.dirname(os.path.realpath(__file__)), "data")
INDEX_NAME = "index.tsv"
MEND = 'python3 -m pip install "rank-bm25>=0.2.2,<0.3" && python3 %s --reindex'

DEFAULT_HITS = 3  # about 1,200 tokens of answer
HIDDEN_COLUMNS = ("Keywords",)  # they are for finding; --show and --json give them too
ALSO_HITS = 5  # references in the "also relevant" line

# BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019). A larger K1 rewards
# repetition longer; a larger B punishes long rows more. EPSILON is BM25Okapi's floor
# for terms found in more than half of the rows.
K1, B, EPSILON = 1.5, 0.75, 0.25
# A column counts as if its words stood there so many times; columns not named here count once.
# At zero a word still finds its row but adds nothing to its rank: exceptions, alternatives and
# code speak of other subjects as often as of their own.
COLUMN_WEIGHTS = {
    "Name": 3, "Keywords": 2, "Avoid When": 0, "Trade-offs": 0, "Example": 0, "Good Code": 0, "Bad Code": 0,
}  # fmt: skip
UNSEARCHED = ("ID", "Related", "Source", "Verified")  # no question is about references, links and dates
PAIR_COLUMNS = ("Name", "Keywords")  # their neighbouring words are phrases, and are found as such
PAIR_FACTOR = 0.3  # how much such a pair counts beside its two words
STACK_FACTOR = 0.85  # asked of everything, what holds in every language comes before what holds in one
SYNONYM_FACTOR = 0.7  # a synonym counts less than the word that was typed
COVERAGE_POWER = 0.25  # how much a row gains by holding more of the question's terms
# A hit is called weak when its row holds less than this share of the question, and gives less
# evidence than so many words do that stand in a name or a keyword; a question counts as at least
# four words, since a single word proves little.
WEAK_COVERAGE, WEAK_EVIDENCE, WEAK_WORDS = 0.7, 1.1, 4
SHORT_WORD = 5  # up to so many letters `latex` is not taken for `later`
MIN_WEIGHT = 1  # in thousandths: BM25 gives a term held by most rows of a small collection less than nothing

STOPWORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can cannot could
    did do does doesnt doing dont each even every few for from get gets getting had has have having he how i if
    in into is isnt it its just keep keeps let lets me more most my need no not of on one only or other our own
    please same she should so some still such than that the their them then there these they this those through to
    too under until us use used using very was we were what when where which while who why will with without wont
    would you your""".split()
)

# What the shipped files are for, words to try, and other names that people type for them. A file
# that is not named here works all the same and is described by its categories.
SCOPES = {
    "architecture": (
        "System design: styles, decomposition, resilience, deployment, migration",
        "microservices, event-driven, CQRS, saga, DDD", "arch design patterns system",
    ),
    "database": (
        "Engines, modelling, indexes, transactions, replication, migrations",
        "PostgreSQL, MongoDB, sharding, replication", "db sql databases postgres storage",
    ),
    "security": (
        "Authentication, authorisation, secrets, OWASP risks, supply chain",
        "OAuth, JWT, encryption, RBAC, rate-limiting", "auth sec authentication appsec",
    ),
    "scaling": (
        "Capacity, load balancing, autoscaling, overload, tail latency",
        "horizontal, vertical, caching, CDN, load-balancing", "scale performance scalability perf",
    ),
    "api": (
        "Resources, errors, pagination, versioning, webhooks, contracts",
        "REST, GraphQL, gRPC, versioning, pagination", "apis rest graphql grpc http",
    ),
    "messaging": (
        "Brokers, delivery, ordering, retries, outbox, event design",
        "Kafka, RabbitMQ, pub-sub, event-sourcing", "queue queues kafka events streaming mq",
    ),
    "caching": (
        "Placement, expiry, invalidation, HTTP and CDN caches, Redis, Valkey",
        "Redis, Memcached, CDN, cache-invalidation", "cache redis cdn caches",
    ),
    "monitoring": (
        "Metrics, logs, traces, objectives, alerting, health checks",
        "logging, tracing, metrics, alerting, APM", "observability o11y logging alerting apm",
    ),
    "node": (
        "Node.js: Express, Fastify, NestJS, async patterns",
        "Express, Fastify, NestJS, event loop", "nodejs node.js typescript javascript js ts",
    ),
    "python": (
        "Python: FastAPI, Django, async, type hints, Celery",
        "FastAPI, Django, asyncio, type hints", "py fastapi django",
    ),
    "go": ("Go: net/http, Gin, Echo, concurrency, channels", "Gin, Echo, goroutines, channels", "golang"),
    "java": (
        "Java: Spring Boot, microservices, JPA, virtual threads",
        "Spring Boot, JPA, virtual threads", "spring jvm kotlin springboot",
    ),
    "rust": ("Rust: Tokio, Axum, Actix, SQLx, memory safety", "Tokio, Actix, Axum, memory safety", "rs"),
    "dotnet": (
        ".NET: ASP.NET Core, Entity Framework, hosting",
        "ASP.NET Core, Entity Framework, async", ".net csharp c# net aspnet asp.net cs",
    ),
}  # fmt: skip
FENCES = {"node": "typescript", "dotnet": "csharp"}  # where the stack's name is not the language's

# ---------------------------------------------------------------- data types


class Row:
    """A row of knowledge."""

    def __init__(self, ref: str, fields: dict[str, str]) -> None:
        self.ref, self.fields = ref, fields


class Hit:
    """A row that holds something of the question.

    Coverage is the share of the question that it holds, strength its score as a share of the best possible.
    """

    def __init__(self, number: int, score: float, coverage: float, strength: float) -> None:
        self.number, self.score, self.coverage, self.strength = number, score, coverage, strength


class Answer:
    """What is worth saying about a question."""

    def __init__(self, hits: list[Hit], also: list[tuple[str, str]], total: int) -> None:
        self.hits, self.also, self.total = hits, also, total
        self.weak = False  # no hit fits well
        self.corrections: dict[str, str] = {}  # what was typed, and what was searched for instead
        self.unknown: dict[str, list[str]] = {}  # words that no row holds, and words like them
        self.elsewhere: list[str] = []  # scopes that would have matched


class Described:
    """A domain or a stack, for people."""

    def __init__(self, kind: str, name: str, rows: int, about: str, examples: str) -> None:
        self.kind, self.name, self.rows, self.about, self.examples = kind, name, rows, about, examples


class Record:
    """A CSV record: its cells, its first byte and its bytes in the file, its first line."""

    def __init__(self, cells: list[str], start: int, size: int, line: int) -> None:
        self.cells, self.start, self.size, self.line = cells, start, size, line


class Table:
    """One CSV as it was read."""

    def __init__(self, columns: list[str], records: list[Record], size: int, crc: str) -> None:
        self.columns, self.records, self.size, self.checksum = columns, records, size, crc


class Scope:
    """One CSV as the index describes it, with the numbers of its rows in the order of all rows."""

    def __init__(self, path: str, size: int, crc: str, rows: range, columns: list[str]) -> None:
        self.name, self.path, self.size, self.checksum = scope_name(path), path, size, crc
        self.rows, self.columns = rows, columns


class Concept:
    """One thing that the question asks for: the terms typed, and other term lists that mean the same."""

    def __init__(self, terms: list[str], alternatives: list[list[str]]) -> None:
        self.terms, self.alternatives = terms, alternatives


class Problem:
    """What is wrong with one cell of one CSV; row 1 is the header."""

    def __init__(self, path: str, row: int, column: str, message: str) -> None:
        self.path, self.row, self.column, self.message = path, row, column, message

    def __str__(self) -> str:
        return f"{self.path} row {self.row}, {self.column}: {self.message}"


class UsageError(Exception):
    """The command line asks for something that cannot be: exit status 2."""


class DataError(Exception):
    """The CSV files or the index cannot be used: exit status 3."""


class DamagedIndex(Exception):
    """The index file is not one that this program wrote, or not all of it."""


# ---------------------------------------------------------------- tokenising

# Names that punctuation would tear apart, in the order in which they are replaced. What follows
# one must not be a letter or digit: `.js` is part of Node.js, not of package.json.
SYMBOLS = (
    ("c#", "csharp"), ("f#", "fsharp"), ("c++", "cpp"), (".net", " dotnet"), (".js", "js"), ("n+1", "nplus1"),
    ("pub/sub", "pubsub"), ("i/o", "io"), ("ci/cd", "cicd"), ("http/1", "http1"), ("http/2", "http2"),
    ("http/3", "http3"),
)  # fmt: skip

STEM_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "abli": "able", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
}  # fmt: skip
STEM_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
BRITISH = ("ise", "ises", "ised", "iser", "isers", "ising", "isation", "isations")
STEM_4 = (
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize",
    "ion", "al", "er", "ic", "ou",
)  # fmt: skip


def shape(word: str) -> str:
    """The word's consonants and vowels as a string of c and v: `tree` is `ccvv`, `syzygy` is `cvcvcv`."""
    letters = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and letters[-1:] == "c")
        letters += "v" if vowel else "c"
    return letters


def measure(word: str) -> int:
    """How many times a vowel run is followed by a consonant run (Porter's m)."""
    return shape(word).count("vc")


def ends_cvc(word: str) -> bool:
    """Whether the word ends consonant, vowel, consonant, the last not w, x or y (Porter's *o)."""
    return shape(word)[-3:] == "cvc" and word[-1] not in "wxy"


def replace_suffix(word: str, table: dict[str, str]) -> str:
    """The word with its longest suffix found in the table replaced, if a measure above 0 is left before it."""
    for size in range(min(7, len(word) - 1), 1, -1):
        if word[-size:] in table:
            left = word[:-size]
            return left + table[word[-size:]] if measure(left) > 0 else word
    return word


def stem(word: str) -> str:
    """The word without its endings, so that plurals and verb forms meet.

    Porter's algorithm (1980, doi:10.1108/eb046814) after British -ise is spelt -ize.

    >>> [stem(w) for w in "retries retried sharding authorisation authorization p99 go".split()]
    ['retri', 'retri', 'shard', 'author', 'author', 'p99', 'go']
    """
    if len(word) < 4 or not word.isalpha() or not word.isascii():
        return word
    for ending in BRITISH:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            word = word[: -len(ending)] + "iz" + ending[2:]
            break
    # Step 1: plurals, -ed, -ing, final y.
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        word = word[:-1] if measure(word[:-3]) > 0 else word
    else:
        left = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
        if "v" in shape(left):
            word = left
            if word.endswith(("at", "bl", "iz")) or (measure(word) == 1 and ends_cvc(word)):
                word += "e"
            elif word[-2:-1] == word[-1] and word[-1] not in "aeioulsz":
                word = word[:-1]
    if word.endswith("y") and "v" in shape(word[:-1]):
        word = word[:-1] + "i"
    # Steps 2 and 3: long suffixes become short ones. Step 4: short suffixes go.
    word = replace_suffix(replace_suffix(word, STEM_2), STEM_3)
    for suffix in STEM_4:
        if word.endswith(suffix):
            left = word[: -len(suffix)]
            if measure(left) > 1 and (suffix != "ion" or left[-1] in "st"):
                word = left
            break
    # Step 5: final e and double l.
    if word.endswith("e"):
        left = word[:-1]
        if measure(left) > 1 or (measure(left) == 1 and not ends_cvc(left)):
            word = left
    if word.endswith("ll") and measure(word) > 1:
        word = word[:-1]
    return word


def words(text: str) -> list[str]:
    """The text's words: lower case, without accents, names with symbols kept whole.

    >>> words("C# and Node.js: pub/sub, gRPC, OAuth2, p99, event-driven, TLS 1.3, N+1")
    ['csharp', 'and', 'nodejs', 'pubsub', 'grpc', 'oauth2', 'p99', 'event', 'driven', 'tls', '1.3', 'nplus1']
    """
    if not text.isascii():
        import unicodedata  # half a millisecond that few questions need

        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    text = text.lower().replace("'", "").replace("\u2019", "")
    for symbol, name in SYMBOLS:
        if symbol in text:
            first, *rest = text.split(symbol)
            text = first + "".join((symbol if part[:1].isalnum() else name) + part for part in rest)
    found: list[str] = []
    for chunk in "".join(c if c.isalnum() or c == "." else " " for c in text).split():
        glued = False
        for part in chunk.split("."):
            if glued and part[:1].isdigit():
                found[-1] += "." + part
            elif part:
                found.append(part)
            glued = bool(part)
    return found


STEMS: dict[str, str] = {}  # stems once computed: the rows repeat their words


def tokenize(text: str) -> list[str]:
    """The text's terms, the same for rows and questions: words without stopwords, stemmed.

    >>> tokenize("How do I retry idempotent calls in Go?")
    ['retri', 'idempot', 'call', 'go']
    """
    terms = []
    for word in words(text):
        if word not in STOPWORDS:
            if word not in STEMS:
                STEMS[word] = stem(word)
            terms.append(STEMS[word])
    return terms


# ---------------------------------------------------------------- loading the CSV files


def scope_name(path: str) -> str:
    """`stacks/go.csv` is the scope `go`."""
    return os.path.basename(path)[:-4]


def csv_files(data: str) -> list[str]:
    """Paths of all CSV files below the data folder, relative and sorted; DataError when there are none."""
    found: list[str] = []
    scopes: dict[str, str] = {}
    for folder in ("domains", "stacks"):
        try:
            names = os.listdir(os.path.join(data, folder))
        except OSError:
            continue
        found += [folder + "/" + name for name in sorted(names) if name.endswith(".csv")]
    if not found:
        raise DataError(
            f"no knowledge base in {printable(data)!r}: expected CSV files in its folders domains/ or stacks/; "
            "check --data, or reinstall"
        )
    for path in found:
        if scopes.setdefault(scope_name(path), path) != path:
            raise DataError(f"{scopes[scope_name(path)]} and {path} have the same name: rename one")
    if os.path.exists(os.path.join(data, "synonyms.csv")):
        found.append("synonyms.csv")
    return found


def read_table(data: str, path: str) -> Table:
    """One CSV: its columns, and its records with the bytes that each takes.

    Raises DataError naming the file and the line for anything that is not CSV in UTF-8 with
    LF, and for the first of the file's table_problems.
    """
    table = read_csv(data, path)
    for problem in table_problems(path, table):
        raise DataError(str(problem))
    return table


def read_csv(data: str, path: str) -> Table:
    """As read_table, but whatever the header and the rows hold."""
    try:
        with open(os.path.join(data, path), "rb") as file:
            raw = file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): restore it or mend its permissions")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise DataError(f"{path} starts with a byte order mark: save it as UTF-8 without BOM")
    if b"\r" in raw:
        line = raw[: raw.index(b"\r")].count(b"\n") + 1
        raise DataError(f"{path} line {line} has a carriage return: save the file with LF line ends")
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}): save it as UTF-8")
    lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
    reader = csv_reader(lines, strict=True)
    records, start, line = [], 0, 0
    try:
        for cells in reader:
            size = sum(len(text.encode("utf-8")) for text in lines[line : reader.line_num])
            if cells:
                records.append(Record(cells, start, size, line + 1))
            start, line = start + size, reader.line_num
    except CsvError as error:
        raise DataError(
            f"{path} line {line + 1}: the row that starts here is not CSV ({error}): "
            "look for a quote that is not closed or not doubled"
        )
    columns = records.pop(0).cells if records else []
    return Table(columns, records, len(raw), checksum(raw))


def table_problems(path: str, table: Table) -> Iterator[Problem]:
    """Yield a Problem for each fault that makes a table unusable: its header, its width, its keys."""
    columns, required = table.columns, ("Term", "Means") if path == "synonyms.csv" else ("ID", "Name")
    problem = header_problem(path, columns, required)
    if problem:
        yield Problem(path, 1, "header", problem)
        return
    if not table.records:
        yield Problem(path, 1, "header", "no row follows it: add one or delete the file")
    seen: dict[str, int] = {}
    for number, record in enumerate(table.records, 2):
        if len(record.cells) != len(columns):
            counts = f"{len(record.cells)} cells, expected {len(columns)} as in the header"
            message = f"line {record.line} has {counts}: look for a missing quote or comma"
            yield Problem(path, number, "all", message)
            continue
        for column in required:
            if not record.cells[columns.index(column)].strip():
                yield Problem(path, number, column, "is empty: give every row one")
        key = record.cells[columns.index(required[0])]
        if key != printable(key):
            yield Problem(
                path, number, required[0], f"{printable(key)!r} has blanks or control characters around or in it"
            )
        if key in seen:
            yield Problem(path, number, required[0], f"{printable(key)!r} stands in row {seen[key]} too: rename one")
        seen[key] = number


DOMAIN_COLUMNS = (
    "ID,Name,Category,Keywords,Problem,Solution,Use When,Avoid When,Trade-offs,Pitfalls,Example,Related,Source,Verified"
).split(",")
STACK_COLUMNS = (
    "ID,Name,Category,Keywords,Problem,Do,Don't,Good Code,Bad Code,Severity,Applies To,Related,Source,Verified"
).split(",")


def header_problem(path: str, columns: list[str], required: tuple[str, ...]) -> str:
    """What is wrong with a header, or an empty string.

    A header within three columns of the standard one is a slip, not a layout of one's own.
    """
    if len(set(columns)) != len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        return f"column {printable(twice)!r} stands there twice: keep one"
    odd = [column for column in columns if "|" in column or column != printable(column)]
    if odd:
        return f"column {printable(odd[0])!r} has a bar, a control character or blanks around it: take it away"
    expected = STACK_COLUMNS if path.startswith("stacks/") else DOMAIN_COLUMNS
    missing = [column for column in expected if column not in columns]
    extra = [column for column in columns if column not in expected]
    if path != "synonyms.csv" and 0 < max(len(missing), len(extra)) <= 3:
        parts = ["lacks " + ", ".join(missing)] if missing else []
        parts += ["has the unknown " + printable(", ".join(extra))] if extra else []
        return f"{' and '.join(parts)}: expected {','.join(expected)}"
    lacking = [column for column in required if column not in columns]
    return f"lacks {' and '.join(lacking)}: expected at least {','.join(required)}" if lacking else ""


# ---------------------------------------------------------------- the index: format and building
#
# data/index.tsv holds, for every term, the BM25 weight of each row (eager scoring, as in
# bm25s: Lù 2024, arXiv:2407.03618). It is text:
#
#   backend-index VERSION <tab> bytes of all that follows <tab> its CRC
#   settings <tab> fingerprint of the tokeniser and the constants
#   file <tab> path <tab> bytes <tab> CRC <tab> first row <tab> rows <tab> columns, joined by |
#   ... an empty line, and then the body, sorted by its first field so that bisection finds a line:
#   !000042 <tab> reference, first byte, bytes and name of row 42
#   =k8s    <tab> what means the same as this sequence of terms, joined by |
#   shard   <tab> row numbers <tab> their weights in thousandths, as BM25 gives them, but at least 1
#           <tab> rows that hold the term in columns of no weight only
#   ~11     <tab> words of 11 letters, the commonest first, for spelling

VERSION = "backend-index 2"


def fingerprint() -> str:
    """A checksum of all that decides what terms and weights an index holds."""
    settings = (
        SYMBOLS, BRITISH, STEM_2, STEM_3, STEM_4, sorted(STOPWORDS), COLUMN_WEIGHTS, UNSEARCHED, PAIR_COLUMNS,
        K1, B, EPSILON,
    )  # fmt: skip
    sample = "Sharding authorisations, retried caches; p99 of 1.3 agreed controlling hopefulness"
    return checksum(repr((settings, tokenize(sample))).encode("utf-8"))


def checksum(raw: bytes) -> str:
    """The bytes' CRC-32 in eight hexadecimal digits."""
    return f"{crc32(raw):08x}"


def pairs(terms: list[str]) -> list[str]:
    """Neighbouring terms, joined: evidence for a phrase.

    >>> pairs(["dead", "letter", "queue"])
    ['dead letter', 'letter queue']
    """
    return [f"{one} {other}" for one, other in zip(terms, terms[1:])]


def row_words(columns: list[str], cells: list[str]) -> set[str]:
    """All words of a row that can be searched for."""
    return set(words("\n".join(cell for column, cell in zip(columns, cells) if column not in UNSEARCHED)))


def row_tokens(columns: list[str], cells: list[str]) -> list[str]:
    """A row's terms for BM25, each repeated as its column's weight says, and the pairs of its telling columns."""
    tokens = []
    for column, cell in zip(columns, cells):
        if column not in UNSEARCHED:
            tokens += tokenize(cell) * COLUMN_WEIGHTS.get(column, 1)
        if column in PAIR_COLUMNS:
            for phrase in cell.split("; "):
                tokens += pairs(tokenize(phrase))
    return tokens


def build_index(data: str) -> bytes:
    """The index of a data folder, as bytes; DataError when a CSV is broken, ImportError without rank-bm25."""
    tables = {path: read_table(data, path) for path in csv_files(data)}
    synonyms = tables.pop("synonyms.csv", None)
    files: list[tuple[str, Table, int]] = []
    rows: list[str] = []
    documents: list[list[str]] = []
    rows_of: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    for path in sorted(tables, key=scope_name):
        table = tables[path]
        files.append((path, table, len(rows)))
        key, name = table.columns.index("ID"), table.columns.index("Name")
        for record in sorted(table.records, key=lambda record: record.cells[key]):
            title = " ".join(record.cells[name].split())
            rows.append(f"{scope_name(path)}/{record.cells[key]}\t{record.start}\t{record.size}\t{title}")
            documents.append(row_tokens(table.columns, record.cells))
            found = row_words(table.columns, record.cells)
            for term in {*documents[-1], *tokenize(" ".join(found))}:
                rows_of.setdefault(term, []).append(len(rows) - 1)
            for word in found:
                counts[word] = counts.get(word, 0) + 1
    body = {f"!{number:06}": row for number, row in enumerate(rows)}
    body.update((f"~{size:02}", " ".join(listed)) for size, listed in vocabulary(counts).items())
    body.update(posting_lines(documents, rows_of))
    if synonyms:
        files.append(("synonyms.csv", Table([], [], synonyms.size, synonyms.checksum), len(rows)))
        body.update(("=" + term, "|".join(sorted(same))) for term, same in synonym_pairs(synonyms).items())
    return assemble(files, body)


def vocabulary(counts: dict[str, int]) -> dict[int, list[str]]:
    """{length: words, the commonest first} from how many rows hold each word: what a misspelt word may have meant."""
    by_length: dict[int, list[str]] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        if word.isalpha() and word not in STOPWORDS:
            by_length.setdefault(len(word), []).append(word)
    return by_length


def posting_lines(documents: list[list[str]], rows_of: dict[str, list[int]]) -> Iterator[tuple[str, str]]:
    """Yield (term, posting line) with the weights that rank-bm25 computes for the rows' token lists."""
    from rank_bm25 import BM25Okapi  # brings NumPy, so only a rebuild pays for it

    if not any(documents):
        return
    model = BM25Okapi(documents, k1=K1, b=B, epsilon=EPSILON)
    for term, rows in rows_of.items():
        heavy = [row for row in rows if term in model.doc_freqs[row]]
        scores = model.get_batch_scores([term], heavy) if heavy else []
        weights = [max(round(float(score) * 1000), MIN_WEIGHT) for score in scores]
        light = [row for row in rows if term not in model.doc_freqs[row]]
        yield term, "\t".join(" ".join(map(str, numbers)) for numbers in (heavy, weights, light))


def synonym_pairs(table: Table) -> dict[str, set[str]]:
    """{terms joined by blanks: {terms that mean the same}}, in both directions."""
    same: dict[str, set[str]] = {}
    for record in table.records:
        pair = [record.cells[table.columns.index(column)] for column in ("Term", "Means")]
        term, means = (" ".join(map(stem, words(cell))) for cell in pair)
        if term and means and term != means:
            same.setdefault(term, set()).add(means)
            same.setdefault(means, set()).add(term)
    return same


def assemble(files: list[tuple[str, Table, int]], body: dict[str, str]) -> bytes:
    """The index file's bytes, from its files (path, table, first row) and its body {key: rest of the line}."""
    head = f"settings\t{fingerprint()}\n"
    for path, table, first in files:
        fields = (path, table.size, table.checksum, first, len(table.records), "|".join(table.columns))
        head += "\t".join(["file", *map(str, fields)]) + "\n"
    lines = "".join(f"{key}\t{body[key]}\n" for key in sorted(body, key=str.encode))
    rest = (head + "\n" + lines).encode("utf-8")
    return (f"{VERSION}\t{len(rest)}\t{checksum(rest)}\n").encode("ascii") + rest


# ---------------------------------------------------------------- the index: reading


class Index:
    """An index in memory or mapped from its file, which finds its lines by bisection."""

    def __init__(self, raw: bytes | mmap.mmap) -> None:
        """Take the whole index as bytes or as an mmap; raise DamagedIndex when its header does not fit."""
        self.raw = raw
        head_start, head_end = raw.find(b"\n") + 1, raw.find(b"\n\n") + 1
        try:
            version, size, self.checksum = raw[: head_start - 1].decode("ascii").split("\t")
            whole = len(raw) == head_start + int(size)
        except ValueError:
            raise DamagedIndex("its first line is not one of ours")
        if version != VERSION:
            raise DamagedIndex(f"it has the format {printable(version[:40])!r}, not {VERSION!r}")
        if not whole:
            raise DamagedIndex("it is not whole")
        self.head, self.start = head_start, head_end + 1
        settings, *files = (line.split("\t") for line in raw[head_start:head_end].decode("utf-8").splitlines())
        self.settings = settings[1]
        self.files = [
            Scope(path, int(size), crc, range(int(first), int(first) + int(count)), columns.split("|"))
            for _, path, size, crc, first, count, columns in files
        ]
        self.scopes = [scope for scope in self.files if scope.rows]
        self.count = sum(len(scope.rows) for scope in self.scopes)
        self.lines: dict[str, list[str] | None] = {}

    def find(self, key: str) -> list[str] | None:
        """The fields of the body line with that key, or None. Lines once found are remembered."""
        if key not in self.lines:
            self.lines[key] = self.bisect(key)
        return self.lines[key]

    def bisect(self, key: str) -> list[str] | None:
        """As find, in the file itself."""
        target, raw = key.encode("utf-8", "replace"), self.raw
        low, high = self.start, len(raw)
        while low < high:
            start = raw.rfind(b"\n", low, (low + high) // 2) + 1 or low
            found = raw[start : raw.find(b"\t", start)]
            if found == target:
                return raw[start : raw.find(b"\n", start)].decode("utf-8").split("\t")[1:]
            if found < target:
                low = raw.find(b"\n", start) + 1
            else:
                high = start
        return None

    def postings(self, term: str) -> dict[int, int]:
        """{row: BM25 weight in thousandths} of the rows that hold a term."""
        line = self.find(term)
        return dict(zip(map(int, line[0].split()), map(int, line[1].split()))) if line else {}

    def light(self, term: str) -> list[int]:
        """The rows that hold a term in columns of no weight only."""
        line = self.find(term)
        return list(map(int, line[2].split())) if line else []

    def knows(self, term: str) -> bool:
        """Whether any row holds the term."""
        return self.find(term) is not None

    def rarity(self, terms: list[str]) -> float:
        """The terms' summed inverse document frequency, never negative (as in Lucene: the 1 in the logarithm)."""
        total = 0.0
        for term in terms:
            line = self.find(term)
            holders = line[0].count(" ") + 1 if line and line[0] else 0
            total += math.log(1 + (self.count - holders + 0.5) / (holders + 0.5))
        return total

    def row(self, number: int) -> tuple[str, int, int, str]:
        """(reference, first byte, bytes, name) of a row by its number."""
        fields = self.find(f"!{number:06}")
        assert fields, f"every row has a line, but {number} has none"
        ref, start, size, name = fields
        return ref, int(start), int(size), name

    def numbers(self) -> dict[str, int]:
        """{reference: number} of all rows."""
        return {self.row(number)[0]: number for number in range(self.count)}

    def scope_of(self, number: int) -> Scope:
        """The scope that a row number belongs to."""
        return next(scope for scope in self.scopes if number in scope.rows)

    def scores(self, tokens: list[str]) -> dict[str, float]:
        """{reference: BM25 score} of every row that holds one of the tokens, repeated tokens counting each time."""
        totals: dict[int, float] = {}
        for token in tokens:
            add(totals, self.postings(token))
        return {self.row(row)[0]: score / 1000 for row, score in totals.items()}


def add(totals: dict[int, float], values: Mapping[int, float]) -> None:
    """Add values to totals, row by row."""
    if not totals:
        totals.update(values)
        return
    for row, value in values.items():
        totals[row] = totals.get(row, 0.0) + value


def describe(data: str) -> list[Described]:
    """What is in a data folder: a Described for each domain and each stack, in the order of their names.

    DataError when the index does not fit the data and cannot be rebuilt.
    """
    found = []
    for scope in open_index(data).scopes:
        about, examples, _ = SCOPES.get(scope.name, ("", "", ""))
        if not about and "Category" in scope.columns:
            place = scope.columns.index("Category")
            seen = dict.fromkeys(record.cells[place] for record in read_table(data, scope.path).records)
            about = ", ".join(list(seen)[:8])
        found.append(Described(scope.path.split("/")[0][:-1], scope.name, len(scope.rows), about, examples))
    return found


def open_index(data: str) -> Index:
    """The index of a data folder, sure to describe its CSV files as they are now.

    A stale or damaged index is rebuilt and replaced, or kept in memory where the folder
    cannot be written. DataError when it cannot be rebuilt.
    """
    path = os.path.join(data, INDEX_NAME)
    paths = csv_files(data)
    try:
        with open(path, "rb") as file:
            index = Index(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        stamp = state_stamp(data, paths)
        if os.stat(path).st_mtime_ns % 10**9 == stamp and index.settings == fingerprint():
            return index
        reason = stale_reason(data, paths, index)
    except (OSError, ValueError):  # mmap refuses an empty file with ValueError
        reason = f"{INDEX_NAME} is missing or cannot be read"
    except DamagedIndex as error:
        reason = f"{INDEX_NAME} is damaged: {error}"
    if reason:
        return rebuild(data, reason)
    stamp_index(path, stamp)
    return index


def state_stamp(data: str, paths: list[str]) -> int:
    """A number below 10**9 that changes when a CSV is written, replaced or copied, from what the file system says.

    It is kept in the nanoseconds of the index's own modification time, so that an unchanged
    knowledge base is recognised without reading it: st_ctime cannot be set by a program, and
    writing to the index loses the stamp. Where times are coarser the stamp never fits and the
    checksums are compared each time.
    """
    states = []
    for path in paths:
        status = os.stat(os.path.join(data, path))
        states.append((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return crc32(repr(states).encode("utf-8")) % 10**9


def stamp_index(path: str, stamp: int) -> None:
    """Note in the index's modification time that it fits the CSV files; where that is not allowed, do nothing."""
    try:
        now = os.stat(path).st_mtime_ns
        os.utime(path, ns=(now, now - now % 10**9 + stamp))
    except OSError:
        pass


def stale_reason(data: str, paths: list[str], index: Index) -> str:
    """Why the index does not fit the CSV files, by their checksums and its own; an empty string when it does."""
    if index.settings != fingerprint():
        return "the tokeniser has changed"
    if checksum(index.raw[index.head :]) != index.checksum:
        return f"{INDEX_NAME} is damaged"
    indexed = {file.path: file for file in index.files}
    for path in sorted(set(indexed) ^ set(paths)):
        return path + (" is new" if path in paths else " is gone")
    for path in paths:
        with open(os.path.join(data, path), "rb") as file:
            if checksum(file.read()) != indexed[path].checksum:
                return path + " has changed"
    return ""


def rebuild(data: str, reason: str) -> Index:
    """A fresh index of the data folder, written where possible; DataError naming the reason without rank-bm25."""
    try:
        raw = build_index(data)
    except ImportError:
        from shlex import quote  # only for this message

        command = MEND % quote(os.path.abspath(__file__)) + ("" if data == DATA else " --data " + quote(data))
        raise DataError(
            f"the index does not fit the data: {reason}.\n"
            f"It is rebuilt with rank-bm25, which is not installed for this Python. Type:\n  {command}"
        )
    write_index(data, raw)
    return Index(raw)


def write_index(data: str, raw: bytes) -> bool:
    """Replace the index in one step, so that nothing half written is ever seen; returns whether that was possible."""
    path = os.path.join(data, INDEX_NAME)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
        os.replace(temporary, path)
        return True
    except OSError:  # a read-only folder, or on Windows an index in use
        try:
            os.unlink(temporary)
        except OSError:
            pass
        return False


# ---------------------------------------------------------------- understanding the question


def understand(index: Index, query: str) -> tuple[list[Concept], dict[str, str], list[str]]:
    """What a question asks for, as far as the index knows its words.

    Returns (concepts, corrections {typed: used}, unknown words). Phrases and abbreviations
    get their synonyms, words torn apart or run together are mended, misspelt ones corrected.
    UsageError when no searchable word is left.
    """
    typed = words(query)
    concepts, corrections, unknown = [], {}, []
    place = 0
    while place < len(typed):
        size, alternatives = synonyms_at(index, typed, place)
        terms = [stem(word) for word in typed[place : place + size] if word not in STOPWORDS]
        if size == 1 and terms and not alternatives and not index.knows(terms[0]):
            word = typed[place]
            used = correct(index, word)
            if used:
                corrections[word] = used
                terms = tokenize(used)
            else:
                unknown.append(word)
        if terms or alternatives:
            concepts.append(Concept(terms, alternatives))
        place += size
    if not concepts:
        raise UsageError(
            f"nothing to search for in {printable(query)!r}: "
            "expected a few keywords, such as 'order saved but event never published'"
        )
    return concepts, corrections, unknown


def synonyms_at(index: Index, typed: list[str], place: int) -> tuple[int, list[list[str]]]:
    """The longest phrase of up to four words at a place that has synonyms: (its length, the synonyms' terms).

    Two words that the rows write as one (`time out`) count as synonyms of it.
    """
    for size in (4, 3, 2, 1):
        phrase = typed[place : place + size]
        line = index.find("=" + " ".join(map(stem, phrase))) if len(phrase) == size else None
        if line:
            same = [[term for term in terms.split() if term not in STOPWORDS] for terms in line[0].split("|")]
            return size, [terms for terms in same if terms]
        if size == 2 and len(phrase) == 2 and len("".join(phrase)) > 4 and index.knows(stem("".join(phrase))):
            return 2, [[stem("".join(phrase))]]
    return 1, []


def correct(index: Index, word: str) -> str:
    """The words of the vocabulary that an unknown word most likely stands for, or an empty string."""
    if len(word) < 4 or not word.isalpha():
        return ""
    allowed = 1 if len(word) < 8 else 2
    near = nearest(index, word, allowed)
    if near and near[0][0] == 1:
        return near[0][2]
    for cut in range(3, len(word) - 2):  # two words run together, such as `ratelimit`
        if index.knows(stem(word[:cut])) and index.knows(stem(word[cut:])):
            return word[:cut] + " " + word[cut:]
    return near[0][2] if near else ""


def nearest(index: Index, word: str, allowed: int) -> list[tuple[int, int, str]]:
    """The words of the vocabulary within so many edits: (edits, rank, word), the nearest and commonest first."""
    # In a short word another letter makes another word: only a letter more, less or out of place is a slip.
    strange = 2 * allowed if len(word) > SHORT_WORD else 1
    found = []
    for size in range(len(word) - allowed, len(word) + allowed + 1):
        line = index.find(f"~{size:02}")
        for rank, known in enumerate(line[0].split() if line else ()):
            if known[0] == word[0] and len(set(known) ^ set(word)) <= strange:
                distance = edits(word, known, allowed)
                if distance <= allowed:
                    found.append((distance, rank, known))
    return sorted(found)


def edits(one: str, other: str, allowed: int) -> int:
    """How many insertions, deletions, substitutions and swaps of neighbours make one word the other.

    Optimal string alignment (Damerau 1964, doi:10.1145/363958.363994); gives up above `allowed`.

    >>> edits("cahce", "cache", 2), edits("idempotancy", "idempotency", 2)
    (1, 1)
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        current = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, current[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        if min(current) > allowed:
            return allowed + 1
        before, last = last, current
    return last[-1]


# ---------------------------------------------------------------- ranking


class Ranking:
    """How well rows fit a question.

    A row's score is the sum of its terms' BM25 weights times a power of its coverage: the share
    of the question, terms weighted by rarity, that the row holds. So a row with all of three
    words beats one that holds one of them three times.
    """

    def __init__(self, sums: dict[int, float], shares: dict[int, float], whole: float) -> None:
        """Take {row: summed weights in thousandths}, {row: rarity held}, and the rarity of the whole question."""
        self.sums, self.shares, self.whole = sums, shares, whole
        self.scores = {row: total * (shares.get(row, 0.0) / whole) ** COVERAGE_POWER for row, total in sums.items()}

    def hit(self, row: int) -> Hit:
        """What is worth saying of one row; BM25's limit for terms repeated without end is rarity times K1 + 1."""
        strength = self.sums[row] / 1000 / (self.whole * (K1 + 1))
        return Hit(row, self.scores[row] / 1000, self.shares.get(row, 0.0) / self.whole, strength)

    def best(self, rows: Iterable[int], limit: int) -> list[int]:
        """The best of the rows, those of equal score by number, which is by reference.

        A cut at the last score that counts leaves little to sort.
        """
        scores = {row: self.scores[row] for row in rows}
        cut = sorted(scores.values(), reverse=True)[:limit]
        return sorted((row for row in scores if scores[row] >= cut[-1]), key=lambda row: (-scores[row], row))[:limit]


def rank(index: Index, concepts: list[Concept]) -> Ranking:
    """The Ranking of every row that holds a term of the question."""
    sums: dict[int, float] = {}
    shares: dict[int, float] = {}
    whole = 0.0
    for concept in concepts:
        value = index.rarity(concept.terms or concept.alternatives[0])
        whole += value
        typed: dict[int, float] = {}
        held: dict[int, float] = {}
        for term in concept.terms:
            postings = index.postings(term)
            add(typed, postings)
            add(held, dict.fromkeys(postings, index.rarity([term])))
            for row in index.light(term):
                typed.setdefault(row, 0.0)
        known = bool(held)
        for terms in concept.alternatives:
            # A rare synonym of a common word means something as common as the word: it counts for no more.
            factor = SYNONYM_FACTOR * min(1.0, value / index.rarity(terms)) if known else 1.0
            for row, weight in whole_phrase(index, terms).items():
                if factor * weight > typed.get(row, 0.0):
                    typed[row] = factor * weight
                    held[row] = max(SYNONYM_FACTOR * value, held.get(row, 0.0))
        add(sums, typed)
        add(shares, held)
    for pair in pairs([term for concept in concepts for term in concept.terms]):
        add(sums, {row: PAIR_FACTOR * weight for row, weight in index.postings(pair).items()})
    return Ranking(sums, shares, whole)


def whole_phrase(index: Index, terms: list[str]) -> dict[int, int]:
    """{row: summed weight} of the rows that hold every one of the terms."""
    found = index.postings(terms[0])
    for term in terms[1:]:
        postings = index.postings(term)
        found = {row: found[row] + weight for row, weight in postings.items() if row in found}
    return found


def answer(index: Index, query: str, scopes: Sequence[str] = (), limit: int = DEFAULT_HITS) -> Answer:
    """The best rows for a question, within the scopes named or everywhere, with all that is worth saying of them."""
    concepts, corrections, unknown = understand(index, query)
    ranking = rank(index, concepts)
    if scopes:
        wanted = {row for each in index.scopes if each.name in scopes for row in each.rows}
        inside, outside = ranking.scores.keys() & wanted, ranking.scores.keys() - wanted
        hits, also = ranking.best(inside, limit), ranking.best(outside, ALSO_HITS)
    else:
        for each in index.scopes:
            if each.path.startswith("stacks/"):
                for row in ranking.scores.keys() & each.rows:
                    ranking.scores[row] *= STACK_FACTOR
        inside, outside = set(ranking.scores), set()
        found = ranking.best(inside, limit + ALSO_HITS)
        hits, also = found[:limit], found[limit:]
    result = Answer(
        list(map(ranking.hit, hits)), [(ref, name) for ref, _, _, name in map(index.row, also)], len(inside)
    )
    words_asked = max(len(concepts), WEAK_WORDS)
    result.weak = all(
        hit.coverage < WEAK_COVERAGE and hit.strength * words_asked < WEAK_EVIDENCE for hit in result.hits
    )
    result.corrections = corrections
    result.unknown = {word: [near[2] for near in nearest(index, word, 2)[:3]] for word in unknown}
    if not hits:
        result.elsewhere = sorted({index.scope_of(row).name for row in outside})
    return result


# ---------------------------------------------------------------- rendering


def printable(text: str) -> str:
    """The text on one line without control characters or lone surrogates, so that a terminal obeys none of it."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def read_row(data: str, index: Index, ref: str) -> Row:
    """The Row behind a reference; UsageError with the nearest references when there is none."""
    numbers = index.numbers()
    if ref not in numbers:
        tail = ref.rpartition("/")[2]
        near = [known for known in numbers if known.rpartition("/")[2] == tail]
        near = near or sorted(numbers, key=lambda known: (edits(known, ref, 99), known))[:3]
        raise UsageError(f"no row {printable(ref)!r}: expected a reference such as {', '.join(near)}")
    return load_row(data, index, numbers[ref])


def load_row(data: str, index: Index, number: int) -> Row:
    """The Row with that number, read from its place in its CSV."""
    ref, start, size, _ = index.row(number)
    scope = index.scope_of(number)
    with open(os.path.join(data, scope.path), "rb") as file:
        file.seek(start)
        text = file.read(size).decode("utf-8")
    cells = next(csv_reader(io.StringIO(text, newline="")))
    return Row(ref, dict(zip(scope.columns, cells)))


def fenced(code: str, language: str) -> str:
    """Code as a Markdown block whose fence is longer than any run of backticks inside it."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code}\n{fence}"


def render_row(row: Row, hidden: Sequence[str] = ()) -> str:
    """A row as Markdown: name, reference, then its fields in column order without the empty and the hidden ones."""
    scope = row.ref.partition("/")[0]
    parts = ["## " + " ".join(row.fields["Name"].split()), f"`{row.ref}`"]
    for column, cell in row.fields.items():
        if not cell.strip() or column in ("ID", "Name") or column in hidden:
            continue
        if column.endswith(" Code"):
            cell = fenced(cell, FENCES.get(scope, scope))
        gap = "\n\n" if cell.startswith("```") else " "
        parts.append(f"**{column}:**{gap}{cell}")
    return "\n\n".join(parts)


def render_brief(row: Row) -> str:
    """A row in one line: name, reference and the first sentence of its first long field."""
    text = next((row.fields[column] for column in ("Problem", "Solution") if row.fields.get(column)), "")
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".") + "."
    return f"- **{' '.join(row.fields['Name'].split())}** `{row.ref}` {sentence}"


def render_answer(query: str, scope: list[str], found: Answer, rows: list[Row], brief: bool) -> str:
    """The whole answer as Markdown: heading with scope and counts, remarks, the rows, what else is relevant."""
    where = "in " + ", ".join(scope) if scope else "in all domains and stacks"
    parts = [f'# {len(rows)} of {found.total} rows {where} for "{printable(query)}"']
    parts += render_remarks(found)
    if brief:
        parts.append("\n".join(map(render_brief, rows)))
    else:
        parts += [render_row(row, HIDDEN_COLUMNS) for row in rows]
    if found.also:
        parts.append("Also relevant (--show REF): " + "; ".join(f"`{ref}` {name}" for ref, name in found.also))
    return "\n\n".join(parts)


def render_remarks(found: Answer) -> list[str]:
    """What the reader must know before trusting the rows, as Markdown quotes."""
    remarks = [f"> Searched for *{used}* instead of *{typed}*." for typed, used in found.corrections.items()]
    if found.weak:
        remarks.append(
            "> **Weak match.** No row holds most of this question, so it may not be covered here. "
            "Do not act on these rows without checking that they fit."
        )
    if found.unknown:
        remarks.append(f"> Not known here: {', '.join(map(printable, found.unknown))}.")
    return remarks


def render_nothing(query: str, scope: list[str], found: Answer) -> str:
    """What to do when no row holds a word of the question."""
    lines = [f'Nothing found for "{printable(query)}" {"in " + ", ".join(scope) if scope else "anywhere"}.']
    for word, near in found.unknown.items():
        lines.append(f"{printable(word)} is not known here{'; nearest: ' + ', '.join(near) if near else ''}.")
    if found.elsewhere:
        lines.append(f"It would match in: {', '.join(found.elsewhere)}.")
    lines.append("Try other keywords, leave out --domain and --stack, or see search.py --list.")
    return "\n".join(lines)


def render_json(query: str, scope: list[str], found: Answer, rows: list[Row]) -> str:
    """The whole answer for programs."""
    results = [
        {"ref": row.ref, "score": round(hit.score, 3), "fields": row.fields} for row, hit in zip(rows, found.hits)
    ]
    also = [{"ref": ref, "name": name} for ref, name in found.also]
    return to_json({"query": query, "scope": scope, "corrections": found.corrections, "results": results, "also": also})


def to_json(value: object) -> str:
    """JSON text, in which escapes keep control characters out of the terminal."""
    import json  # only for programs that ask for it

    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


# ---------------------------------------------------------------- checking
#
# A rule takes a row as {column: cell} and yields (column, message). Its docstring is the rule.

PROSE = ("Name", "Problem", "Solution", "Use When", "Avoid When", "Trade-offs", "Pitfalls", "Do", "Don't")
OPTIONAL = ("Example", "Good Code", "Bad Code", "Verified")
HOLLOW = ("\u2014", "leverag", "seamless", "robust", "best-in-class", "best practice", "cutting-edge")
CODE = (r"((?!.*```)[^\n]*(\n(?!.*```)[^\n]*){2,17})?", "3 to 18 lines of bare code, or nothing")
# What a cell must look like as a whole, and how to say so.
FORMATS = {
    "ID": ("[a-z0-9]+(-[a-z0-9]+)*", "a slug such as transactional-outbox"),
    "Keywords": (r"[^;\s][^;]*(; [^;\s][^;]*){5,14}", "6 to 15 terms, a semicolon and a blank between them"),
    "Example": (r"(```[a-z0-9+#-]+\n((?!```).*\n)+```)?", "one fenced block that names its language, or nothing"),
    "Good Code": CODE,
    "Bad Code": CODE,
    "Severity": ("critical|high|medium|low", "critical, high, medium or low"),
    "Related": (
        r"\S+/\S+(; \S+/\S+){1,4}",
        "2 to 5 references such as api/webhooks, a semicolon and a blank between them",
    ),
    "Source": (r"https://\S+\.\S+(; https://\S+\.\S+)*", "https links, a semicolon and a blank between them"),
    "Verified": (r"(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?", "a date such as 2026-11-23, or nothing"),
}


def rule_formats(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A cell has the form that its column asks for."""
    import re  # costs half a bare interpreter start, so no query pays for it

    for column, (pattern, wanted) in FORMATS.items():
        if column in row and not re.fullmatch(pattern, row[column]):
            yield column, f"{row[column][:60]!r} is not {wanted}"


def rule_cells(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every cell but examples, code and Verified is filled, without blanks around it, and prose is one line."""
    for column, cell in row.items():
        if not cell and column not in OPTIONAL:
            yield column, "is empty"
        if cell != cell.strip("\n") or (cell != cell.strip() and not column.endswith("Code")):
            yield column, "has blanks or line ends around it"
        if "\n" in cell and column not in OPTIONAL:
            yield column, "has a line end, expected one paragraph"


def rule_repeats(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """No keyword and no reference stands twice in a row."""
    for column in ("Keywords", "Related"):
        terms = row[column].lower().split("; ")
        if len(set(terms)) < len(terms):
            yield column, "names something twice"


def rule_code(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Good Code and Bad Code come together."""
    if bool(row.get("Good Code")) != bool(row.get("Bad Code")):
        yield "Good Code", "or Bad Code is empty, expected both or neither"


def rule_length(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A row has 110 to 220 words of prose."""
    count = sum(len(row[column].split()) for column in PROSE if column in row)
    if not 110 <= count <= 220:
        yield "all", f"has {count} words of prose, expected 110 to 220"


def rule_wording(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Rows are free of marketing words and em dashes."""
    for column in PROSE:
        for word in HOLLOW:
            if word in row.get(column, "").lower():
                yield column, f"has {word!r}: say what it does instead"


RULES = (rule_formats, rule_cells, rule_repeats, rule_code, rule_length, rule_wording)


def check(data: str) -> list[Problem]:
    """Every Problem of a data folder: files that cannot be read, then rows that break a rule.

    The rules for rows hold for files with the standard columns; other files need only be sound.
    """
    problems, tables = [], {}
    for path in csv_files(data):
        try:
            tables[path] = read_csv(data, path)
        except DataError as error:
            problems.append(Problem(path, 0, "file", str(error)))
            continue
        found = list(table_problems(path, tables[path]))
        problems += found
        if found:
            del tables[path]
    refs = {
        f"{scope_name(path)}/{record.cells[table.columns.index('ID')]}"
        for path, table in tables.items()
        if path != "synonyms.csv"
        for record in table.records
    }
    for path, table in tables.items():
        problems += check_order(path, table)
        if table.columns in (DOMAIN_COLUMNS, STACK_COLUMNS):
            problems += check_rows(path, table, refs)
    return problems


def check_order(path: str, table: Table) -> Iterator[Problem]:
    """Yield a Problem where rows are not sorted by their first column, or not as Python's csv module writes them."""
    keys = [record.cells[0] for record in table.records]
    for number, (before, key) in enumerate(zip(keys, keys[1:]), 3):
        if key < before:
            yield Problem(path, number, table.columns[0], f"{key!r} stands after {before!r}: sort the rows")
    import csv  # only to check

    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([table.columns] + [record.cells for record in table.records])
    if checksum(buffer.getvalue().encode("utf-8")) != table.checksum:
        yield Problem(path, 1, "file", "is not as Python's csv module writes it: quote only where needed, LF line ends")


def check_rows(path: str, table: Table, refs: set[str]) -> Iterator[Problem]:
    """Yield a Problem for each rule that a row breaks, and for each file with too few or too many categories."""
    for number, record in enumerate(table.records, 2):
        row = dict(zip(table.columns, record.cells))
        for rule in RULES:
            for column, message in rule(row):
                yield Problem(path, number, f"{column} of {row['ID']}", message)
        for ref in row["Related"].split("; "):
            if ref not in refs or ref == f"{scope_name(path)}/{row['ID']}":
                yield Problem(path, number, "Related of " + row["ID"], f"{ref!r} is no other row")
    categories = {record.cells[table.columns.index("Category")] for record in table.records}
    if len(categories) > 12:
        yield Problem(path, 1, "Category", f"{len(categories)} categories, expected at most 12")


# ---------------------------------------------------------------- command line

ACTIONS = ("--help", "--show", "--list", "--check", "--reindex")
SWITCHES = ("--brief", "--json")
VALUED = ("--domain", "--stack", "-n", "--data")
SHORT = {"-d": "--domain", "-s": "--stack", "-h": "--help"}


def parse_arguments(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({option: the values given for it}, the words that are not options) of a command line.

    An option's value follows it or its `=`; after `--` everything is a word. UsageError names
    the nearest option for an unknown one.
    """
    options: dict[str, list[str]] = {}
    typed: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            typed += waiting
            break
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        name = SHORT.get(name, name)
        if name in VALUED:
            if not equals and not waiting:
                raise UsageError(f"{name} needs a value; see search.py --help")
            options.setdefault(name, []).append(value if equals else waiting.pop(0))
        elif name in ACTIONS + SWITCHES and not equals:
            options[name] = []
        elif len(word) > 1 and word.startswith("-"):
            near = min(ACTIONS + SWITCHES + VALUED, key=lambda known: edits(known, name[:40], 99))
            raise UsageError(f"no option {printable(word)}: nearest is {near}; see search.py --help")
        else:
            typed.append(word)
    return options, typed


def hit_count(text: str) -> int:
    """The value of -n: a whole number from 1."""
    if not (text.isascii() and text.isdecimal() and int(text[:9]) > 0):
        raise UsageError(f"-n {printable(text)}: expected a whole number from 1, such as -n 3")
    return int(text[:9])


def resolve_scope(index: Index, kind: str, name: str) -> str:
    """The scope that a --domain or --stack name means; UsageError with the nearest names when there is none."""
    known = {scope.name for scope in index.scopes if scope.path.startswith(kind)}
    wanted = name.strip().lower()
    for scope, (*_, others) in SCOPES.items():
        if wanted in others.split() and scope in known and wanted not in known:
            return scope
    starts = [scope for scope in known if len(wanted) > 2 and scope.startswith(wanted)]
    if wanted in known or len(starts) == 1:
        return wanted if wanted in known else starts[0]
    other = next((scope for scope in index.scopes if scope.name == wanted), None)
    if other:
        kind = other.path.split("/")[0][:-1]
        raise UsageError(f"{wanted!r} is a {kind}: type --{kind} {wanted}")
    near = sorted(known, key=lambda scope: (edits(scope, wanted[:40], 99), scope))
    raise UsageError(
        f"no {kind[:-1]} {printable(name)!r}: nearest is {near[0] if near else 'none'}; "
        f"expected one of {', '.join(sorted(known))}"
    )


def run(arguments: list[str]) -> tuple[str, int]:
    """Do what the command line asks for; returns (text for stdout, exit status)."""
    options, typed = parse_arguments(arguments)
    actions = [action for action in ACTIONS if action in options]
    action = actions[0] if actions else "search"
    if len(actions) > 1:
        raise UsageError(f"{' and '.join(actions)} at once: expected one of them")
    if typed and action in ("--list", "--check", "--reindex"):
        raise UsageError(f"{action} takes no keywords: leave out {printable(' '.join(typed))!r}")
    limit = hit_count(options.get("-n", [str(DEFAULT_HITS)])[-1])
    data = options.get("--data", [DATA])[-1]
    if action == "--help":
        return __doc__.strip(), FOUND
    if action == "--check":
        return run_check(data)
    if action == "--reindex":
        return run_reindex(data)
    if action == "search" and not "".join(typed).strip():
        raise UsageError('no question: expected keywords, such as search.py "jwt expiry" --domain security')
    if action == "--show" and not typed:
        raise UsageError("--show: expected a reference, such as search.py --show messaging/transactional-outbox")
    if action == "--list":
        return run_list(data, "--json" in options)
    index = open_index(data)
    if action == "--show":
        return run_show(data, index, typed, "--json" in options)
    scope = [resolve_scope(index, "domains", name) for name in options.get("--domain", [])]
    scope += [resolve_scope(index, "stacks", name) for name in options.get("--stack", [])]
    scope = list(dict.fromkeys(scope))
    query = " ".join(typed)
    found = answer(index, query, scope, limit)
    rows = [load_row(data, index, hit.number) for hit in found.hits]
    if "--json" in options:
        return render_json(query, scope, found, rows), FOUND if rows else NOTHING
    if not rows:
        return render_nothing(query, scope, found), NOTHING
    return render_answer(query, scope, found, rows, "--brief" in options), FOUND


def run_show(data: str, index: Index, refs: list[str], as_json: bool) -> tuple[str, int]:
    """Whole rows by reference."""
    rows = [read_row(data, index, ref) for ref in refs]
    if as_json:
        return to_json({"results": [{"ref": row.ref, "fields": row.fields} for row in rows]}), FOUND
    return "\n\n".join(map(render_row, rows)), FOUND


def run_list(data: str, as_json: bool) -> tuple[str, int]:
    """Domains and stacks with row counts and what each is for."""
    listed = describe(data)
    if as_json:
        return to_json([vars(each) for each in listed]), FOUND
    lines = []
    for kind in ("domain", "stack"):
        lines += ["", kind + "s"] + [
            f"  {each.name:<14} {each.rows:>4} rows  {each.about}" for each in listed if each.kind == kind
        ]
    return "\n".join(lines[1:]), FOUND


def run_check(data: str) -> tuple[str, int]:
    """Validate the CSV files."""
    problems = check(data)
    if problems:
        return "\n".join(map(str, problems)) + f"\n{len(problems)} problems", BROKEN
    return f"no problems in {len(csv_files(data))} files", FOUND


def run_reindex(data: str) -> tuple[str, int]:
    """Rebuild the index and write it, or say why not."""
    index = rebuild(data, "it was to be rebuilt")
    path = os.path.join(data, INDEX_NAME)
    if not write_index(data, bytes(index.raw)):
        raise DataError(f"{printable(path)} cannot be written: mend the folder's permissions")
    return f"{printable(path)}: {index.count} rows, {len(index.raw)} bytes", FOUND


def use_utf8() -> None:
    """Write UTF-8 whatever the console says."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Every error becomes one message on stderr."""
    use_utf8()
    try:
        text, status = run(sys.argv[1:] if arguments is None else arguments)
        print(text, flush=True)
        return status
    except (UsageError, DataError) as error:
        print(f"search.py: {error}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else BROKEN
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except KeyboardInterrupt:
        return 130


def console() -> None:
    """The command that the package installs."""
    sys.exit(main())


if __name__ == "__main__":
    console()

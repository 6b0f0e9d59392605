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
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import mmap
import os
import re
import sys
from collections import namedtuple
from zlib import crc32

# ---------------------------------------------------------------- constants

FOUND, NOTHING, USAGE, BROKEN = 0, 1, 2, 3  # exit statuses
EXIT_HELP = "exit status: 0 found, 1 nothing found, 2 wrong usage, 3 data broken or stale"

DATA = os.path.join(os.path.dirname(os.path.realpath(__file__)), "data")
INDEX_NAME = "index.tsv"
MEND = "python3 -m pip install rank-bm25 && python3 search.py --reindex"

DEFAULT_HITS = 3  # about 1,200 tokens of answer
HIDDEN_COLUMNS = ("Keywords",)  # they are for finding; --show and --json give them too
ALSO_HITS = 5  # references in the "also relevant" line

# BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019). A larger K1 rewards
# repetition longer; a larger B punishes long rows more. EPSILON is BM25Okapi's floor
# for terms found in more than half of the rows.
K1, B, EPSILON = 1.5, 0.75, 0.25
# A column counts as if its words stood there so many times. Zero leaves it out: links
# and dates are not what a question is about. Columns not named here count once.
COLUMN_WEIGHTS = {"ID": 0, "Name": 3, "Keywords": 3, "Related": 0, "Source": 0, "Verified": 0}
SYNONYM_FACTOR = 0.7  # a synonym counts less than the word that was typed
COVERAGE_POWER = 0.5  # how much a row gains by holding more of the question's terms
WEAK_COVERAGE = 0.45  # below this share of the question's weight a hit is called weak
MIN_WEIGHT = 0.001  # a term held by most rows of a small collection still counts as a match

STOPWORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can cannot could
    did do does doesnt doing dont each even every few for from get gets getting had has have having he how i if
    in into is isnt it its just keep keeps let lets me more most my need no not of on one only or other our own
    please same she should so some still such than that the their them then there these they this those through to
    too under until us use used using very was we were what when where which while who why will with without wont
    would you your""".split()
)

# What the shipped files are for, and other names that people type for them. A file that
# is not named here works all the same and is described by its categories.
SCOPES = {
    "architecture": ("styles, decomposition, resilience, deployment, migration", "arch design patterns system"),
    "database": ("engines, modelling, indexes, transactions, replication, migrations", "db sql databases postgres storage"),
    "security": ("authentication, OAuth, authorisation, secrets, OWASP, supply chain", "auth sec authentication appsec"),
    "scaling": ("capacity, load balancing, autoscaling, overload, tail latency", "scale performance scalability perf"),
    "api": ("REST, GraphQL, gRPC, errors, pagination, versioning, webhooks", "apis rest graphql grpc http"),
    "messaging": ("brokers, delivery, ordering, outbox, Kafka, RabbitMQ, SQS", "queue queues kafka events streaming mq"),
    "caching": ("placement, expiry, invalidation, HTTP and CDN, Redis, Valkey", "cache redis cdn caches"),
    "monitoring": ("metrics, logs, traces, SLOs, alerting, health checks", "observability o11y logging alerting apm"),
    "node": ("Node.js: Express, Fastify, NestJS, async patterns", "nodejs node.js typescript javascript js ts"),
    "python": ("Python: FastAPI, Django, asyncio, typing, Celery", "py fastapi django"),
    "go": ("Go: net/http, Gin, Echo, concurrency, channels", "golang"),
    "java": ("Java: Spring Boot, JPA, virtual threads, JVM", "spring jvm kotlin springboot"),
    "rust": ("Rust: Tokio, Axum, Actix, SQLx, memory safety", "rs"),
    "dotnet": (".NET: ASP.NET Core, Entity Framework, hosting", ".net csharp c# net aspnet asp.net cs"),
}
FENCES = {"node": "javascript", "dotnet": "csharp"}  # where the stack's name is not the language's

# ---------------------------------------------------------------- data types

Row = namedtuple("Row", "ref fields")
Hit = namedtuple("Hit", "number score coverage")
Answer = namedtuple("Answer", "hits also corrections unknown total elsewhere weak")
Record = namedtuple("Record", "cells start size line")  # a CSV record, its place in bytes, its first line
Table = namedtuple("Table", "columns records size checksum")
# One CSV as the index describes it: rows `first` to `first + count - 1` of the whole order.
Scope = namedtuple("Scope", "name path size checksum first count columns")


class Problem(namedtuple("Problem", "path row column message")):
    """What is wrong with one cell of one CSV; row 1 is the header."""

    def __str__(self):
        return "%s row %d, %s: %s" % self


class UsageError(Exception):
    """The command line asks for something that cannot be: exit status 2."""


class DataError(Exception):
    """The CSV files or the index cannot be used: exit status 3."""


class DamagedIndex(Exception):
    """The index file is not one that this program wrote, or not all of it."""


# ---------------------------------------------------------------- tokenising

WORD = re.compile(r"[^\W_]+(?:\.\d+)*")
# Names that punctuation would tear apart, in the order in which they are replaced.
SYMBOLS = (
    ("c#", "csharp"), ("f#", "fsharp"), ("c++", "cpp"), (".net", " dotnet"), (".js", "js"), ("n+1", "nplus1"),
    ("pub/sub", "pubsub"), ("i/o", "io"), ("ci/cd", "cicd"), ("http/1", "http1"), ("http/2", "http2"),
    ("http/3", "http3"), ("'", ""), ("\u2019", ""),
)  # fmt: skip

STEM_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "abli": "able", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
}  # fmt: skip
STEM_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
STEM_4 = (
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize",
    "ion", "al", "er", "ic", "ou",
)  # fmt: skip


def shape(word):
    """The word's consonants and vowels as a string of c and v: `tree` is `ccvv`, `syzygy` is `cvcvcv`."""
    letters = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and letters[-1:] == "c")
        letters += "v" if vowel else "c"
    return letters


def measure(word):
    """How many times a vowel run is followed by a consonant run (Porter's m)."""
    return shape(word).count("vc")


def ends_cvc(word):
    """Whether the word ends consonant, vowel, consonant, the last not w, x or y (Porter's *o)."""
    return shape(word)[-3:] == "cvc" and word[-1] not in "wxy"


def replace_suffix(word, table):
    """The word with its longest suffix found in the table replaced, if a measure above 0 is left before it."""
    for size in range(min(7, len(word) - 1), 1, -1):
        if word[-size:] in table:
            left = word[:-size]
            return left + table[word[-size:]] if measure(left) > 0 else word
    return word


def stem(word):
    """The word without its endings, so that plurals and verb forms meet.

    Porter's algorithm (1980, doi:10.1108/eb046814) after British -ise is spelt -ize.

    >>> [stem(w) for w in "retries retried sharding authorisation authorization p99 go".split()]
    ['retri', 'retri', 'shard', 'author', 'author', 'p99', 'go']
    """
    if len(word) < 4 or not word.isalpha() or not word.isascii():
        return word
    word = re.sub(r"(?<=\w\w\w)is(e|es|ed|er|ing|ation)(s?)$", r"iz\1\2", word)
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


def words(text):
    """The text's words: lower case, without accents, names with symbols kept whole.

    >>> words("C# and Node.js: pub/sub, gRPC, OAuth2, p99, event-driven, TLS 1.3, N+1")
    ['csharp', 'and', 'nodejs', 'pubsub', 'grpc', 'oauth2', 'p99', 'event', 'driven', 'tls', '1.3', 'nplus1']
    """
    if not text.isascii():
        import unicodedata  # half a millisecond that few questions need

        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    text = text.lower()
    for symbol, name in SYMBOLS:
        if symbol in text:
            text = text.replace(symbol, name)
    return WORD.findall(text)


def tokenize(text):
    """The text's terms, the same for rows and questions: words without stopwords, stemmed.

    >>> tokenize("How do I retry idempotent calls in Go?")
    ['retri', 'idempot', 'call', 'go']
    """
    return [stem(word) for word in words(text) if word not in STOPWORDS]


# ---------------------------------------------------------------- loading the CSV files


def scope_name(path):
    """`stacks/go.csv` is the scope `go`."""
    return os.path.basename(path)[:-4]


def csv_files(data):
    """Paths of all CSV files below the data folder, relative and sorted; DataError when there are none."""
    found, scopes = [], {}
    for folder in ("domains", "stacks"):
        try:
            names = os.listdir(os.path.join(data, folder))
        except OSError:
            continue
        found += [folder + "/" + name for name in sorted(names) if name.endswith(".csv")]
    if not found:
        raise DataError(
            "no knowledge base in %s: expected CSV files in its folders domains/ or stacks/; "
            "check --data, or reinstall" % printable(data)
        )
    for path in found:
        if scopes.setdefault(scope_name(path), path) != path:
            raise DataError("%s and %s have the same name: rename one" % (scopes[scope_name(path)], path))
    if os.path.exists(os.path.join(data, "synonyms.csv")):
        found.append("synonyms.csv")
    return found


def read_table(data, path):
    """One CSV: its columns, and its records with the bytes that each takes.

    Raises DataError naming the file and the line for anything that is not CSV in UTF-8 with
    LF, and for the first of the file's table_problems.
    """
    table = read_csv(data, path)
    for problem in table_problems(path, table):
        raise DataError(str(problem))
    return table


def read_csv(data, path):
    """As read_table, but whatever the header and the rows hold."""
    try:
        with open(os.path.join(data, path), "rb") as file:
            raw = file.read()
    except OSError as error:
        raise DataError("%s cannot be read (%s): restore it or mend its permissions" % (path, error.strerror))
    if raw.startswith(b"\xef\xbb\xbf"):
        raise DataError("%s starts with a byte order mark: save it as UTF-8 without BOM" % path)
    if b"\r" in raw:
        line = raw[: raw.index(b"\r")].count(b"\n") + 1
        raise DataError("%s line %d has a carriage return: save the file with LF line ends" % (path, line))
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError("%s line %d is not UTF-8 (byte 0x%02x): save it as UTF-8" % (path, line, raw[error.start]))
    lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
    reader = csv.reader(lines, strict=True)
    records, start, line = [], 0, 0
    try:
        for cells in reader:
            size = sum(len(text.encode("utf-8")) for text in lines[line : reader.line_num])
            if cells:
                records.append(Record(cells, start, size, line + 1))
            start, line = start + size, reader.line_num
    except csv.Error as error:
        raise DataError(
            "%s line %d: the row that starts here is not CSV (%s): look for a quote that is not closed or not doubled"
            % (path, line + 1, error)
        )
    columns = records.pop(0).cells if records else []
    return Table(columns, records, len(raw), checksum(raw))


def table_problems(path, table):
    """Yield a Problem for each fault that makes a table unusable: its header, its width, its keys."""
    columns, required = table.columns, ("Term", "Means") if path == "synonyms.csv" else ("ID", "Name")
    problem = header_problem(path, columns, required)
    if problem:
        yield Problem(path, 1, "header", problem)
        return
    if not table.records:
        yield Problem(path, 1, "header", "no row follows it: add one or delete the file")
    seen = {}
    for number, record in enumerate(table.records, 2):
        if len(record.cells) != len(columns):
            message = "line %d has %d cells, expected %d as in the header: look for a missing quote or comma"
            yield Problem(path, number, "all", message % (record.line, len(record.cells), len(columns)))
            continue
        for column in required:
            if not record.cells[columns.index(column)].strip():
                yield Problem(path, number, column, "is empty: give every row one")
        key = record.cells[columns.index(required[0])]
        if key in seen:
            yield Problem(path, number, required[0], "%r stands in row %d too: rename one" % (printable(key), seen[key]))
        seen[key] = number


DOMAIN_COLUMNS = (
    "ID,Name,Category,Keywords,Problem,Solution,Use When,Avoid When,Trade-offs,Pitfalls,Example,Related,Source,Verified"
).split(",")
STACK_COLUMNS = (
    "ID,Name,Category,Keywords,Problem,Do,Don't,Good Code,Bad Code,Severity,Applies To,Related,Source,Verified"
).split(",")


def header_problem(path, columns, required):
    """What is wrong with a header, or an empty string.

    A header within three columns of the standard one is a slip, not a layout of one's own.
    """
    if len(set(columns)) != len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        return "column %r stands there twice: keep one" % printable(twice)
    expected = STACK_COLUMNS if path.startswith("stacks/") else DOMAIN_COLUMNS
    missing = [column for column in expected if column not in columns]
    extra = [column for column in columns if column not in expected]
    if path != "synonyms.csv" and 0 < max(len(missing), len(extra)) <= 3:
        parts = ["lacks " + ", ".join(missing)] if missing else []
        parts += ["has the unknown " + printable(", ".join(extra))] if extra else []
        return "%s: expected %s" % (" and ".join(parts), ",".join(expected))
    lacking = [column for column in required if column not in columns]
    return "lacks %s: expected at least %s" % (" and ".join(lacking), ",".join(required)) if lacking else ""


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
#   shard   <tab> row numbers <tab> their weights in thousandths, as BM25 gives them
#   ~11     <tab> words of 11 letters, the commonest first, for spelling

VERSION = "backend-index 1"


def fingerprint():
    """A checksum of all that decides what terms and weights an index holds."""
    settings = (WORD.pattern, SYMBOLS, STEM_2, STEM_3, STEM_4, sorted(STOPWORDS), COLUMN_WEIGHTS, K1, B, EPSILON)
    sample = "Sharding authorisations, retried caches; p99 of 1.3 agreed controlling hopefulness"
    return checksum(repr((settings, tokenize(sample))).encode("utf-8"))


def checksum(raw):
    """The bytes' CRC-32 in eight hexadecimal digits."""
    return "%08x" % crc32(raw)


def row_tokens(columns, cells):
    """A row's terms for BM25, each repeated as its column's weight says."""
    tokens = []
    for column, cell in zip(columns, cells):
        weight = COLUMN_WEIGHTS.get(column, 1)
        if weight and cell:
            tokens += tokenize(cell) * weight
    return tokens


def build_index(data):
    """The index of a data folder, as bytes; DataError when a CSV is broken, ImportError without rank-bm25."""
    tables = {path: read_table(data, path) for path in csv_files(data)}
    synonyms = tables.pop("synonyms.csv", None)
    files, rows, documents, counts = [], [], [], {}
    for path in sorted(tables, key=scope_name):
        table = tables[path]
        files.append((path, table, len(rows)))
        key, name = table.columns.index("ID"), table.columns.index("Name")
        for record in sorted(table.records, key=lambda record: record.cells[key]):
            title = " ".join(record.cells[name].split())
            rows.append("%s/%s\t%d\t%d\t%s" % (scope_name(path), record.cells[key], record.start, record.size, title))
            documents.append(row_tokens(table.columns, record.cells))
            for word in set(words(" ".join(record.cells))):
                counts[word] = counts.get(word, 0) + 1
    body = {"!%06d" % number: row for number, row in enumerate(rows)}
    body.update(("~%02d" % size, " ".join(listed)) for size, listed in vocabulary(counts).items())
    body.update(posting_lines(documents))
    if synonyms:
        files.append(("synonyms.csv", synonyms._replace(columns=[], records=[]), len(rows)))
        body.update(("=" + term, "|".join(sorted(same))) for term, same in synonym_pairs(synonyms).items())
    return assemble(files, body)


def vocabulary(counts):
    """{length: words, the commonest first} from how many rows hold each word: what a misspelt word may have meant."""
    by_length = {}
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        if word.isalpha() and word not in STOPWORDS:
            by_length.setdefault(len(word), []).append(word)
    return by_length


def posting_lines(documents):
    """Yield (term, posting line) with the weights that rank-bm25 computes for the rows' token lists."""
    from rank_bm25 import BM25Okapi  # brings NumPy, so only a rebuild pays for it

    rows_of = {}
    for row, tokens in enumerate(documents):
        for term in set(tokens):
            rows_of.setdefault(term, []).append(row)
    if not rows_of:
        return
    model = BM25Okapi(documents, k1=K1, b=B, epsilon=EPSILON)
    for term, rows in rows_of.items():
        weights = ("%d" % round(weight * 1000) for weight in model.get_batch_scores([term], rows))
        yield term, "%s\t%s" % (" ".join(map(str, rows)), " ".join(weights))


def synonym_pairs(table):
    """{terms joined by blanks: {terms that mean the same}}, in both directions."""
    same = {}
    for record in table.records:
        pair = [record.cells[table.columns.index(column)] for column in ("Term", "Means")]
        term, means = (" ".join(map(stem, words(cell))) for cell in pair)
        if term and means and term != means:
            same.setdefault(term, set()).add(means)
            same.setdefault(means, set()).add(term)
    return same


def assemble(files, body):
    """The index file's bytes, from its files (path, table, first row) and its body {key: rest of the line}."""
    head = "settings\t%s\n" % fingerprint()
    for path, table, first in files:
        place = (table.size, table.checksum, first, len(table.records), "|".join(table.columns))
        head += "file\t%s\t%d\t%s\t%d\t%d\t%s\n" % (path, *place)
    lines = "".join("%s\t%s\n" % (key, body[key]) for key in sorted(body, key=str.encode))
    rest = (head + "\n" + lines).encode("utf-8")
    return ("%s\t%d\t%s\n" % (VERSION, len(rest), checksum(rest))).encode("ascii") + rest


# ---------------------------------------------------------------- the index: reading


class Index:
    """An index in memory or mapped from its file, which finds its lines by bisection."""

    def __init__(self, raw):
        """Take the whole index as bytes or as an mmap; raise DamagedIndex when its header does not fit."""
        self.raw = raw
        head_start, head_end = raw.find(b"\n") + 1, raw.find(b"\n\n") + 1
        try:
            version, size, self.checksum = raw[: head_start - 1].decode("ascii").split("\t")
            whole = len(raw) == head_start + int(size)
        except ValueError:
            raise DamagedIndex("its first line is not one of ours")
        if version != VERSION:
            raise DamagedIndex("it has the format %r, not %r" % (printable(version[:40]), VERSION))
        if not whole:
            raise DamagedIndex("it is not whole")
        self.head, self.start = head_start, head_end + 1
        settings, *files = (line.split("\t") for line in raw[head_start:head_end].decode("utf-8").splitlines())
        self.settings = settings[1]
        self.files = [
            Scope(scope_name(path), path, int(size), crc, int(first), int(count), columns.split("|"))
            for _, path, size, crc, first, count, columns in files
        ]
        self.scopes = [scope for scope in self.files if scope.count]
        self.count = sum(scope.count for scope in self.scopes)
        self.lines = {}

    def find(self, key):
        """The fields of the body line with that key, or None. Lines once found are remembered."""
        if key not in self.lines:
            self.lines[key] = self.bisect(key)
        return self.lines[key]

    def bisect(self, key):
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

    def postings(self, term):
        """The rows that hold a term and their BM25 weights: two lists of the same length."""
        line = self.find(term) if term[:1] not in "!~=" else None
        if not line:
            return [], []
        return list(map(int, line[0].split())), [max(int(w) / 1000, MIN_WEIGHT) for w in line[1].split()]

    def knows(self, term):
        """Whether any row holds the term."""
        return self.find(term) is not None

    def rarity(self, term):
        """The term's inverse document frequency, never negative (as in Lucene: the 1 in the logarithm)."""
        holders = len(self.postings(term)[0])
        return math.log(1 + (self.count - holders + 0.5) / (holders + 0.5))

    def row(self, number):
        """(reference, first byte, bytes, name) of a row by its number."""
        ref, start, size, name = self.find("!%06d" % number)
        return ref, int(start), int(size), name

    def numbers(self):
        """{reference: number} of all rows."""
        return {self.row(number)[0]: number for number in range(self.count)}

    def scope_of(self, number):
        """The scope that a row number belongs to."""
        return next(scope for scope in self.scopes if scope.first <= number < scope.first + scope.count)

    def scores(self, tokens):
        """{reference: BM25 score} of every row that holds one of the tokens, repeated tokens counting each time."""
        totals = {}
        for token in tokens:
            for row, weight in zip(*self.postings(token)):
                totals[row] = totals.get(row, 0.0) + weight
        return {self.row(row)[0]: score for row, score in totals.items()}


def open_index(data):
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
        reason = "%s is missing or cannot be read" % INDEX_NAME
    except DamagedIndex as error:
        reason = "%s is damaged: %s" % (INDEX_NAME, error)
    if reason:
        return rebuild(data, reason)
    stamp_index(path, stamp)
    return index


def state_stamp(data, paths):
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


def stamp_index(path, stamp):
    """Note in the index's modification time that it fits the CSV files; where that is not allowed, do nothing."""
    try:
        now = os.stat(path).st_mtime_ns
        os.utime(path, ns=(now, now - now % 10**9 + stamp))
    except OSError:
        pass


def stale_reason(data, paths, index):
    """Why the index does not fit the CSV files, by their checksums and its own; an empty string when it does."""
    if index.settings != fingerprint():
        return "the tokeniser has changed"
    if checksum(index.raw[index.head :]) != index.checksum:
        return "%s is damaged" % INDEX_NAME
    indexed = {file.path: file for file in index.files}
    for path in sorted(set(indexed) ^ set(paths)):
        return path + (" is new" if path in paths else " is gone")
    for path in paths:
        with open(os.path.join(data, path), "rb") as file:
            if checksum(file.read()) != indexed[path].checksum:
                return path + " has changed"
    return ""


def rebuild(data, reason):
    """A fresh index of the data folder, written where possible; DataError naming the reason without rank-bm25."""
    try:
        raw = build_index(data)
    except ImportError:
        where = "" if data == DATA else " --data " + printable(data)
        raise DataError(
            "the index does not fit the data: %s.\n"
            "It is rebuilt with rank-bm25, which is not installed for this Python. Type:\n  %s" % (reason, MEND + where)
        )
    write_index(data, raw)
    return Index(raw)


def write_index(data, raw):
    """Replace the index in one step, so that nothing half written is ever seen; returns whether that was possible."""
    path = os.path.join(data, INDEX_NAME)
    temporary = "%s.%d.tmp" % (path, os.getpid())
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


class Concept(namedtuple("Concept", "terms alternatives")):
    """One thing that the question asks for: the terms typed, and other term lists that mean the same."""


def understand(index, query):
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
            "nothing to search for in %r: expected a few keywords, such as %r"
            % (printable(query), "order saved but event never published")
        )
    return concepts, corrections, unknown


def synonyms_at(index, typed, place):
    """The longest phrase of up to four words at a place that has synonyms: (its length, the synonyms' terms).

    Two words that the rows write as one (`time out`) count as synonyms of it.
    """
    for size in (4, 3, 2, 1):
        phrase = typed[place : place + size]
        line = index.find("=" + " ".join(map(stem, phrase))) if len(phrase) == size else None
        if line:
            return size, [[term for term in same.split() if term not in STOPWORDS] for same in line[0].split("|")]
        if size == 2 and len(phrase) == 2 and len("".join(phrase)) > 4 and index.knows(stem("".join(phrase))):
            return 2, [[stem("".join(phrase))]]
    return 1, []


def correct(index, word):
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


def nearest(index, word, allowed):
    """The words of the vocabulary within so many edits: (edits, rank, word), the nearest and commonest first."""
    found = []
    for size in range(len(word) - allowed, len(word) + allowed + 1):
        line = index.find("~%02d" % size)
        for rank, known in enumerate(line[0].split() if line else ()):
            if known[0] == word[0] and len(set(known) ^ set(word)) <= 2 * allowed:
                distance = edits(word, known, allowed)
                if distance <= allowed:
                    found.append((distance, rank, known))
    return sorted(found)


def edits(one, other, allowed):
    """How many insertions, deletions, substitutions and swaps of neighbours make one word the other.

    Optimal string alignment (Damerau 1964, doi:10.1145/363958.363994); gives up above `allowed`.

    >>> edits("cahce", "cache", 2), edits("idempotancy", "idempotency", 2)
    (1, 1)
    """
    before, last = [], list(range(len(other) + 1))
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


def rank(index, concepts):
    """{row: (score, coverage)} for every row that holds a term of the question.

    The score is the sum of the terms' BM25 weights times the coverage: the share of the
    question, terms weighted by rarity, that the row holds. So a row with all of three words
    beats one that holds one of them three times.
    """
    scores, shares, whole = {}, {}, 0.0
    for concept in concepts:
        value = sum(index.rarity(term) for term in concept.terms)
        whole += value
        best = {}
        for term in concept.terms:
            rarity = index.rarity(term)
            for row, weight in zip(*index.postings(term)):
                score, share = best.get(row, (0.0, 0.0))
                best[row] = score + weight, share + rarity
        known = bool(best)
        for terms in concept.alternatives:
            factor = SYNONYM_FACTOR if known else 1.0
            for row, weight in whole_phrase(index, terms).items():
                if factor * weight > best.get(row, (0.0, 0.0))[0]:
                    best[row] = factor * weight, max(factor * value, best.get(row, (0.0, 0.0))[1])
        for row, (score, share) in best.items():
            scores[row] = scores.get(row, 0.0) + score
            shares[row] = shares.get(row, 0.0) + share
    result = {}
    for row, score in scores.items():
        coverage = shares[row] / whole
        result[row] = score * coverage**COVERAGE_POWER, coverage
    return result


def whole_phrase(index, terms):
    """{row: summed weight} of the rows that hold every one of the terms."""
    found = {}
    for place, term in enumerate(terms):
        rows = zip(*index.postings(term))
        found = {row: found.get(row, 0.0) + weight for row, weight in rows if not place or row in found}
    return found


def answer(index, query, scopes=(), limit=DEFAULT_HITS):
    """The best rows for a question, within the scopes named or everywhere, with all that is worth saying of them."""
    concepts, corrections, unknown = understand(index, query)
    ranked = rank(index, concepts)
    order = [row for _, row in sorted((-score, row) for row, (score, _) in ranked.items())]
    inside = [row for row in order if not scopes or index.scope_of(row).name in scopes]
    outside = [row for row in order if scopes and index.scope_of(row).name not in scopes]
    hits = [Hit(row, *ranked[row]) for row in inside[:limit]]
    also = outside if scopes else inside[limit:]
    weak = bool(hits) and max(hit.coverage for hit in hits) < WEAK_COVERAGE
    return Answer(
        hits,
        [(index.row(row)[0], index.row(row)[3]) for row in also[:ALSO_HITS]],
        corrections,
        {word: [near[2] for near in nearest(index, word, 2)[:3]] for word in unknown},
        len(inside),
        sorted({index.scope_of(row).name for row in outside}),
        weak,
    )


# ---------------------------------------------------------------- rendering


def printable(text):
    """The text on one line without control characters or lone surrogates, so that a terminal obeys none of it."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def read_row(data, index, ref):
    """The Row behind a reference; UsageError with the nearest references when there is none."""
    numbers = index.numbers()
    if ref not in numbers:
        tail = ref.rpartition("/")[2]
        near = [known for known in numbers if known.rpartition("/")[2] == tail]
        near = near or sorted(numbers, key=lambda known: (edits(known, ref, 99), known))[:3]
        raise UsageError("no row %r: expected a reference such as %s" % (printable(ref), ", ".join(near)))
    return load_row(data, index, numbers[ref])


def load_row(data, index, number):
    """The Row with that number, read from its place in its CSV."""
    ref, start, size, _ = index.row(number)
    scope = index.scope_of(number)
    with open(os.path.join(data, scope.path), "rb") as file:
        file.seek(start)
        text = file.read(size).decode("utf-8")
    cells = next(csv.reader(io.StringIO(text, newline="")))
    return Row(ref, dict(zip(scope.columns, cells)))


def fenced(code, language):
    """Code as a Markdown block whose fence is longer than any run of backticks inside it."""
    longest = max(map(len, re.findall("`{3,}", code)), default=2)
    return "{0}{1}\n{2}\n{0}".format("`" * (longest + 1), language, code)


def render_row(row, hidden=()):
    """A row as Markdown: name, reference, then its fields in column order without the empty and the hidden ones."""
    scope = row.ref.partition("/")[0]
    parts = ["## " + " ".join(row.fields["Name"].split()), "`%s`" % row.ref]
    for column, cell in row.fields.items():
        if not cell.strip() or column in ("ID", "Name") or column in hidden:
            continue
        if column.endswith(" Code"):
            cell = fenced(cell, FENCES.get(scope, scope))
        gap = "\n\n" if cell.startswith("```") else " "
        parts.append("**%s:**%s%s" % (column, gap, cell))
    return "\n\n".join(parts)


def render_brief(row):
    """A row in one line: name, reference and the first sentence of its first long field."""
    text = next((row.fields[column] for column in ("Problem", "Solution") if row.fields.get(column)), "")
    sentence = re.split(r"(?<=[.!?]) ", " ".join(text.split()), maxsplit=1)[0]
    return "- **%s** `%s` %s" % (" ".join(row.fields["Name"].split()), row.ref, sentence)


def render_answer(query, scope, found, rows, brief):
    """The whole answer as Markdown: heading with scope and counts, remarks, the rows, what else is relevant."""
    where = "in " + ", ".join(scope) if scope else "in all domains and stacks"
    parts = ['# %d of %d rows %s for "%s"' % (len(rows), found.total, where, printable(query))]
    parts += render_remarks(found)
    if brief:
        parts.append("\n".join(map(render_brief, rows)))
    else:
        parts += [render_row(row, HIDDEN_COLUMNS) for row in rows]
    if found.also:
        parts.append("Also relevant (--show REF): " + "; ".join("`%s` %s" % pair for pair in found.also))
    return "\n\n".join(parts)


def render_remarks(found):
    """What the reader must know before trusting the rows, as Markdown quotes."""
    remarks = ["> Searched for *%s* instead of *%s*." % (used, typed) for typed, used in found.corrections.items()]
    if found.weak:
        remarks.append(
            "> **Weak match.** No row holds most of this question, so it may not be covered here. "
            "Do not act on these rows without checking that they fit."
        )
    if found.unknown:
        remarks.append("> Not known here: %s." % ", ".join(map(printable, found.unknown)))
    return remarks


def render_nothing(query, scope, found):
    """What to do when no row holds a word of the question."""
    lines = ['Nothing found for "%s" %s.' % (printable(query), "in " + ", ".join(scope) if scope else "anywhere")]
    for word, near in found.unknown.items():
        lines.append("%s is not known here%s." % (printable(word), "; nearest: " + ", ".join(near) if near else ""))
    if found.elsewhere:
        lines.append("It would match in: %s." % ", ".join(found.elsewhere))
    lines.append("Try other keywords, leave out --domain and --stack, or see search.py --list.")
    return "\n".join(lines)


def about(data, scope):
    """What a scope is for: as described here, or for other files their categories."""
    if scope.name in SCOPES:
        return SCOPES[scope.name][0]
    if "Category" not in scope.columns:
        return "columns " + ", ".join(scope.columns)
    place = scope.columns.index("Category")
    seen = dict.fromkeys(record.cells[place] for record in read_table(data, scope.path).records)
    return ", ".join(list(seen)[:8])


# ---------------------------------------------------------------- checking
#
# A rule takes a row as {column: cell} and yields (column, message). Its docstring is the rule.

PROSE = ("Name", "Problem", "Solution", "Use When", "Avoid When", "Trade-offs", "Pitfalls", "Do", "Don't")
OPTIONAL = ("Example", "Good Code", "Bad Code", "Verified")
SEVERITIES = ("critical", "high", "medium", "low")


def rule_id(row):
    """The ID is a slug: lower-case letters, digits and single hyphens."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["ID"]):
        yield "ID", "%r is not a slug such as transactional-outbox" % row["ID"]


def rule_cells(row):
    """Every cell but examples, code and Verified is filled, without blanks around it, and prose is one line."""
    for column, cell in row.items():
        if not cell and column not in OPTIONAL:
            yield column, "is empty"
        if cell != cell.strip("\n") or (cell != cell.strip() and not column.endswith("Code")):
            yield column, "has blanks or line ends around it"
        if "\n" in cell and column not in OPTIONAL:
            yield column, "has a line end, expected one paragraph"


def rule_keywords(row):
    """Keywords are 6 to 15 different terms, separated by a semicolon and a blank."""
    terms = [term.lower() for term in row["Keywords"].split("; ")]
    if not 6 <= len(terms) <= 15:
        yield "Keywords", "has %d terms, expected 6 to 15" % len(terms)
    if len(set(terms)) < len(terms) or any(not term.strip() or ";" in term for term in terms):
        yield "Keywords", "has an empty or repeated term"


def rule_length(row):
    """A row has 110 to 220 words, apart from code, keywords and references."""
    count = sum(len(row[column].split()) for column in PROSE if column in row)
    if not 110 <= count <= 220:
        yield "all", "has %d words of prose, expected 110 to 220" % count


def rule_related(row):
    """Related names 2 to 5 other rows."""
    refs = row["Related"].split("; ")
    if not 2 <= len(set(refs)) == len(refs) <= 5:
        yield "Related", "has %d different references, expected 2 to 5" % len(set(refs))


def rule_source(row):
    """Source holds one or more https links, separated by a semicolon and a blank."""
    for link in row["Source"].split("; "):
        if not re.fullmatch(r"https://[^\s/]+\.[^\s/]+/?\S*", link):
            yield "Source", "%r is not an https link" % link


def rule_verified(row):
    """Verified is a date (YYYY-MM-DD) or empty."""
    if not re.fullmatch(r"(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?", row["Verified"]):
        yield "Verified", "%r is not a date such as 2026-11-23" % row["Verified"]


def rule_example(row):
    """An Example is one fenced block that names its language."""
    if row.get("Example") and not re.fullmatch(r"```[a-z0-9+#-]+\n(?:(?!```).*\n)+```", row["Example"]):
        yield "Example", "is not one fenced block with a language"


def rule_code(row):
    """Good Code and Bad Code come together, bare, 3 to 18 lines each."""
    for column in ("Good Code", "Bad Code"):
        lines = row.get(column, "").count("\n") + 1
        if column in row and not (row["Good Code"] and row["Bad Code"]):
            if row["Good Code"] or row["Bad Code"]:
                yield column, "one of the two is empty, expected both or neither"
        elif column in row and (not 3 <= lines <= 18 or "```" in row[column]):
            yield column, "has %d lines, expected 3 to 18 without a fence" % lines


def rule_severity(row):
    """Severity is critical, high, medium or low."""
    if "Severity" in row and row["Severity"] not in SEVERITIES:
        yield "Severity", "%r is not one of %s" % (row["Severity"], ", ".join(SEVERITIES))


def rule_wording(row):
    """Rows are free of marketing words and em dashes."""
    for column in PROSE:
        found = re.search(r"\u2014|\b(leverag\w+|seamless\w*|robust|best[- ]in[- ]class)\b", row.get(column, ""), re.I)
        if found:
            yield column, "has %r: say what it does instead" % found.group()


RULES = (
    rule_id, rule_cells, rule_keywords, rule_length, rule_related, rule_source,
    rule_verified, rule_example, rule_code, rule_severity, rule_wording,
)  # fmt: skip


def check(data):
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
        "%s/%s" % (scope_name(path), record.cells[table.columns.index("ID")])
        for path, table in tables.items()
        if path != "synonyms.csv"
        for record in table.records
    }
    for path, table in tables.items():
        problems += check_order(data, path, table)
        if table.columns in (DOMAIN_COLUMNS, STACK_COLUMNS):
            problems += check_rows(path, table, refs)
    return problems


def check_order(data, path, table):
    """Yield a Problem where rows are not sorted by their first column, or not as Python's csv module writes them."""
    keys = [record.cells[0] for record in table.records]
    for number, (before, key) in enumerate(zip(keys, keys[1:]), 3):
        if key < before:
            yield Problem(path, number, table.columns[0], "%r stands after %r: sort the rows" % (key, before))
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([table.columns] + [record.cells for record in table.records])
    if checksum(buffer.getvalue().encode("utf-8")) != table.checksum:
        yield Problem(path, 1, "file", "is not as Python's csv module writes it: quote only where needed, LF line ends")


def check_rows(path, table, refs):
    """Yield a Problem for each rule that a row breaks, and for each file with too few or too many categories."""
    for number, record in enumerate(table.records, 2):
        row = dict(zip(table.columns, record.cells))
        for rule in RULES:
            for column, message in rule(row):
                yield Problem(path, number, "%s of %s" % (column, row["ID"]), message)
        for ref in row["Related"].split("; "):
            if ref not in refs or ref == "%s/%s" % (scope_name(path), row["ID"]):
                yield Problem(path, number, "Related of " + row["ID"], "%r is no other row" % ref)
    categories = {record.cells[table.columns.index("Category")] for record in table.records}
    if len(categories) > 12:
        yield Problem(path, 1, "Category", "%d categories, expected at most 12" % len(categories))


# ---------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    """argparse with our exit status, and with messages that a terminal can show."""

    def error(self, message):
        """Turn argparse's own complaint into a UsageError."""
        raise UsageError(printable(message) + "; see search.py --help")


def hit_count(text):
    """The value of -n: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("-n %s: expected a whole number from 1, such as -n 3" % printable(text))
    return int(text)


def parser():
    """The command line's parser."""
    result = Parser(
        prog="search.py", description=__doc__, epilog=EXIT_HELP, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = result.add_argument
    add("query", nargs="*", metavar="QUERY", help="keywords, or the problem in your own words")
    add("-d", "--domain", action="append", default=[], metavar="D", help="search this domain (repeatable)")
    add("-s", "--stack", action="append", default=[], metavar="S", help="search this stack (repeatable)")
    add("-n", type=hit_count, default=DEFAULT_HITS, metavar="N", help="how many rows (default %d)" % DEFAULT_HITS)
    add("--brief", action="store_true", help="a line for each row")
    add("--json", action="store_true", help="JSON for programs")
    add("--data", default=DATA, metavar="DIR", help="another knowledge base of the same layout")
    add("--show", nargs="+", metavar="REF", help="print whole rows by reference")
    add("--list", action="store_true", help="list domains and stacks")
    add("--check", action="store_true", help="validate the CSV files")
    add("--reindex", action="store_true", help="rebuild the index")
    return result


def resolve_scope(index, kind, name):
    """The scope that a --domain or --stack name means; UsageError with the nearest names when there is none."""
    known = {scope.name for scope in index.scopes if scope.path.startswith(kind)}
    wanted = name.strip().lower()
    for scope, (_, others) in SCOPES.items():
        if wanted in others.split() and scope in known and wanted not in known:
            return scope
    starts = [scope for scope in known if len(wanted) > 2 and scope.startswith(wanted)]
    if wanted in known or len(starts) == 1:
        return wanted if wanted in known else starts[0]
    other = next((scope for scope in index.scopes if scope.name == wanted), None)
    if other:
        raise UsageError("%r is a %s: type --%s %s" % (wanted, *[other.path.split("/")[0][:-1]] * 2, wanted))
    near = sorted(known, key=lambda scope: (edits(scope, wanted[:40], 99), scope))
    raise UsageError(
        "no %s %r: nearest is %s; expected one of %s"
        % (kind[:-1], printable(name), near[0] if near else "none", ", ".join(sorted(known)))
    )


def run(options):
    """Do what the options ask for; returns (text for stdout, exit status)."""
    data, query = options.data, " ".join(options.query)
    actions = [action for action in ("show", "list", "check", "reindex") if getattr(options, action)]
    if len(actions) + bool(options.query) > 1:
        asked = ["--" + action for action in actions] + ["a query"] * bool(options.query)
        raise UsageError("%s at once: expected one of them" % " and ".join(asked))
    if options.check:
        return run_check(data)
    if options.reindex:
        return run_reindex(data)
    index = open_index(data)
    if options.list:
        return run_list(data, index, options.json)
    if options.show:
        rows = [read_row(data, index, ref) for ref in options.show]
        if options.json:
            return to_json({"results": [{"ref": row.ref, "fields": row.fields} for row in rows]}), FOUND
        return "\n\n".join(map(render_row, rows)), FOUND
    if not query.strip():
        raise UsageError('no question: expected keywords, such as search.py "jwt expiry" --domain security')
    scope = [resolve_scope(index, "domains", name) for name in options.domain]
    scope += [resolve_scope(index, "stacks", name) for name in options.stack]
    return run_query(data, index, query, list(dict.fromkeys(scope)), options)


def run_query(data, index, query, scope, options):
    """Search and render."""
    found = answer(index, query, scope, options.n)
    rows = [load_row(data, index, hit.number) for hit in found.hits]
    if options.json:
        results = [
            {"ref": row.ref, "score": round(hit.score, 3), "fields": row.fields} for row, hit in zip(rows, found.hits)
        ]
        also = [{"ref": ref, "name": name} for ref, name in found.also]
        answered = {"query": query, "scope": scope, "corrections": found.corrections, "results": results, "also": also}
        return to_json(answered), FOUND if rows else NOTHING
    if not rows:
        return render_nothing(query, scope, found), NOTHING
    return render_answer(query, scope, found, rows, options.brief), FOUND


def run_list(data, index, as_json):
    """Domains and stacks with row counts and what each is for."""
    listed = [(scope.path.split("/")[0], scope.name, scope.count, about(data, scope)) for scope in index.scopes]
    if as_json:
        keys = ("kind", "name", "rows", "about")
        return to_json([dict(zip(keys, (kind[:-1], *rest))) for kind, *rest in listed]), FOUND
    lines = []
    for kind in ("domains", "stacks"):
        group = [entry[1:] for entry in listed if entry[0] == kind]
        if group:
            lines += ["", kind] + ["  %-14s %4d rows  %s" % entry for entry in group]
    return "\n".join(lines[1:]), FOUND


def run_check(data):
    """Validate the CSV files."""
    problems = check(data)
    if problems:
        return "\n".join(map(str, problems)) + "\n%d problems" % len(problems), BROKEN
    return "no problems in %d files" % len(csv_files(data)), FOUND


def run_reindex(data):
    """Rebuild the index and write it, or say why not."""
    raw = rebuild(data, "it was to be rebuilt").raw
    path = os.path.join(data, INDEX_NAME)
    if not write_index(data, raw):
        raise DataError("%s cannot be written: mend the folder's permissions" % printable(path))
    index = Index(raw)
    return "%s: %d rows, %d bytes" % (printable(path), index.count, len(raw)), FOUND


def to_json(value):
    """JSON text; escapes keep control characters out of the terminal."""
    import json  # only for programs that ask for it

    return json.dumps(value, ensure_ascii=False, indent=2)


def main(arguments=None):
    """Run the command line; returns the exit status. Every error becomes one message on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        text, status = run(parser().parse_args(arguments))
        print(text, flush=True)
        return status
    except (UsageError, DataError) as error:
        print("search.py: %s" % error, file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else BROKEN
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["rank-bm25>=0.2.2,<0.3"]  # only `uv run search.py --reindex` and --check need it
# ///
"""Answer a backend question from curated rows, ranked with BM25. HELP below says how to ask."""

from __future__ import annotations

import io
import math
import mmap
import os
import sys
from _csv import reader as csv_reader  # csv, argparse and getopt import re: half a bare interpreter start
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:  # a query need not wait for what only type checkers read
    from collections.abc import Iterable, Mapping, Sequence
    from types import ModuleType

__version__ = "1.2.0"
HELP = """
Answer a backend question from curated rows, ranked with BM25.

  search.py "order saved but event never published"       best rows of all domains and stacks
  search.py "charged twice on retry" --domain api         one domain; repeat --domain for several
  search.py "http client hangs" --stack go -n 1           one stack, the best row only
  search.py "jwt" --domain security --stack java --brief  a line for each hit
  search.py -q "jwt expiry" -q "kafka rebalance storm"    several questions in one call
  search.py - < trace.txt                                 a log or a stack trace as the question
  search.py "p99 spikes under load" --json                for programs
  search.py --playbook "add a column to a huge table"     a task from end to end
  search.py --show messaging/transactional-outbox         whole rows, playbooks and recipes by reference
  search.py --list                                        what is there, and what each part is for
  search.py --list api change recipe                      the references and names of some
  search.py --check                                       validate the CSV files
  search.py --reindex                                     rebuild the index (needs rank-bm25)

options:
  -d, --domain D   search this domain (repeatable)
  -s, --stack S    search this stack (repeatable)
  -q QUESTION      one of several questions: its best row, and the next in a line each
  --playbook TASK  the playbook for a task: what to ask, steps, way back, checklist
  -n N             how many rows for a question (default 3)
  --brief          a line for each row
  --json           JSON, also for --show and --list
  --data DIR       another knowledge base of the same layout
  --color WHEN     auto, always or never: names set off on a terminal
  --version        version, day of the newest facts, what there is
  -h, --help       this text
  --               what follows is the question, even with a dash in front

exit status: 0 found, 1 nothing found, 2 wrong usage, 3 data broken or stale, 4 answer not written
""".strip()

# ---------------------------------------------------------------- constants

FOUND, NOTHING, USAGE, BROKEN, UNWRITTEN = 0, 1, 2, 3, 4  # exit statuses

HERE = os.path.dirname(os.path.realpath(__file__))
DATA = os.path.join(HERE, "data")
INDEX_NAME = "index.tsv"
# Files of the data folder that are no scopes: words that mean the same, and what each scope is for.
TABLES = ("scopes.csv", "synonyms.csv")
KINDS = ("domain", "stack", "playbook")  # of scopes, which lie in folders of these names in the plural
CHECK = "checks/"  # starts the paths of rules and queries that find a problem in the reader's own code or server
RECIPE = "recipe/"  # starts the references of the folders beside the data that hold code to copy

DEFAULT_HITS = 3  # about 1,200 tokens of answer
HIDDEN_COLUMNS = ("Keywords",)  # they are for finding; --show and --json give them too
ALSO_HITS = 5  # references in the "also relevant" line
SEVERAL_CHARACTERS = 24_000  # for all of several questions: shells of agents cut longer output
# Whatever was pasted, an answer repeats so many characters of the question or of a word, and names so
# many of its words as corrected or unknown; of fewer, where nothing was found, the nearest.
ECHO, ECHO_WORD, LISTED, NEAR_WORDS = 120, 32, 8, 3
PROPOSE = "Should it be answered here? Propose it: CONTRIBUTING.md in the project's repository says how."

# BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019). A larger K1 rewards
# repetition longer; a larger B punishes long rows more. EPSILON is BM25Okapi's floor
# for terms found in more than half of the rows.
K1, B, EPSILON = 1.5, 0.75, 0.25
# A column counts as if its words stood there so many times; columns not named here count once.
# At zero a word still finds its row but adds nothing to its rank: exceptions, alternatives (a Situation names them) and
# code speak of other subjects as often as of their own.
COLUMN_WEIGHTS = {
    "Name": 3, "Keywords": 2, "Avoid When": 0, "Trade-offs": 0, "Example": 0, "Good Code": 0, "Bad Code": 0,
    "Situation": 0, "Steps": 0,
}  # fmt: skip
# No question is about references, links and dates; and what a playbook says beyond its steps is of any task.
UNSEARCHED = (
    "ID", "Related", "Source", "Verified", "Recipes", "Checks", "Ask First", "Arithmetic", "Way Back", "Checklist",
    "Leave Out", "Diagram",
)  # fmt: skip
PAIR_COLUMNS = ("Name", "Keywords")  # their neighbouring words are phrases, and are found as such
PAIR_FACTOR = 0.3  # how much such a pair counts beside its two words
# Asked of everything, what holds in every language comes before what holds in one; one that the
# question names gains as much instead, and others lose it twice.
STACK_FACTOR = 0.85
SYNONYM_FACTOR = 0.7  # a synonym counts less than the word that was typed
COVERAGE_POWER = 0.25  # how much a row gains by holding more of the question's terms
# A row whose name has more than half of its terms in common with the question gains up to so much.
NAME_FACTOR, NAME_ROWS, NAME_LIKENESS = 0.5, 8, 0.5
# A hit is called weak when its row holds less than this share of the question, and gives less
# evidence than so many words do that stand in a name or a keyword; a question counts as at least
# four words, since a single word proves little. A playbook's many words hold much of any task: it must show more.
WEAK_COVERAGE, WEAK_EVIDENCE, WEAK_TASK_EVIDENCE, WEAK_WORDS = 0.7, 1.05, 1.5, 4
# A playbook is named beside an answer when it holds so much of the question, with so much evidence.
FIT_COVERAGE, FIT_EVIDENCE = 0.7, 1.1
FOREIGN_EVIDENCE = 0.25  # how much more it must show when it has a right word that no row holds
MIN_WEIGHT = 1  # in thousandths: BM25 gives a term held by most rows of a small collection less than nothing

# A question of more words than these is a paste: its words count once, its unknown words are neither
# corrected nor counted, and of its known ones the rarest are searched for. So time grows slowly with it.
PASTE_WORDS, PASTE_START, PASTE_END, PASTE_CONCEPTS = 64, 150, 50, 48
PASTE_CHARACTERS = 200_000  # of more, the first three quarters and the last are read
LONG_WORD = 24  # a longer one is a hash or an identifier, which has no endings and no spelling

STOPWORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can cannot could
    did do does doesnt doing dont each even every few for from get gets getting had has have having he how i if
    in into is isnt it its just keep keeps let lets me more most my need no not of on one only or other our own
    please same she should so some still such than that the their them then there these they this those through to
    too under until us use used using very was we were what when where which while who why will with without wont
    would you your""".split()
)

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
        self.playbook: tuple[str, str] | None = None  # reference and name of the one for this kind of task


class Scope:
    """One CSV as the index describes it, with the numbers of its rows in the order of all rows."""

    def __init__(self, path: str, size: int, crc: str, rows: range, texts: list[str]) -> None:
        self.name, self.kind = scope_name(path), path.split("/", maxsplit=1)[0][:-1]
        self.path, self.size, self.checksum, self.rows = path, size, crc, rows
        self.columns = texts[0].split("|")
        self.about, self.examples, self.other_names = texts[1:]


class Concept:
    """One thing that the question asks for: the terms typed, and other term lists that mean the same."""

    def __init__(self, terms: list[str], alternatives: list[list[str]], parts: list[str]) -> None:
        self.terms, self.alternatives, self.parts = terms, alternatives, parts  # parts: of a compound name


class Output:
    """What a run says: text for stdout, the exit status, and a remark for stderr."""

    def __init__(self, text: str, status: int = FOUND, remark: str = "") -> None:
        self.text, self.status, self.remark = text, status, remark
        self.color = "auto"  # or always, or never


class UsageError(Exception):
    """The command line asks for something that cannot be: exit status 2."""


class DataError(Exception):
    """The CSV files or the index cannot be used: exit status 3."""


class DamagedIndex(Exception):
    """The index file is not one that this program wrote, or not all of it, or the CSV files have changed under it."""


# ---------------------------------------------------------------- words

# Names that punctuation would tear apart. Each is one only as a word of its own: neither java.net nor
# example.net is about .NET.
SYMBOLS = {
    "c#": "csharp", "f#": "fsharp", "c++": "cpp", ".net": "dotnet", "asp.net": "asp dotnet", "ado.net": "ado dotnet",
    "vb.net": "vb dotnet", "n+1": "nplus1", "pub/sub": "pubsub", "i/o": "io", "ci/cd": "cicd", "http/1": "http1",
    "http/1.1": "http1.1", "http/2": "http2", "http/3": "http3",
}  # fmt: skip

# Forms that no rule leads to their word, each line a word and its forms.
IRREGULAR = {
    form: word
    for word, *forms in map(
        str.split,
        """alias aliases|analysis analyses|appendix appendices|axis axes|basis bases|bias biases|bus buses
        child children|consensus consensuses|corpus corpora|crisis crises|criterion criteria|diagnosis diagnoses
        focus focuses foci
        index indices|man men|matrix matrices|person people|quantum quanta|radius radii|schema schemata|status statuses
        stimulus stimuli|synthesis syntheses|thesis theses|vertex vertices|virus viruses|woman women
        begin began begun|bind bound|break broke broken|build built|buy bought|catch caught|choose chose chosen
        deal dealt|die dying|draw drew drawn|drive drove driven|fall fell fallen
        forget forgot forgotten|freeze froze frozen|grow grew grown|hang hung|hide hid hidden
        hold held|lend lent|lose lost|pay paid
        rise rose risen|run ran|sell sold|send sent|shake shook shaken|shoot shot
        shrink shrank shrunk|spend spent|stand stood|steal stole stolen|stick stuck
        sweep swept|swing swung|throw threw thrown|understand understood
        wake woke woken|wind wound|write wrote written""".replace("\n", "|").split("|"),
    )
    for form in forms
}
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
    word = IRREGULAR.get(word, word)
    if not 4 <= len(word) <= LONG_WORD or not word.isalpha() or not word.isascii():
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


def parts_of(name: str) -> list[str]:
    """The parts of a compound name, or nothing.

    >>> [parts_of(name) for name in "maxConnIdleTime HTTPClient RFC9457 TLSv1.3".split()]
    [['max', 'Conn', 'Idle', 'Time'], ['HTTP', 'Client'], ['RFC', '9457'], ['TLS', '1.3']]
    >>> [parts_of(name) for name in "PostgreSQL gRPC APIs p99 v1.25 k8s".split()]
    [[], [], [], [], [], []]
    """
    if len(name) > 4 * LONG_WORD or name in SYMBOLS.values():
        return []
    letters = name.rstrip("0123456789.")
    if len(letters) < len(name) and len(letters) > 1 and letters.isalpha():
        number = name[len(letters) :]
        if len(letters) > 2 and letters[-1] in "vV":
            letters = letters[:-1]
        return [*(parts_of(letters) or [letters]), number]
    parts, start = [], 0
    for place in range(1, len(name) if name.isalpha() else 0):
        before, letter, after = name[place - 1], name[place], name[place + 1 : place + 3]
        # A capital after a small letter starts a part, and so does the last of several capitals.
        begins = before.islower() and (after[:1].islower() or name[0].islower())
        if letter.isupper() and (begins or (before.isupper() and len(after) > 1 and after.islower())):
            parts.append(name[start:place])
            start = place
    return [*parts, name[start:]] if parts and len(parts[0]) > 1 else []


def compounds(text: str) -> list[tuple[str, list[str]]]:
    """The text's words in lower case, without accents, each with the parts of a compound name.

    >>> compounds("C#/.NET 8: DeadLetterQueue, redis8, Node.js, TLS 1.3, N + 1")
    ... # doctest: +NORMALIZE_WHITESPACE
    [('csharp', []), ('dotnet', []), ('8', []), ('deadletterqueue', ['dead', 'letter', 'queue']),
     ('redis8', ['redis', '8']), ('nodejs', []), ('tls', []), ('1.3', []), ('nplus1', [])]
    """
    if not text.isascii():
        import unicodedata  # half a millisecond that few questions need

        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        # Latin letters, which end before U+0370, are words of their own beside another script.
        text = text.replace("\u2019", "")
        text = "".join(c + " " * ((c < "\u0370") != (after < "\u0370")) for c, after in zip(text, text[1:] + " "))
    for sign in "+/":
        text = sign.join(map(str.strip, text.split(sign)))
    text = "".join(c if c.isalnum() or c in ".+#/" else " " for c in text.replace("'", ""))
    found: list[tuple[str, list[str]]] = []
    for chunk in text.split():
        found += symbol_words(chunk) or [each for piece in chunk.split("/") for each in dotted_words(piece)]
    return found


def symbol_words(chunk: str) -> list[tuple[str, list[str]]]:
    """The words of a name with symbols, such as C#, .NET 8 or Node.js; nothing for anything else."""
    name = chunk.lower().rstrip("./")
    if name not in SYMBOLS and name.endswith(".js") and name[:-3].isalnum():
        return [(name[:-3] + "js", [])]
    letters = name if name in SYMBOLS else name.rstrip("0123456789.")
    found = [*SYMBOLS.get(letters, "").split(), name[len(letters) :]]
    return [(word, []) for word in found if word] if letters in SYMBOLS else []


def dotted_words(piece: str) -> list[tuple[str, list[str]]]:
    """The words between dots and signs, in which a number after a dot belongs to a version."""
    names = symbol_words(piece)
    if names:
        return names
    found: list[str] = []
    for chunk in piece.replace("+", " ").replace("#", " ").split():
        glued = False
        for part in chunk.split("."):
            if glued and part[:1].isdigit():
                found[-1] += "." + part
            elif part:
                found.append(part)
            glued = bool(part)
    return [(name.lower(), [part.lower() for part in parts_of(name)]) for name in found]


def words(text: str) -> list[str]:
    """The text's words, compound names followed by their parts.

    >>> words("C# and Node.js: gRPC, OAuth2, p99, event-driven, N + 1")
    ['csharp', 'and', 'nodejs', 'grpc', 'oauth2', 'oauth', '2', 'p99', 'event', 'driven', 'nplus1']
    """
    return [word for name, parts in compounds(text) for word in (name, *parts)]


STEMS: dict[str, str] = {}  # stems once computed: the rows repeat their words


def terms_of(typed: Iterable[str]) -> list[str]:
    """The words without stopwords, stemmed."""
    terms = []
    for word in typed:
        if word not in STOPWORDS:
            if word not in STEMS:
                STEMS[word] = stem(word)
            terms.append(STEMS[word])
    return terms


def tokenize(text: str) -> list[str]:
    """The text's terms, the same for rows and questions: words without stopwords, stemmed.

    >>> tokenize("How do I retry idempotent calls in Go?")
    ['retri', 'idempot', 'call', 'go']
    """
    return terms_of(words(text))


def pairs(terms: list[str]) -> list[str]:
    """Neighbouring terms, joined: evidence for a phrase.

    >>> pairs(["dead", "letter", "queue"])
    ['dead letter', 'letter queue']
    """
    return [f"{one} {other}" for one, other in zip(terms, terms[1:])]


# ---------------------------------------------------------------- the index
#
# data/index.tsv holds, for every term, the BM25 weight of each row (eager scoring, as in
# bm25s: Lù 2024, arXiv:2407.03618). maintain/build.py makes it. It is text:
#
#   backend-index VERSION <tab> bytes of all that follows <tab> its CRC
#   settings <tab> fingerprint of the tokeniser and the constants <tab> the newest Verified
#   file <tab> path <tab> bytes <tab> CRC <tab> first row <tab> rows <tab> columns, joined by |
#        <tab> what it is for <tab> words to try <tab> its other names
#   ... an empty line, and then the body, sorted by its first field so that bisection finds a line:
#   !000042 <tab> reference, first byte, bytes and name of row 42
#   =k8s    <tab> what means the same as this sequence of terms, joined by |
#   shard   <tab> row numbers <tab> their weights in thousandths, as BM25 gives them, but at least 1
#           <tab> rows that hold the term in columns of no weight only
#   ~11     <tab> words of 11 letters, the commonest first, for spelling
#   ?ra     <tab> ends of right words that start so, though no row holds them: pid, ...
#
# Line ends of the index and of the CSV files do not matter: sizes, places and checksums are those
# of the text with LF.

INDEX_VERSION = "backend-index 3"


def fingerprint() -> str:
    """A checksum of all that decides what terms and weights an index holds."""
    settings = (
        SYMBOLS, IRREGULAR, BRITISH, STEM_2, STEM_3, STEM_4, sorted(STOPWORDS), COLUMN_WEIGHTS, UNSEARCHED,
        PAIR_COLUMNS, K1, B, EPSILON,
    )  # fmt: skip
    sample = "Sharding authorisations, retried caches; p99 of 1.3 agreed controlling maxConnIdleTime hopefulness"
    return checksum(repr((settings, tokenize(sample))).encode("utf-8"))


def checksum(raw: bytes | mmap.mmap) -> str:
    """The bytes' CRC-32 in eight hexadecimal digits."""
    return f"{crc32(raw):08x}"


def with_lf(raw: bytes) -> bytes:
    """The bytes with LF line ends, whatever git or an editor made of them."""
    return raw.replace(b"\r\n", b"\n")


def scope_name(path: str) -> str:
    """`stacks/go.csv` is the scope `go`."""
    return os.path.basename(path)[:-4]


def csv_files(data: str) -> list[str]:
    """Paths of all CSV files below the data folder, relative and sorted; DataError when there are none.

    Editors, office programs and file managers leave files such as `.#x.csv`, `~$x.csv` and `._x.csv`, which
    are passed over.
    """
    found: list[str] = []
    for folder in (kind + "s" for kind in KINDS):
        try:
            names = os.listdir(os.path.join(data, folder))
        except (OSError, ValueError):  # a name with a zero byte in it is a ValueError
            continue
        found += [folder + "/" + name for name in sorted(names) if name.endswith(".csv") and name[0] not in ".~"]
    if not found:
        raise DataError(
            f"no knowledge base in {printable(data)!r}: expected CSV files in its folders domains/, stacks/ or "
            "playbooks/; check --data, or reinstall"
        )
    return found + [path for path in TABLES if os.path.exists(os.path.join(data, path))]


class Index:
    """An index in memory or mapped from its file, which finds its lines by bisection."""

    def __init__(self, raw: bytes | mmap.mmap) -> None:
        """Take the whole index as bytes or as an mmap; raise DamagedIndex when its header does not fit."""
        if raw[: raw.find(b"\n")].endswith(b"\r"):
            raw = with_lf(raw[:])
        self.raw = raw
        head_start, head_end = raw.find(b"\n") + 1, raw.find(b"\n\n") + 1
        try:
            version, size, self.checksum = raw[: head_start - 1].decode("ascii").split("\t")
            whole = len(raw) == head_start + int(size)
        except ValueError:
            raise DamagedIndex("its first line is not one of ours")
        if version != INDEX_VERSION:
            raise DamagedIndex(f"it has the format {printable(version[:40])!r}, not {INDEX_VERSION!r}")
        if not whole:
            raise DamagedIndex("it is not whole")
        self.head, self.start = head_start, head_end + 1
        self.lines: dict[str, list[str]] = {}
        try:
            settings, *files = (line.split("\t") for line in raw[head_start:head_end].decode("utf-8").splitlines())
            _, self.settings, self.verified = settings
            self.files = [
                Scope(path, int(size), crc, range(int(first), int(first) + int(count)), texts)
                for _, path, size, crc, first, count, *texts in files
            ]
        except ValueError:
            raise DamagedIndex("its header is not one of ours")
        self.scopes = [scope for scope in self.files if scope.rows]
        self.count = sum(len(scope.rows) for scope in self.scopes)
        # Playbooks come last. What is rare is judged by the rows alone.
        self.rows = sum(len(scope.rows) for scope in self.scopes if scope.kind != "playbook")

    def find(self, key: str) -> list[str]:
        """The fields of the body line with that key, or none. Lines once found are remembered."""
        if key not in self.lines:
            self.lines[key] = self.bisect(key)
        return self.lines[key]

    def bisect(self, key: str) -> list[str]:
        """As find, in the file itself."""
        target, raw = key.encode("utf-8", "replace"), self.raw
        low, high = self.start, len(raw)
        while low < high:
            start = raw.rfind(b"\n", low, (low + high) // 2) + 1 or low
            found = raw[start : raw.find(b"\t", start)]
            if found == target:
                return raw[start : raw.find(b"\n", start)].decode("utf-8").split("\t")[1:]
            if found < target:
                low = raw.find(b"\n", start) + 1 or high
            else:
                high = start
        return []

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
        return bool(self.find(term))

    def rarity(self, terms: list[str]) -> float:
        """The terms' summed inverse document frequency, never negative (as in Lucene: the 1 in the logarithm)."""
        total = 0.0
        for term in terms:
            line = self.find(term)
            numbers = line[0].split() if line else []
            holders = len(numbers)
            while holders and int(numbers[holders - 1]) >= self.rows:
                holders -= 1
            total += math.log(1 + (self.rows - holders + 0.5) / (holders + 0.5))
        return total

    def vocabulary(self, size: int) -> list[str]:
        """The rows' words of so many letters, the commonest first."""
        return " ".join(self.find(f"~{size:02}")).split()

    def right(self, word: str) -> bool:
        """Whether a word is known to be spelt right, though no row holds it."""
        return stem(word)[2:] in " ".join(self.find("?" + stem(word)[:2])).split(" ")

    def row(self, number: int) -> tuple[str, int, int, str]:
        """(reference, first byte, bytes, name) of a row by its number."""
        ref, start, size, name = self.find(f"!{number:06}")
        return ref, int(start), int(size), name

    def references(self) -> dict[str, int]:
        """{reference: number} of all rows."""
        return {self.row(number)[0]: number for number in range(self.count)}

    def scope_of(self, number: int) -> Scope:
        """The scope that a row number belongs to."""
        return next(scope for scope in self.scopes if number in scope.rows)


def add(totals: dict[int, float], values: Mapping[int, float]) -> None:
    """Add values to totals, row by row."""
    if not totals:
        totals.update(values)
        return
    for row, value in values.items():
        totals[row] = totals.get(row, 0.0) + value


def open_index(data: str, trusted: bool = True) -> Index:
    """The index of a data folder, sure to describe its CSV files as they are now.

    Untrusted, it is compared with them byte by byte, even where the file system says that nothing changed.

    A stale or damaged index is rebuilt and replaced, or kept in memory where the folder
    cannot be written. DataError when it cannot be rebuilt.
    """
    path = os.path.join(data, INDEX_NAME)
    paths = csv_files(data)
    try:
        with open(path, "rb") as file:
            index = Index(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        stamp = state_stamp(data, paths)
        if trusted and os.stat(path).st_mtime_ns % 10**9 == stamp and index.settings == fingerprint():
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
            if checksum(with_lf(file.read())) != indexed[path].checksum:
                return path + " has changed"
    return ""


def rebuild(data: str, reason: str) -> Index:
    """A fresh index of the data folder, written where possible; DataError naming the reason where that cannot be."""
    if not os.path.isdir(os.path.join(HERE, "maintain")):
        raise DataError(
            f"the index does not fit the data: {reason}.\n"
            "This installed copy only answers. In a clone of the project type:\n"
            f"  python3 search.py --reindex --data {quoted(os.path.abspath(data))}"
        )
    build = maintain("build")
    try:
        raw = build.index_bytes(data)
    except ImportError:
        raise DataError(build.how_to_rebuild(data, reason))
    build.write_index(data, raw)
    return Index(raw)


def quoted(text: str) -> str:
    """The text as one word of a shell's command line."""
    from shlex import quote  # only for messages

    return quote(text)


def maintain(name: str) -> ModuleType:
    """A module of maintain/, which only writers and packagers need; UsageError where this file came without it."""
    if not os.path.isdir(os.path.join(HERE, "maintain")):
        raise UsageError("this installed copy only answers: check and rebuild in a clone of the project, with --data")
    return beside("maintain." + name)


def beside(name: str) -> ModuleType:
    """A module that lies beside this file."""
    from importlib import import_module

    sys.modules.setdefault("search", sys.modules[__name__])  # run as a script, this is __main__
    if HERE not in sys.path:
        sys.path.insert(0, HERE)
    return import_module(name)


# ---------------------------------------------------------------- understanding the question


def understand(index: Index, query: str) -> tuple[list[Concept], dict[str, str], list[str]]:
    """What a question asks for, as far as the index knows its words.

    Returns (concepts, corrections {typed: used}, unknown words). Phrases and abbreviations
    get their synonyms, words torn apart or run together are mended, misspelt ones corrected.
    UsageError when no searchable word is left.
    """
    names = compounds(query)
    paste = len(names) > PASTE_WORDS
    if paste:
        names = list(dict(names).items())
        names = names[:PASTE_START] + names[PASTE_START:][-PASTE_END:]
    whole = {name: terms_of(parts) for name, parts in names if parts and index.knows(stem(name))}
    typed = [word for name, parts in names for word in (parts if parts and name not in whole else [name])]
    concepts: list[Concept] = []
    corrections: dict[str, str] = {}
    unknown: list[str] = []
    place = 0
    while place < len(typed):
        word = typed[place]
        size, alternatives = synonyms_at(index, typed, place)
        terms = terms_of(typed[place : place + size])
        parts = whole.get(word, []) if size == 1 else []
        if size == 1 and terms and not alternatives and not index.knows(terms[0]):
            used = "" if paste or len(unknown) > LISTED else correct(index, word)
            if used:
                corrections[word] = used
                terms = tokenize(used)
            else:
                unknown.append(word)
                terms = [] if paste else terms
        if terms or alternatives:
            concepts.append(Concept(terms, alternatives, parts))
        place += size
    if len(concepts) > PASTE_CONCEPTS:
        rarest = sorted((-index.rarity(each.terms), place) for place, each in enumerate(concepts))[:PASTE_CONCEPTS]
        concepts = [concepts[place] for place in sorted(place for _, place in rarest)]
    if not concepts and not unknown:
        raise UsageError(
            f"nothing to search for in {shortened(query, ECHO)!r}: "
            "expected a few keywords, such as 'order saved but event never published'"
        )
    return concepts, corrections, list(dict.fromkeys(unknown))


def synonyms_at(index: Index, typed: list[str], place: int) -> tuple[int, list[list[str]]]:
    """The longest phrase of up to four words at a place that has synonyms: (its length, the synonyms' terms).

    Two words that the rows write as one (`time out`) count as synonyms of it.
    """
    for size in (4, 3, 2, 1):
        phrase = typed[place : place + size]
        line = index.find("=" + " ".join(map(stem, phrase))) if len(phrase) == size else []
        if line:
            same = [[term for term in terms.split() if term not in STOPWORDS] for terms in line[0].split("|")]
            return size, [terms for terms in same if terms]
        if size == 2 and len(phrase) == 2 and len("".join(phrase)) > 4 and index.knows(stem("".join(phrase))):
            return 2, [[stem("".join(phrase))]]
    return 1, []


def correct(index: Index, word: str) -> str:
    """The words of the vocabulary that an unknown word most likely stands for, or an empty string."""
    if not 4 <= len(word) <= LONG_WORD or not word.isalpha() or index.right(word):
        return ""
    near = nearest(index, word, 1 if len(word) < 8 else 2)
    if near and near[0][0] == 1:
        return near[0][2]
    for cut in range(3, len(word) - 2):  # two words run together, such as `ratelimit`
        if index.knows(stem(word[:cut])) and index.knows(stem(word[cut:])):
            return word[:cut] + " " + word[cut:]
    return near[0][2] if near else ""


def nearest(index: Index, word: str, allowed: int) -> list[tuple[int, int, str]]:
    """The words of the vocabulary within so many edits: (edits, rank, word), the nearest and commonest first."""
    found = []
    for size in range(len(word) - allowed, len(word) + allowed + 1):
        for rank, known in enumerate(index.vocabulary(size)):
            if len(set(known) ^ set(word)) <= 2 * allowed:
                distance = edits(word, known, allowed)
                # Few people get the first letter of a word wrong, and none that and another.
                if distance <= allowed and (known[0] == word[0] or distance == 1):
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
        for terms in [*concept.alternatives, concept.parts] if concept.parts else concept.alternatives:
            # A rare synonym of a common word means something as common as the word: it counts for no more.
            likeness = 1.0 if terms is concept.parts or not known else SYNONYM_FACTOR
            factor = likeness * min(1.0, value / index.rarity(terms)) if known else likeness
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


def prefer_names(index: Index, ranking: Ranking, concepts: list[Concept]) -> None:
    """Raise rows whose name is the question: a whole name beats a mention."""
    asked = {term for concept in concepts for term in concept.terms}
    for row in ranking.best(ranking.scores, NAME_ROWS):
        name = set(tokenize(index.row(row)[3].partition(" (")[0]))
        # Dice's coefficient (1945, doi:10.2307/1932409): 1 where name and question have the same terms.
        likeness = 2 * len(asked & name) / (len(asked) + len(name) or 1)
        if likeness > NAME_LIKENESS:
            ranking.scores[row] *= 1 + NAME_FACTOR * likeness * likeness


def prefer_stacks(index: Index, ranking: Ranking, query: str) -> None:
    """Raise the rows of a stack that the question names, and lower those of others."""
    asked = {name for name, _ in compounds(query[:ECHO])}
    stacks = [each for each in index.scopes if each.kind == "stack"]
    names = [{each.name, *(name for name in each.other_names.split() if len(name) > 3)} for each in stacks]
    named = any(asked & known for known in names)
    for each, known in zip(stacks, names):
        factor = STACK_FACTOR ** (-1 if asked & known else 2 if named else 1)
        for row in ranking.scores.keys() & each.rows:
            ranking.scores[row] *= factor


def fits(playbook: Hit, concepts: int) -> bool:
    """Whether a playbook is for the task that a question of so many concepts asks about."""
    return playbook.coverage >= FIT_COVERAGE and playbook.strength >= FIT_EVIDENCE / max(concepts, WEAK_WORDS)


def answer(index: Index, query: str, scopes: Sequence[str] = (), limit: int = DEFAULT_HITS) -> Answer:
    """The best rows for a question, within the scopes named or everywhere, with all that is worth saying of them."""
    if len(query) > PASTE_CHARACTERS:
        query = query[: PASTE_CHARACTERS * 3 // 4] + " " + query[-PASTE_CHARACTERS // 4 :]
    concepts, corrections, unknown = understand(index, query)
    ranking = rank(index, concepts)
    prefer_names(index, ranking, concepts)
    playbooks = set(range(index.rows, index.count))
    wanted = {row for each in index.scopes if each.name in scopes for row in each.rows}
    if not scopes:
        prefer_stacks(index, ranking, query)
        wanted = set(range(index.rows))
    inside, outside = ranking.scores.keys() & wanted, ranking.scores.keys() - wanted - playbooks
    found = ranking.best(inside, limit + ALSO_HITS)
    hits = found[:limit]
    also = ranking.best(outside, ALSO_HITS) if scopes and not wanted & playbooks else found[limit:]
    result = Answer(
        list(map(ranking.hit, hits)), [(ref, name) for ref, _, _, name in map(index.row, also)], len(inside)
    )
    for row in ranking.best(ranking.scores.keys() & playbooks - wanted, 1):
        if fits(ranking.hit(row), len(concepts)):
            result.playbook = index.row(row)[0], index.row(row)[3]
    foreign = FOREIGN_EVIDENCE if any(map(index.right, unknown)) else 0.0
    evidence = WEAK_TASK_EVIDENCE if wanted & playbooks else WEAK_EVIDENCE
    wanted_strength = (evidence + foreign) / max(len(concepts), WEAK_WORDS)
    result.weak = all(hit.coverage < WEAK_COVERAGE and hit.strength < wanted_strength for hit in result.hits)
    result.corrections = corrections
    result.unknown = {word: [] for word in unknown}
    if not hits:
        result.unknown = {word: [near[2] for near in nearest(index, word, 2)[:3]] for word in unknown[:NEAR_WORDS]}
        result.elsewhere = sorted({index.scope_of(row).name for row in outside})
    return result


# ---------------------------------------------------------------- rendering


def printable(text: str) -> str:
    """The text on one line without control characters or lone surrogates, so that a terminal obeys none of it."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def shortened(text: str, limit: int) -> str:
    """As printable, cut after so many characters."""
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def load_row(data: str, index: Index, number: int) -> Row:
    """The Row with that number, read from its place in its CSV; an error when something else stands there."""
    ref, start, size, _ = index.row(number)
    scope = index.scope_of(number)
    with open(os.path.join(data, scope.path), "rb") as file:
        if os.fstat(file.fileno()).st_size == scope.size:
            file.seek(start)
            raw = file.read(size)
        else:  # other line ends
            raw = with_lf(file.read())[start : start + size]
    cells = next(csv_reader(io.StringIO(raw.decode("utf-8"), newline="")))
    fields = dict(zip(scope.columns, cells))
    if f"{scope.name}/{fields['ID']}" != ref:
        raise ValueError(f"{scope.path} has changed")
    return Row(ref, fields)


def recipe_folder(data: str) -> str:
    """The folder of the recipes that belong to a data folder."""
    return os.path.join(os.path.dirname(os.path.abspath(data)), "recipes")


def recipe_names(data: str) -> list[str]:
    """The references of all recipes."""
    folder = recipe_folder(data)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(RECIPE + name for name in names if os.path.isfile(os.path.join(folder, name, "README.md")))


def recipe_files(folder: str) -> list[str]:
    """The files of a recipe that a reader copies, its notes first: neither tests nor lock files; relative paths."""
    found = []
    for name in sorted(os.listdir(folder), key=lambda name: (name != "README.md", name)):
        start, _, ending = name.rpartition(".")
        if os.path.isdir(os.path.join(folder, name)):
            if not name.startswith((".", "_", "test", "target", "node_modules")):
                found += [f"{name}/{each}" for each in recipe_files(os.path.join(folder, name))]
        elif start and not start.startswith(("test_", "guards")) and not start.endswith("_test"):
            found += [name] * (ending not in ("lock", "sum"))
    return found


def load_recipe(data: str, ref: str) -> Row:
    """A recipe as a Row: its name, its notes, and its files by their paths."""
    folder = os.path.join(recipe_folder(data), ref[len(RECIPE) :])
    texts = {}
    for path in recipe_files(folder):
        with open(os.path.join(folder, path), encoding="utf-8") as file:
            texts[path] = file.read().rstrip("\n")
    title, _, notes = texts.pop("README.md").partition("\n")
    notes = "\n".join(line for line in notes.strip().split("\n") if not line.startswith("<!--"))
    return Row(ref, {"Name": title.lstrip("# "), "Notes": notes.replace("\n## ", "\n### "), **texts})


def count_checks(data: str) -> int:
    """How many rules for code and queries for servers belong to a data folder."""
    top = os.path.join(os.path.dirname(os.path.abspath(data)), CHECK)
    folders = [os.path.join(top, name) for name in os.listdir(top)] if os.path.isdir(top) else []
    names = [name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)]
    return sum(name.endswith((".yml", ".sql", ".awk")) and name != "all.sql" for name in names)


def fenced(code: str, language: str) -> str:
    """Code as a Markdown block whose fence is longer than any run of backticks inside it."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code}\n{fence}"


def render_row(row: Row, hidden: Sequence[str] = ()) -> str:
    """A row as Markdown: name, reference, then its fields in column order without the empty and the hidden ones."""
    scope = row.ref.partition("/")[0]
    if row.ref.startswith(RECIPE):
        name, notes, *files = row.fields.items()
        texts = [f"### {path}\n\n" + fenced(text, path.rpartition(".")[2]) for path, text in files]
        return "\n\n".join(["## " + name[1], f"`{row.ref}`", notes[1], *texts])
    parts = ["## " + one_line(row.fields["Name"]), f"`{row.ref}`"]
    for column, cell in row.fields.items():
        if not cell.strip() or column in ("ID", "Name") or column in hidden:
            continue
        if column.endswith(" Code"):
            cell = fenced(cell, FENCES.get(scope, scope))
        elif column == "Checks":
            cell = check_commands(cell)
        gap = "\n\n" if cell.startswith(("```", "- ", "1. ")) else " "
        parts.append(f"**{column}:**{gap}{cell}")
    return "\n\n".join(parts)


def check_commands(cell: str) -> str:
    """How to run a row's checks: its rules for ast-grep in one command, other files by name."""
    names = cell.split("; ")
    rules = [name[len(CHECK) : -len(".yml")].replace("/", "-") for name in names if name.endswith(".yml")]
    config = os.path.join(HERE, CHECK, "sgconfig.yml")
    here = os.path.join(os.getcwd(), "")
    config = config[len(here) :] if config.startswith(here) else config
    command = f"`ast-grep scan --config {config} --filter '^({'|'.join(rules)})$'`"
    return "; ".join([command] * bool(rules) + [name for name in names if not name.endswith(".yml")])


def one_line(text: str) -> str:
    """The text with single blanks for its line ends and runs of blanks."""
    return " ".join(text.split())


def render_brief(row: Row) -> str:
    """A row in one line: name, reference and the first sentence of its first long field."""
    text = next((row.fields[column] for column in ("Problem", "Solution", "Do") if row.fields.get(column)), "")
    sentence = one_line(text).partition(". ")[0].rstrip(".")
    return f"- **{one_line(row.fields['Name'])}** `{row.ref}`" + (f" {sentence}." if sentence else "")


def render_answer(query: str, scope: list[str], found: Answer, rows: list[Row], brief: bool) -> str:
    """The whole answer as Markdown: heading with scope and counts, remarks, the rows, what else is relevant."""
    parts = render_heading(query, scope, found, len(rows))
    if brief:
        parts.append("\n".join(map(render_brief, rows)))
    else:
        parts += [render_row(row, HIDDEN_COLUMNS) for row in rows]
    if found.also:
        parts.append("Also relevant (--show REF): " + "; ".join(f"`{ref}` {name}" for ref, name in found.also))
    return "\n\n".join([*parts, *render_playbook(found), *[PROPOSE] * found.weak])


def render_playbook(found: Answer) -> list[str]:
    """A line that names the playbook for this kind of task, or nothing."""
    return ["**Playbook** (--show REF): `{}` {}".format(*found.playbook)] if found.playbook else []


def render_heading(query: str, scope: list[str], found: Answer, shown: int) -> list[str]:
    """The heading with scope and counts, and what the reader must know before trusting the rows, as quotes."""
    where = "in " + ", ".join(scope) if scope else "in all domains and stacks"
    parts = [f'# {shown} of {found.total} rows {where} for "{shortened(query, ECHO)}"']
    corrections = list(found.corrections.items())[:LISTED]
    parts += [f"> Searched for *{used}* instead of *{shortened(typed, ECHO_WORD)}*." for typed, used in corrections]
    if found.weak:
        parts.append(
            "> **Weak match.** No row holds most of this question, so it may not be covered here. "
            "Do not act on these rows without checking that they fit."
        )
    if found.unknown:
        more = f" and {len(found.unknown) - LISTED} more words" if len(found.unknown) > LISTED else ""
        parts.append(f"> Not known here: {', '.join(listed(found.unknown))}{more}.")
    return parts


def listed(unknown: Iterable[str]) -> list[str]:
    """The first few unknown words, short."""
    return [shortened(word, ECHO_WORD) for word in list(unknown)[:LISTED]]


def render_one_of_several(
    query: str, scope: list[str], found: Answer, rows: list[Row], printed: set[str], room: int
) -> str:
    """An answer within so many characters: its best row whole, unless it was printed already, the others in a line."""
    parts = render_heading(query, scope, found, len(rows))
    rest = [f"- **{one_line(row.fields['Name'])}** `{row.ref}`" for row in rows[1:]]
    best = render_row(rows[0], HIDDEN_COLUMNS)
    if rows[0].ref in printed:
        best = f"- **{one_line(rows[0].fields['Name'])}** `{rows[0].ref}` (printed above)"
    elif sum(map(len, [*parts, *rest, best])) > room:
        best = render_brief(rows[0]) + f" Whole: --show {rows[0].ref}"
    else:
        printed.add(rows[0].ref)
    task = render_playbook(found) if found.playbook and found.playbook[0] not in printed else []
    printed.update(found.playbook or ())
    return "\n\n".join([*parts, best, *(["\n".join(rest)] if rest else []), *task])


def render_nothing(query: str, scope: list[str], found: Answer) -> str:
    """What to do when no row holds a word of the question."""
    lines = [f'Nothing found for "{shortened(query, ECHO)}" {"in " + ", ".join(scope) if scope else "anywhere"}.']
    for word, near in found.unknown.items():
        nearby = "; nearest: " + ", ".join(near) if near else ""
        lines.append(f"{shortened(word, ECHO_WORD)} is not known here{nearby}.")
    if found.elsewhere:
        lines.append(f"It would match in: {', '.join(found.elsewhere)}.")
    lines.append("Try other keywords, leave out --domain and --stack, or see search.py --list.")
    lines.append(PROPOSE)
    return "\n".join([*lines, *render_playbook(found)])


def answer_object(query: str, scope: list[str], found: Answer, rows: list[Row]) -> dict[str, object]:
    """The whole answer for programs."""
    return {
        "version": __version__,
        "query": query if len(query) <= ECHO else query[: ECHO - 1] + "…",
        "scope": scope,
        "total": found.total,
        "weak": found.weak,
        "corrections": {typed[:ECHO_WORD]: used for typed, used in list(found.corrections.items())[:LISTED]},
        "unknown": listed(found.unknown),
        "results": [
            {"ref": row.ref, "score": round(hit.score, 3), "coverage": round(hit.coverage, 3), "fields": row.fields}
            for row, hit in zip(rows, found.hits)
        ],
        "also": [{"ref": ref, "name": name} for ref, name in found.also],
        "playbook": dict(zip(("ref", "name"), found.playbook)) if found.playbook else None,
    }


def to_json(value: object) -> str:
    """JSON text, in which escapes keep control characters out of the terminal."""
    import json  # only for programs that ask for it

    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


# ---------------------------------------------------------------- command line

ACTIONS = ("--help", "--version", "--show", "--list", "--check", "--reindex")
SWITCHES = ("--brief", "--json")
VALUED = ("--domain", "--stack", "-q", "-n", "--playbook", "--data", "--color")
SHORT = {"-d": "--domain", "-s": "--stack", "-h": "--help"}
# Where the stack's name is not the language's.
FENCES = {"node": "typescript", "dotnet": "csharp"}


def parse_arguments(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({option: the values given for it}, the words that are not options) of a command line.

    An option's value follows it or its `=`, and that of a short option may follow at once; after `--`
    everything is a word. UsageError names the nearest option for an unknown one.
    """
    options: dict[str, list[str]] = {}
    typed: list[str] = []
    waiting = arguments[::-1]
    while waiting:
        word = waiting.pop()
        if word == "--":
            typed += waiting[::-1]
            break
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if len(word) > 2 and word[0] == "-" != word[1] and SHORT.get(word[:2], word[:2]) in VALUED:
            name, equals, value = word[:2], "=", word[2:]
        name = SHORT.get(name, name)
        if name in VALUED:
            if not equals and not waiting:
                raise UsageError(f"{name} needs a value; see search.py --help")
            options.setdefault(name, []).append(value if equals else waiting.pop())
        elif name in ACTIONS + SWITCHES and not equals:
            options[name] = []
        elif len(word) > 1 and word.startswith("-"):
            distance, near = min((edits(name[:40], each, 1), each) for each in ACTIONS + SWITCHES + VALUED)
            hint = f"nearest is {near}" if distance <= 1 < len(name) - 1 else "a question that starts so follows --"
            raise UsageError(f"no option {shortened(word, ECHO_WORD)}: {hint}; see search.py --help")
        else:
            typed.append(word)
    return options, typed


def resolve_scope(index: Index, kind: str, name: str) -> str:
    """The scope that a name means, of a kind or (empty) of any; UsageError with the nearest names for none."""
    known = {scope.name: scope for scope in index.scopes if scope.kind == kind or not kind}
    wanted = name.strip().lower()
    if wanted in known:
        return wanted
    for scope in known.values():
        if wanted in scope.other_names.split():
            return scope.name
    starts = [scope for scope in known if len(wanted) > 2 and scope.startswith(wanted)]
    if len(starts) == 1:
        return starts[0]
    for scope in index.scopes:
        if wanted in (scope.name, *scope.other_names.split()):
            value = "and the task" if scope.kind == "playbook" else scope.name
            raise UsageError(f"{wanted!r} is a {scope.kind}: type --{scope.kind} {value}")
    near = sorted(known, key=lambda scope: (edits(scope, wanted[:40], 99), scope))
    raise UsageError(
        f"no {kind or 'such part:'} {shortened(name, ECHO_WORD)!r}: nearest is {near[0] if near else 'none'}; "
        f"expected one of {', '.join(sorted(known))}"
    )


def read_standard_input() -> str:
    """What is piped in, as a question; bytes that are not UTF-8 are replaced."""
    if sys.stdin is None:
        raise UsageError("-: standard input is closed; expected a question there, such as search.py - < trace.txt")
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def run(arguments: list[str]) -> Output:
    """Do what the command line asks for."""
    options, typed = parse_arguments(arguments)
    color = options.get("--color", ["auto"])[-1]
    if color not in ("auto", "always", "never"):
        raise UsageError(f"--color {shortened(color, ECHO_WORD)}: expected auto, always or never")
    output = carry_out(options, typed)
    output.color = "never" if "--json" in options or "--version" in options else color
    return output


def carry_out(options: dict[str, list[str]], typed: list[str]) -> Output:
    """Do what the options and words ask for."""
    actions = [action for action in ACTIONS if action in options]
    action = actions[0] if actions else "search"
    if len(actions) > 1:
        raise UsageError(f"{' and '.join(actions)} at once: expected one of them")
    if typed and action not in ("search", "--show", "--list"):
        raise UsageError(f"{action} takes no keywords: leave out {shortened(' '.join(typed), ECHO)!r}")
    for limit in options.get("-n", []):
        if not (limit.isascii() and limit.isdecimal() and int(limit[:9]) > 0 and len(limit) < 10):
            raise UsageError(f"-n {shortened(limit, ECHO_WORD)}: expected a whole number from 1, such as -n 3")
    data = options.get("--data", [DATA])[-1]
    if action == "--help":
        return Output(HELP)
    if action == "--check":
        return Output(*maintain("rules").report(data))
    if action == "--reindex":
        return Output(maintain("build").reindex(data))
    if action == "--show" and not typed:
        raise UsageError("--show: expected a reference, such as search.py --show messaging/transactional-outbox")
    questions = typed
    if action == "search":
        questions = [" ".join(typed)] * bool(typed) + options.get("-q", [])
        if "--playbook" in options:
            if questions or "--domain" in options or "--stack" in options:
                raise UsageError('--playbook takes the task alone, such as --playbook "add a column to a huge table"')
            questions = options["--playbook"]
        questions = [read_standard_input() if question == "-" else question for question in questions]
        if not questions or not all(map(str.strip, questions)):
            raise UsageError('no question: expected keywords, such as search.py "jwt expiry" --domain security')
    try:
        return act(action, data, open_index(data), questions, options)
    except (LookupError, ValueError, OSError, StopIteration):
        # Files were changed or damaged while they were read: try once more with what is there now.
        return act(action, data, open_index(data, trusted=False), questions, options)


def act(action: str, data: str, index: Index, typed: list[str], options: dict[str, list[str]]) -> Output:
    """Do what needs an index."""
    as_json = "--json" in options
    if action == "--version":
        return Output(
            f"backend-architecture {__version__}, facts as of {index.verified or 'no day'}, {index.rows} rows, "
            f"{index.count - index.rows} playbooks, {len(recipe_names(data))} recipes"
        )
    if action == "--show":
        return run_show(data, index, typed, as_json)
    scopes = [resolve_scope(index, "domain", name) for name in options.get("--domain", [])]
    scopes += [resolve_scope(index, "stack", name) for name in options.get("--stack", [])]
    scopes = list(dict.fromkeys(scopes))
    if action == "--list":
        others = [name for name in typed if name not in ("recipe", "recipes")]
        scopes += [resolve_scope(index, "", name) for name in others]
        recipes = [load_recipe(data, ref) for ref in recipe_names(data)] if typed and len(others) < len(typed) else []
        if scopes or typed:
            return list_scopes(index, scopes, recipes, as_json)
        return list_all(index, data, as_json)
    if "--playbook" in options:
        scopes = [scope.name for scope in index.scopes if scope.kind == "playbook"]
        if not scopes:
            raise UsageError(f"--playbook: there is none in {printable(data)!r}; ask without it")
    limit = int(options.get("-n", ["1" if "--playbook" in options else str(DEFAULT_HITS)])[-1])
    return run_search(data, index, typed, scopes, limit, "--brief" in options, as_json)


def run_search(
    data: str, index: Index, questions: list[str], scopes: list[str], limit: int, brief: bool, as_json: bool
) -> Output:
    """The answers to the questions."""
    texts, objects, printed, status = [], [], set[str](), NOTHING
    for query in questions:
        found = answer(index, query, scopes, limit)
        rows = [load_row(data, index, hit.number) for hit in found.hits]
        status = FOUND if rows else status
        if as_json:
            objects.append(answer_object(query, scopes, found, rows))
        elif not rows:
            texts.append(render_nothing(query, scopes, found))
        elif brief or len(questions) == 1:
            texts.append(render_answer(query, scopes, found, rows, brief))
        else:
            room = SEVERAL_CHARACTERS // len(questions)
            texts.append(render_one_of_several(query, scopes, found, rows, printed, room))
    return Output(to_json(objects if len(objects) > 1 else objects[0]) if as_json else "\n\n".join(texts), status)


def run_show(data: str, index: Index, refs: list[str], as_json: bool) -> Output:
    """Whole rows, playbooks and recipes by reference, and the nearest references for those that do not exist."""
    numbers, recipes = index.references(), recipe_names(data)
    rows = [
        load_recipe(data, ref) if ref in recipes else load_row(data, index, numbers[ref])
        for ref in refs
        if ref in recipes or ref in numbers
    ]
    missing = [ref for ref in refs if ref not in recipes and ref not in numbers]
    remark = "\n".join(
        f"nothing is called {shortened(ref, ECHO_WORD)!r}: nearest "
        + ", ".join(near_references(ref, recipes if ref.startswith(RECIPE) and recipes else numbers))
        for ref in missing
    )
    text = "\n\n".join(map(render_row, rows))
    if as_json:
        text = to_json({"results": [{"ref": row.ref, "fields": row.fields} for row in rows], "missing": missing})
    return Output(text, NOTHING if missing else FOUND, remark)


def near_references(ref: str, known: Iterable[str]) -> list[str]:
    """The three references that share most words with one that does not exist, or else are spelt most like it."""
    asked = set(tokenize(ref[: 4 * LONG_WORD]))

    def distance(each: str) -> tuple[float, int, str]:
        held = set(tokenize(each))
        return -len(asked & held) / (len(asked | held) or 1), edits(each, ref[: 4 * LONG_WORD], 99), each

    return sorted(known, key=distance)[:3]


def list_scopes(index: Index, scopes: list[str], recipes: list[Row], as_json: bool) -> Output:
    """The references and names of all that is in the scopes, and of the recipes."""
    rows = [index.row(row) for scope in index.scopes if scope.name in scopes for row in scope.rows]
    names = [(ref, name) for ref, _, _, name in rows] + [(row.ref, row.fields["Name"]) for row in recipes]
    if as_json:
        return Output(to_json([{"ref": ref, "name": name} for ref, name in names]))
    return Output("\n".join(f"{ref}  {name}" for ref, name in names))


def list_all(index: Index, data: str, as_json: bool) -> Output:
    """What there is: domains, stacks and playbooks with counts and what each is for; how many recipes and checks."""
    if as_json:
        return Output(to_json([describe(scope) for scope in index.scopes]))
    lines = []
    for kind in KINDS:
        scopes = [scope for scope in index.scopes if scope.kind == kind]
        lines += ["", kind + "s"] * bool(scopes)
        lines += [f"  {scope.name:<14} {len(scope.rows):>4} rows  {scope.about}" for scope in scopes]
    recipes, checks = len(recipe_names(data)), count_checks(data)
    if recipes:
        lines += [
            "",
            "recipes",
            f"  {'recipe':<14} {recipes:>4} folders  code to copy that was run while things failed",
        ]
    if checks:
        lines += [
            "",
            "checks",
            f"  {'checks/':<14} {checks:>4} files  rules and queries that find it in code and servers",
        ]
    return Output("\n".join(lines[1:]))


def describe(scope: Scope) -> dict[str, object]:
    """A domain, a stack or a kind of playbooks, for programs."""
    return {
        "kind": scope.kind, "name": scope.name, "rows": len(scope.rows), "about": scope.about,
        "examples": scope.examples,
    }  # fmt: skip


def use_utf8() -> None:
    """Write UTF-8 whatever the console says."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def say(text: str) -> None:
    """Print a remark on stderr, where there is one."""
    if sys.stderr is not None:
        print(f"search.py: {text}", file=sys.stderr)


def show(output: Output) -> None:
    """Print an answer: with names set off, wrapped and through a pager where a person looks on, else as it is."""
    force, no = os.environ.get("FORCE_COLOR"), os.environ.get("NO_COLOR")
    colors = {"always": True, "never": False}.get(output.color, bool(force) or (not no and sys.stdout.isatty()))
    if not (colors or sys.stdout.isatty()) or not os.path.isfile(os.path.join(HERE, "terminal.py")):
        print(output.text, flush=True)
        return
    beside("terminal").show(output.text, colors)


def write(output: Output) -> int:
    """Print an answer; returns the exit status, which is another one when it could not be written."""
    if output.remark:
        say(output.remark)
    try:
        if sys.stdout is None:
            raise OSError(0, "standard output is closed")
        if output.text:
            show(output)
        return output.status
    except OSError as error:
        if sys.stdout is not None:  # what is still in the buffer must not fail once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough
            return FOUND
        say(f"the answer could not be written ({error.strerror}): expected room on the disk and an open output")
        return UNWRITTEN


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Every error becomes one message on stderr."""
    use_utf8()
    try:
        return write(run(sys.argv[1:] if arguments is None else arguments))
    except (UsageError, DataError) as error:
        say(str(error))
        return USAGE if isinstance(error, UsageError) else BROKEN
    except KeyboardInterrupt:
        return 130


def console() -> None:
    """The command that the package installs."""
    sys.exit(main())


if __name__ == "__main__":
    console()

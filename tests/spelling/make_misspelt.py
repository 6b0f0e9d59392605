"""Make misspelt.csv, the misspelt words on which spelling correction is developed:

    python tests/spelling/make_misspelt.py > tests/spelling/misspelt.csv

Words are drawn from the rows of data/: those of five letters and more that two rows or more hold in a searched column,
letters only, no stopwords. Words of the commonest half weigh three times as much as the others. Each is misspelt in
one of four ways, of which each is drawn equally often: a letter is dropped, a letter is doubled, two neighbours are
swapped, or a letter is wrong, which in half of the cases is a neighbour on a QWERTY keyboard and any other letter
in the other half. The place is any of the word's, the first letter too. Of the words of eight letters and more a fifth
get a second error of one of the four kinds, which `kind` names after a plus sign and which neither mends the first nor
makes one error with it. What comes out is no word that a cell of data/ holds, and has no stem of such a word.

Every line was then read by itself, and REJECTED names those that were left out, and why. When data/ has changed, read
what is new before taking it.

SEED fixes everything. Chance is seeded with each word by itself, so that a changed row changes few lines; only
random(), whose sequence is the same in every version of Python, is used.
"""

from __future__ import annotations

import csv
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import search  # noqa: E402

SEED = 20261128
DRAWN = 420
KINDS = ("dropped", "doubled", "swapped", "wrong")
SHORTEST, FEWEST_ROWS = 5, 2
COMMON_WEIGHT = 3  # of a word of the commonest half, where another has 1
SECOND_ERROR, SECOND_FROM = 0.2, 8  # the share of words of so many letters and more that get a second error

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# The keys that touch a key.
NEIGHBOURS = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg", "y": "tugh", "u": "yihj", "i": "uojk", "o": "ipkl",
    "p": "ol", "a": "qwsz", "s": "adwezx", "d": "sferxc", "f": "dgrtcv", "g": "fhtyvb", "h": "gjyubn", "j": "hkuinm",
    "k": "jliom", "l": "kop", "z": "asx", "x": "zcsd", "c": "xvdf", "v": "cbfg", "b": "vngh", "n": "bmhj", "m": "njk",
}  # fmt: skip

# What was drawn but shows nothing about a corrector, by the reason:
# word: it is itself a right word (none was itself a name)
# ambiguous: another word of the rows, or a form of one, is as near to it as the one that was meant, and as likely
# unclear: a person could not tell which word was meant, though the rows hold no other as near
REJECTED: dict[str, str] = {
    typed: reason
    for reason, listed in {
        "word": "crape defats lats oath pont reflight roes shorer",
        "ambiguous": """apuses cass driector edis eter gress hased liited linkred mafked mant neighbbohr ools padses
            proes qurge raies reaks reat resed rund scriping shhtown slans storng strge tabes ugarded xetting""",
        "unclear": "cded cratbs delieq exils fents noeof resgrats tybes vlippkng wccel",
    }.items()
    for typed in listed.split()
}

Choice = TypeVar("Choice")


def read_rows() -> tuple[Counter[str], set[str]]:
    """(words with how many rows hold them in a searched column, all words of all cells)."""
    counts: Counter[str] = Counter()
    held: set[str] = set()
    for path in search.csv_files(search.DATA):
        with Path(search.DATA, path).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                held.update(search.words("\n".join(row.values())))
                if path not in search.TABLES:
                    cells = (cell for column, cell in row.items() if column not in search.UNSEARCHED)
                    counts.update(set(search.words("\n".join(cells))))
    return counts, held


def eligible(word: str) -> bool:
    """Whether a word may be drawn."""
    return len(word) >= SHORTEST and word.isascii() and word.isalpha() and word not in search.STOPWORDS


def pick(chance: random.Random, choices: Sequence[Choice]) -> Choice:
    """One of the choices, each as likely as the others."""
    return choices[int(chance.random() * len(choices))]


def misspell(word: str, kind: str, chance: random.Random) -> str:
    """The word with one error of a kind.

    >>> [misspell("queue", kind, random.Random(1)) for kind in KINDS]
    ['ueue', 'qqueue', 'uqeue', 'uueue']
    """
    place = int(chance.random() * (len(word) - (kind == "swapped")))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    if kind == "dropped":
        return before + after
    if kind == "doubled":
        return before + letter + letter + after
    if kind == "swapped":
        return before + after[0] + letter + after[1:]
    near = NEIGHBOURS[letter] if chance.random() < 0.5 else LETTERS.replace(letter, "")
    return before + pick(chance, near) + after


def draw(counts: Counter[str], held: set[str]) -> list[tuple[str, str, str]]:
    """(typed, meant, kind) of DRAWN words in the order of what was meant, the same number for each kind.

    Words are taken in the order of a weighted draw without replacement (Efraimidis and Spirakis 2006,
    doi:10.1016/j.ipl.2005.11.003).
    """
    known = held | search.STOPWORDS
    stems = set(map(search.stem, held))
    words = [word for word, rows in counts.items() if rows >= FEWEST_ROWS and eligible(word)]
    median = sorted(counts[word] for word in words)[len(words) // 2]
    lots = []
    for word in words:
        chance = random.Random(f"{SEED} {word}")
        key = chance.random() ** (1 / (COMMON_WEIGHT if counts[word] >= median else 1))
        first, second = pick(chance, KINDS), ""
        if len(word) >= SECOND_FROM and chance.random() < SECOND_ERROR:
            second = pick(chance, KINDS)
        typed = word
        errors = 2 if second else 1
        while typed in known or search.stem(typed) in stems or search.edits(typed, word, 2) != errors:
            typed = misspell(word, first, chance)
            if second:
                typed = misspell(typed, second, chance)
        lots.append((key, typed, word, first, first + "+" + second if second else first))
    drawn: dict[str, list[tuple[str, str, str]]] = {kind: [] for kind in KINDS}
    for _, typed, word, first, kind in sorted(lots, reverse=True):
        if len(drawn[first]) < DRAWN // len(KINDS):
            drawn[first].append((typed, word, kind))
    return sorted((line for lines in drawn.values() for line in lines), key=lambda line: (line[1], line))


def write(file: TextIO) -> None:
    """Write the lines that were not rejected."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("typed", "meant", "kind"))
    writer.writerows(line for line in draw(*read_rows()) if line[0] not in REJECTED)


if __name__ == "__main__":
    write(sys.stdout)

"""Reading a knowledge base's CSV files, and judging whether they can be used at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator

from search import DATA, DataError, checksum, csv_files, printable, scope_name, with_lf

DOMAIN_COLUMNS = (
    "ID,Name,Category,Keywords,Problem,Solution,Use When,Avoid When,Trade-offs,Pitfalls,Example,Recipes,Checks,"
    "Related,Source,Verified"
).split(",")
STACK_COLUMNS = (
    "ID,Name,Category,Keywords,Problem,Do,Don't,Good Code,Bad Code,Severity,Applies To,Recipes,Checks,"
    "Related,Source,Verified"
).split(",")
PLAYBOOK_COLUMNS = (
    "ID,Name,Keywords,Situation,Ask First,Arithmetic,Steps,Way Back,Checklist,Leave Out,Diagram,Recipes,Related,Source,"
    "Verified"
).split(",")
KEYS = {"synonyms.csv": ("Term", "Means"), "scopes.csv": ("Scope", "About", "Examples", "Other Names")}


class Record:
    """A CSV record: its cells, its first byte and its bytes in the file, its first line."""

    def __init__(self, cells: list[str], start: int, size: int, line: int) -> None:
        self.cells, self.start, self.size, self.line = cells, start, size, line


class Table:
    """One CSV as it was read."""

    def __init__(self, columns: list[str], records: list[Record], size: int, crc: str) -> None:
        self.columns, self.records, self.size, self.checksum = columns, records, size, crc

    def column(self, name: str) -> list[str]:
        """The cells of a column, or nothing where there is no such column."""
        place = self.columns.index(name) if name in self.columns else len(self.columns)
        return [record.cells[place] for record in self.records if place < len(record.cells)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield each record as {column: cell}."""
        for record in self.records:
            yield dict(zip(self.columns, record.cells))


class Problem:
    """What is wrong with one cell of one CSV; row 1 is the header."""

    def __init__(self, path: str, row: int, column: str, message: str) -> None:
        self.path, self.row, self.column, self.message = path, row, column, message

    def __str__(self) -> str:
        return f"{self.path} row {self.row}, {self.column}: {self.message}"


def read_table(data: str, path: str) -> Table:
    """One CSV: its columns, and its records with the bytes that each takes, line ends counted as LF.

    Raises DataError naming the file and the line for anything that is not CSV in UTF-8, and for the
    first of the file's table_problems.
    """
    table = read_csv(data, path)
    for problem in table_problems(path, table):
        raise DataError(str(problem))
    return table


def shipped_rows() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (reference, {column: cell}) of every row and playbook of the shipped data."""
    for path in csv_files(DATA):
        if "/" in path:
            for fields in read_table(DATA, path).rows():
                yield f"{scope_name(path)}/{fields['ID']}", fields


def read_csv(data: str, path: str) -> Table:
    """As read_table, but whatever the header and the rows hold."""
    try:
        with open(os.path.join(data, path), "rb") as file:
            raw = file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): restore it or mend its permissions")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise DataError(f"{path} starts with a byte order mark: save it as UTF-8 without BOM")
    raw = with_lf(raw)
    if b"\r" in raw:
        line = raw[: raw.index(b"\r")].count(b"\n") + 1
        raise DataError(f"{path} line {line} has a carriage return alone: save the file with LF line ends")
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}): save it as UTF-8")
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
            f"{path} line {line + 1}: the row that starts here is not CSV ({error}): "
            "look for a quote that is not closed or not doubled"
        )
    columns = records.pop(0).cells if records else []
    return Table(columns, records, len(raw), checksum(raw))


def table_problems(path: str, table: Table) -> Iterator[Problem]:
    """Yield a Problem for each fault that makes a table unusable: its header, its width, its keys."""
    columns, required = table.columns, KEYS.get(path, ("ID", "Name"))
    problem = header_problem(columns, required)
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
        for column in required[:2]:
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


def header_problem(columns: list[str], required: tuple[str, ...]) -> str:
    """What is wrong with a header, or an empty string."""
    if len(set(columns)) != len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        return f"column {printable(twice)!r} stands there twice: keep one"
    odd = [column for column in columns if "|" in column or column != printable(column)]
    if odd:
        return f"column {printable(odd[0])!r} has a bar, a control character or blanks around it: take it away"
    lacking = [column for column in required if column not in columns]
    return f"lacks {' and '.join(lacking)}: expected at least {','.join(required)}" if lacking else ""

"""The rules for rows, and the check that holds a knowledge base to them.

A rule takes a row as {column: cell} and yields (column, message). Its docstring is the rule.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from maintain.tables import DOMAIN_COLUMNS, PLAYBOOK_COLUMNS, STACK_COLUMNS, Problem, Table, read_csv, table_problems
from search import BROKEN, FOUND, TABLES, DataError, checksum, csv_files, recipe_names, scope_name

PROSE = ("Name", "Problem", "Solution", "Use When", "Avoid When", "Trade-offs", "Pitfalls", "Do", "Don't")
WORDING = (*PROSE, "Situation", "Ask First", "Arithmetic", "Steps", "Way Back", "Checklist", "Leave Out")
# The lists of a playbook, each with what starts an item and how many there may be.
LISTS = {
    "Ask First": ("- ", 3, 8), "Arithmetic": ("- ", 0, 6), "Steps": ("{}. ", 6, 14), "Way Back": ("- ", 1, 14),
    "Checklist": ("- ", 10, 18), "Leave Out": ("- ", 1, 8),
}  # fmt: skip
PLAYBOOK_WORDS = (500, 900)
ROW_KEYWORDS, PLAYBOOK_KEYWORDS = (6, 15), (6, 30)  # people ask for a task in more ways than for a fact
OPTIONAL = ("Example", "Good Code", "Bad Code", "Verified", "Recipes", "Checks", "Arithmetic", "Diagram")
ROW_LISTS = ("Solution", "Do", "Don't", "Pitfalls")  # of rows: one fact or act an item
MANY_LINES = (*OPTIONAL, *LISTS, *ROW_LISTS)
HOLLOW = ("\u2014", "leverag", "seamless", "robust", "best-in-class", "best practice", "cutting-edge")
CODE = (r"((?!.*```)[^\n]*(\n(?!.*```)[^\n]*){2,17})?", "3 to 18 lines of bare code, or nothing")
# What a cell must look like as a whole, and how to say so.
FORMATS = {
    "ID": ("[a-z0-9]+(-[a-z0-9]+)*", "a slug such as transactional-outbox"),
    "Keywords": (r"[^;\s][^;]*(; [^;\s][^;]*)*", "terms, a semicolon and a blank between them"),
    "Example": (r"(```[a-z0-9+#-]+\n((?!```).*\n)+```)?", "one fenced block that names its language, or nothing"),
    "Good Code": CODE,
    "Bad Code": CODE,
    "Severity": ("critical|high|medium|low", "critical, high, medium or low"),
    "Recipes": (r"(recipe/[a-z0-9-]+(; recipe/[a-z0-9-]+)*)?", "references such as recipe/outbox-relay, or nothing"),
    "Checks": (r"(checks/[a-z0-9/.-]+(; checks/[a-z0-9/.-]+)*)?", "files such as checks/redis/checks.awk, or nothing"),
    "Diagram": (r"(```mermaid\n((?!```).*\n)+```)?", "one fenced block of Mermaid, or nothing"),
    "Related": (
        r"\S+/\S+(; \S+/\S+){1,5}",
        "2 to 6 references such as api/webhooks, a semicolon and a blank between them",
    ),
    "Source": (r"https://\S+\.\S+(; https://\S+\.\S+)*", "https links, a semicolon and a blank between them"),
    "Verified": (r"(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?", "a date such as 2026-11-23, or nothing"),
}


def rule_formats(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A cell has the form that its column asks for."""
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
        if "\n" in cell and column not in MANY_LINES:
            yield column, "has a line end, expected one paragraph"


def rule_repeats(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """No keyword and no reference stands twice in a row."""
    for column in ("Keywords", "Related", "Recipes", "Checks"):
        terms = row.get(column, "").lower().split("; ")
        if len(set(terms)) < len(terms):
            yield column, "names something twice"


def rule_keywords(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """There are as many keywords as fit a row or a playbook."""
    count = len(row["Keywords"].split("; "))
    least, most = PLAYBOOK_KEYWORDS if "Steps" in row else ROW_KEYWORDS
    if not least <= count <= most:
        yield "Keywords", f"has {count} terms, expected {least} to {most}"


def rule_code(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Good Code and Bad Code come together."""
    if bool(row.get("Good Code")) != bool(row.get("Bad Code")):
        yield "Good Code", "or Bad Code is empty, expected both or neither"


def rule_length(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A row has 110 to 240 words of prose."""
    count = sum(len(re.findall(r"\S*\w\S*", row[column])) for column in PROSE if column in row)  # no list marks
    if not 110 <= count <= 240:
        yield "all", f"has {count} words of prose, expected 110 to 240"


def rule_wording(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Rows are free of marketing words and em dashes."""
    for column in WORDING:
        for word in HOLLOW:
            if word in row.get(column, "").lower():
                yield column, f"has {word!r}: say what it does instead"


def rule_lists(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each list of a playbook has as many items as fit it, its steps are numbered, and code belongs to an item."""
    for column, (mark, least, most) in LISTS.items():
        outside = re.sub(r"^( *)```.*?^ *```$", "", row[column], flags=re.DOTALL | re.MULTILINE)
        items = [line for line in outside.split("\n") if line.strip() and not line.startswith("   ")]
        if not least <= len(items) <= most:
            yield column, f"has {len(items)} items, expected {least} to {most}"
        for number, item in enumerate(items, 1):
            if not item.startswith(mark.format(number)):
                yield column, f"{item[:40]!r} does not start with {mark.format(number)!r}"


def rule_items(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Solution, Do, Don't and Pitfalls are lists of at most eight items, each a whole sentence on a line."""
    for column in ROW_LISTS:
        items = row[column].split("\n") if column in row else []
        if len(items) > 8:
            yield column, f"has {len(items)} items, expected at most 8"
        for item in items:
            if not re.fullmatch(r"- \S.*[.!?)`\"']", item):
                yield column, f"{item[:40]!r} is no item: expected '- ' and a whole sentence on one line"


def rule_playbook_length(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A playbook has 500 to 900 words, code apart."""
    text = "\n".join(row[column] for column in ("Situation", *LISTS))
    count = len(re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE).split())
    least, most = PLAYBOOK_WORDS
    if not least <= count <= most:
        yield "all", f"has {count} words, expected {least} to {most}"


def rule_acts(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A step is an act: it considers and ensures nothing."""
    for word in re.findall(r"\b(?:consider|ensure|make sure)\b", row["Steps"], flags=re.IGNORECASE):
        yield "Steps", f"says {word!r}: give the command, and how to see that it worked"


ROW_RULES = (
    rule_formats, rule_cells, rule_keywords, rule_repeats, rule_items, rule_code, rule_length, rule_wording,
)  # fmt: skip
PLAYBOOK_RULES = (
    rule_formats, rule_cells, rule_keywords, rule_repeats, rule_lists, rule_playbook_length, rule_acts, rule_wording,
)  # fmt: skip


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
        if path not in TABLES
        for record in table.records
    }
    for path, table in tables.items():
        problems += check_order(path, table)
        if table.columns in (DOMAIN_COLUMNS, STACK_COLUMNS, PLAYBOOK_COLUMNS):
            problems += check_rows(path, table, refs, set(recipe_names(data)))
    return problems


def check_order(path: str, table: Table) -> Iterator[Problem]:
    """Yield a Problem where rows are not sorted by their first column, or not as Python's csv module writes them."""
    keys = [record.cells[0] for record in table.records]
    for number, (before, key) in enumerate(zip(keys, keys[1:]), 3):
        if key < before:
            yield Problem(path, number, table.columns[0], f"{key!r} stands after {before!r}: sort the rows")
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([table.columns] + [record.cells for record in table.records])
    if checksum(buffer.getvalue().encode("utf-8")) != table.checksum:
        yield Problem(path, 1, "file", "is not as Python's csv module writes it: quote only where needed, LF line ends")


def check_rows(path: str, table: Table, refs: set[str], recipes: set[str]) -> Iterator[Problem]:
    """Yield a Problem for each rule that a row breaks, each reference that leads nowhere, and too many categories."""
    is_playbook = table.columns == PLAYBOOK_COLUMNS
    for number, row in enumerate(table.rows(), 2):
        for rule in PLAYBOOK_RULES if is_playbook else ROW_RULES:
            for column, message in rule(row):
                yield Problem(path, number, f"{column} of {row['ID']}", message)
        for ref in row["Related"].split("; "):
            if ref not in refs or ref == f"{scope_name(path)}/{row['ID']}":
                yield Problem(path, number, "Related of " + row["ID"], f"{ref!r} is no other row")
        for ref in filter(None, row["Recipes"].split("; ")):
            if ref not in recipes:
                yield Problem(path, number, "Recipes of " + row["ID"], f"{ref!r} is no recipe")
        if is_playbook and bool(row["Diagram"]) != (scope_name(path) == "design"):
            yield Problem(path, number, "Diagram of " + row["ID"], "expected one in each design, none elsewhere")
    categories = set(table.column("Category"))
    if len(categories) > 12:
        yield Problem(path, 1, "Category", f"{len(categories)} categories, expected at most 12")


def report(data: str) -> tuple[str, int]:
    """What is wrong with a knowledge base, a line each, and the exit status."""
    problems = check(data)
    if problems:
        return "\n".join(map(str, problems)) + f"\n{len(problems)} problems", BROKEN
    return f"no problems in {len(csv_files(data))} files", FOUND

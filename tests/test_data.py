"""The rules of the knowledge base, over every shipped file and over rows that break them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import search
from maintain import rules, tables

from . import snippets
from .conftest import ROOT, write_csv

DATA = ROOT / "data"
FILES = [path for path in search.csv_files(str(DATA)) if path not in search.TABLES]


def rows(path: str) -> list[dict[str, str]]:
    table = tables.read_table(str(DATA), path)
    return [dict(zip(table.columns, record.cells)) for record in table.records]


# ---------------------------------------------------------------- the shipped files


def test_check_finds_nothing_in_the_shipped_files() -> None:
    assert [str(problem) for problem in rules.check(str(DATA))] == []


def test_the_files_are_the_domains_and_stacks_that_the_program_describes() -> None:
    assert {search.scope_name(path) for path in FILES} == set(
        tables.read_table(str(DATA), "scopes.csv").column("Scope")
    )


@pytest.mark.parametrize("path", FILES)
def test_each_file_has_the_standard_columns_and_enough_rows(path: str) -> None:
    table = tables.read_table(str(DATA), path)
    if path.startswith("domains/"):
        assert table.columns == tables.DOMAIN_COLUMNS
        assert len(table.records) >= 25
    elif path.startswith("stacks/"):
        assert table.columns == tables.STACK_COLUMNS
        assert len(table.records) >= 15
    else:
        assert table.columns == tables.PLAYBOOK_COLUMNS


@pytest.mark.parametrize("path", FILES)
def test_examples_and_code_parse_in_their_language(path: str) -> None:
    stack = search.scope_name(path)
    faults = []
    for row in rows(path):
        if row.get("Example"):
            language, _, code = row["Example"].strip("`").strip().partition("\n")
            faults.append((row["ID"], snippets.fault(language, code)))
        for column in ("Good Code", "Bad Code"):
            if row.get(column):
                faults.append((row["ID"], snippets.fault(search.FENCES.get(stack, stack), row[column])))
    assert [fault for fault in faults if fault[1]] == []


@pytest.mark.parametrize("path", FILES)
def test_good_code_and_bad_code_differ(path: str) -> None:
    assert [row["ID"] for row in rows(path) if row.get("Good Code") and row["Good Code"] == row["Bad Code"]] == []


@pytest.mark.parametrize("path", [path for path in FILES if not path.startswith("playbooks/")])
def test_most_rows_were_verified_in_their_source(path: str) -> None:
    found = rows(path)
    assert sum(bool(row["Verified"]) for row in found) >= 0.9 * len(found)


def test_no_problem_is_told_twice() -> None:
    seen: dict[str, str] = {}
    for path in FILES:
        for row in rows(path):
            key = " ".join(search.tokenize(row.get("Problem") or row["Situation"])[:12])
            assert key not in seen, f"{path} {row['ID']} begins as {seen[key]}"
            seen[key] = f"{path} {row['ID']}"


def test_synonyms_are_many_sorted_and_each_leads_to_a_row() -> None:
    table = tables.read_table(str(DATA), "synonyms.csv")
    pairs = [tuple(record.cells) for record in table.records]
    assert len(pairs) >= 120
    assert pairs == sorted(pairs)
    vocabulary = {term for path in FILES for row in rows(path) for term in search.tokenize(" ".join(row.values()))}
    dead = [pair for pair in pairs if not any(set(search.tokenize(side)) <= vocabulary for side in pair)]
    assert dead == []


def test_no_synonym_stands_in_both_directions() -> None:
    table = tables.read_table(str(DATA), "synonyms.csv")
    pairs = {tuple(" ".join(search.words(cell)) for cell in record.cells) for record in table.records}
    assert [pair for pair in pairs if pair[::-1] in pairs] == []


def test_nothing_in_the_data_escapes_to_the_terminal() -> None:
    for path in search.csv_files(str(DATA)):
        text = (DATA / path).read_text(encoding="utf-8")
        assert not re.findall(r"[^\t\n -\x7e\u00a1-\uffff]", text)


# ---------------------------------------------------------------- rows that break the rules

GOOD = {
    "ID": "a-row",
    "Name": "A row",
    "Category": "One",
    "Keywords": "one; two; three; four; five; six",
    "Problem": "word " * 60 + "end.",
    "Solution": "- " + "word " * 60 + "end.",
    "Use When": "Always.",
    "Avoid When": "Never.",
    "Trade-offs": "None.",
    "Pitfalls": "- None.",
    "Example": "```sql\nSELECT 1;\n```",
    "Recipes": "",
    "Checks": "",
    "Related": "tea/b-row; tea/c-row",
    "Source": "https://example.org/page",
    "Verified": "2026-11-25",
}
GOOD_STACK = {
    **{name: GOOD[name] for name in tables.STACK_COLUMNS if name in GOOD},
    "Do": "- " + "word " * 50 + "end.",
    "Don't": "- Nothing.",
    "Good Code": "a = 1\nb = 2\nc = 3",
    "Bad Code": "a = 1\nb = 2\nc = 4",
    "Severity": "high",
    "Applies To": "Python 3.9+",
}
BROKEN_ROWS = [
    (rules.rule_formats, {"ID": "A Row"}),
    (rules.rule_formats, {"ID": "a--row"}),
    (rules.rule_cells, {"Solution": ""}),
    (rules.rule_cells, {"Name": " padded "}),
    (rules.rule_cells, {"Problem": "two\nlines"}),
    (rules.rule_keywords, {"Keywords": "one; two; three; four; five"}),
    (rules.rule_keywords, {"Keywords": "; ".join(f"term {number}" for number in range(16))}),
    (rules.rule_repeats, {"Keywords": "one; two; three; four; five; One"}),
    (rules.rule_items, {"Solution": "\n".join(["- Set it to 5."] * 9)}),
    (rules.rule_items, {"Solution": "- Set it to 5.\nThen read it."}),
    (rules.rule_items, {"Pitfalls": "- it fails; it hangs"}),
    (rules.rule_formats, {"Checks": "invalid-index"}),
    (rules.rule_formats, {"Keywords": "one;two; three; four; five; six; seven"}),
    (rules.rule_length, {"Solution": "Too short."}),
    (rules.rule_length, {"Solution": "word " * 300}),
    (rules.rule_formats, {"Related": "tea/b-row"}),
    (rules.rule_repeats, {"Related": "tea/b-row; tea/b-row"}),
    (rules.rule_formats, {"Related": "; ".join(f"tea/row-{number}" for number in range(7))}),
    (rules.rule_formats, {"Source": ""}),
    (rules.rule_formats, {"Source": "http://example.org"}),
    (rules.rule_formats, {"Source": "The manual"}),
    (rules.rule_formats, {"Verified": "yesterday"}),
    (rules.rule_formats, {"Verified": "2026-13-01"}),
    (rules.rule_formats, {"Example": "SELECT 1;"}),
    (rules.rule_formats, {"Example": "```\nSELECT 1;\n```"}),
    (rules.rule_items, {"Solution": "A paragraph."}),
    (rules.rule_wording, {"Solution": "- A robust solution."}),
    (rules.rule_wording, {"Problem": "One thing \u2014 another."}),
]
BROKEN_STACK_ROWS = [
    (rules.rule_code, {"Bad Code": ""}),
    (rules.rule_formats, {"Good Code": "a = 1"}),
    (rules.rule_formats, {"Good Code": "\n".join(["a = 1"] * 19)}),
    (rules.rule_formats, {"Good Code": "```\na = 1\n```"}),
    (rules.rule_formats, {"Severity": "severe"}),
]
ITEMS = "\n".join(["- " + "word " * 15 + "end."] * 12)
GOOD_PLAYBOOK = {
    **{name: GOOD[name] for name in ("ID", "Name", "Keywords", "Recipes", "Related", "Source", "Verified")},
    "Situation": "The table is huge.",
    "Ask First": "- How large is it? Assume 100 GB.\n- Who writes?\n- Which release?",
    "Arithmetic": "",
    "Steps": "\n".join(f"{number}. Run this.\n   ```sql\n   SELECT 1;\n   ```" for number in range(1, 8)),
    "Way Back": ITEMS,
    "Checklist": ITEMS,
    "Leave Out": "\n".join(ITEMS.split("\n")[:8]),
    "Diagram": "",
}
BROKEN_PLAYBOOKS = [
    (rules.rule_keywords, {"Keywords": "; ".join(f"term {number}" for number in range(31))}),
    (rules.rule_lists, {"Checklist": "- Is it done?"}),
    (rules.rule_lists, {"Steps": GOOD_PLAYBOOK["Steps"].replace("3.", "4.")}),
    (rules.rule_lists, {"Steps": GOOD_PLAYBOOK["Steps"] + "\nLast words."}),
    (rules.rule_lists, {"Way Back": "There is none."}),
    (rules.rule_playbook_length, {"Way Back": "- None."}),
    (rules.rule_playbook_length, {"Situation": "word " * 900}),
    (rules.rule_acts, {"Steps": "1. Ensure that it works."}),
    (rules.rule_formats, {"Diagram": "flowchart LR"}),
    (rules.rule_formats, {"Recipes": "outbox-relay"}),
    (rules.rule_cells, {"Checklist": ""}),
]


def test_a_good_row_breaks_no_rule() -> None:
    for row in (GOOD, GOOD_STACK):
        clean = {column: cell.strip() for column, cell in row.items()}
        assert [fault for rule in rules.ROW_RULES for fault in rule(clean)] == []


def test_every_rule_has_a_row_that_breaks_it() -> None:
    broken = BROKEN_ROWS + BROKEN_STACK_ROWS + BROKEN_PLAYBOOKS
    assert {rule for rule, _ in broken} == {*rules.ROW_RULES, *rules.PLAYBOOK_RULES}


@pytest.mark.parametrize(("rule", "change"), BROKEN_ROWS)
def test_a_domain_row_that_breaks_a_rule_is_reported(rule: Callable, change: dict[str, str]) -> None:
    assert [column for column, _ in rule({**GOOD, **change})]


def test_a_good_playbook_breaks_no_rule() -> None:
    assert [fault for rule in rules.PLAYBOOK_RULES for fault in rule(GOOD_PLAYBOOK)] == []


@pytest.mark.parametrize(("rule", "change"), BROKEN_PLAYBOOKS)
def test_a_playbook_that_breaks_a_rule_is_reported(rule: Callable, change: dict[str, str]) -> None:
    assert [column for column, _ in rule({**GOOD_PLAYBOOK, **change})]


@pytest.mark.parametrize(("rule", "change"), BROKEN_STACK_ROWS)
def test_a_stack_row_that_breaks_a_rule_is_reported(rule: Callable, change: dict[str, str]) -> None:
    assert [column for column, _ in rule({**GOOD_STACK, **change})]


def test_check_reports_all_problems_at_once_with_file_row_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = list(GOOD)
    good = [GOOD[column].strip() for column in columns]
    twin = ["b-row", *good[1:]]
    bad = [{**GOOD, "ID": "C row", "Verified": "soon", "Related": "tea/b-row; tea/nowhere"}[c].strip() for c in columns]
    write_csv(tmp_path / "domains" / "tea.csv", [good, bad, twin], columns)
    assert search.main(["--check", "--data", str(tmp_path)]) == search.BROKEN
    out = capsys.readouterr().out
    for line in (
        "domains/tea.csv row 3, ID of C row: 'C row' is not a slug",
        "domains/tea.csv row 3, Verified of C row: 'soon' is not a date",
        "domains/tea.csv row 3, Related of C row: 'tea/nowhere' is no other row",
        "domains/tea.csv row 2, Related of a-row: 'tea/c-row' is no other row",
        "domains/tea.csv row 3, ID: 'C row' stands after 'a-row': sort the rows",
    ):
        assert line in out


def test_check_holds_files_to_the_way_that_pythons_csv_module_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "domains" / "tea.csv"
    path.parent.mkdir()
    path.write_text('ID,Name\n"a",Tea\n', encoding="utf-8")
    assert ["is not as Python" in str(problem) for problem in rules.check(str(tmp_path))] == [True]


def test_check_says_so_when_there_is_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "domains" / "tea.csv", [["a", "Tea"]], ["ID", "Name"])
    assert search.main(["--check", "--data", str(tmp_path)]) == search.FOUND
    assert capsys.readouterr().out == "no problems in 1 files\n"

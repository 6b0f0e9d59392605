"""Playbooks and recipes: found by the task, named beside an answer, shown whole, carried by an installed skill."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import search
from benchmarks import retrieval
from maintain import code, tables

from .conftest import ROOT, write_csv

Run = Callable[..., tuple[int, str, str]]
COLUMNS = ["ID", "Name", "Keywords", "Situation", "Steps", "Checklist", "Recipes"]
TASKS = [
    [
        "soup-for-hundred", "Cook soup for a hundred guests", "feast; wedding soup; large pot", "Many guests come.",
        "1. Borrow a pot.\n2. Chop ninety carrots.", "- Is the pot clean?", "recipe/carrot-soup",
    ],
    ["move-kitchen", "Move the kitchen to another house", "relocation; new house", "The lease ends.", "1. Pack.",
     "- Is the stove off?", ""],
]  # fmt: skip
# Others, since a word that half of all playbooks hold says nothing.
OTHERS = [[f"task-{n}", f"Do chore {n}", "dusting; sweeping", "Dirt.", "1. Do it.", "- Done?", ""] for n in range(6)]


@pytest.fixture
def kitchen(data: Path) -> Path:
    """The small knowledge base with two playbooks and a recipe, which lies beside its data."""
    inside = data / "data"
    write_csv(inside / "playbooks" / "change.csv", TASKS, COLUMNS)
    write_csv(inside / "playbooks" / "operate.csv", OTHERS, COLUMNS)
    for folder in ("domains", "stacks"):
        (data / folder).rename(inside / folder)
    recipe = data / "recipes" / "carrot-soup"
    (recipe / "src").mkdir(parents=True)
    (recipe / "README.md").write_text("# Carrot soup\n\nFor cold days.\n\n## Guarantees\n\n- It is hot.\n", "utf-8")
    (recipe / "src" / "soup.py").write_text('print("soup")\n', "utf-8")
    for name in ("test_carrot_soup.py", "guards.toml", "soup_test.go", "soup.lock"):
        (recipe / name).write_text("not for readers\n", "utf-8")
    return inside


@pytest.fixture
def ask(kitchen: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line on it: (status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = search.main(["--data", str(kitchen), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_task_finds_its_playbook_whole_and_names_the_next(ask: Run) -> None:
    status, out, _ = ask("--playbook", "new house with another kitchen, many guests")
    assert status == search.FOUND
    assert out.count("\n## ") == 1
    assert "`change/move-kitchen`" in out
    assert "**Steps:**\n\n1. Pack." in out
    assert "Also relevant (--show REF): `change/soup-for-hundred`" in out


def test_a_search_names_the_playbook_that_fits_and_shows_rows_only(ask: Run) -> None:
    _, out, _ = ask("wedding soup large pot toast")
    assert "**Playbook** (--show REF): `change/soup-for-hundred` Cook soup for a hundred guests" in out
    assert "## Cook soup" not in out
    assert "**Playbook**" not in ask("burnt toast")[1]


def test_several_questions_name_a_playbook_once(ask: Run) -> None:
    _, out, _ = ask("-q", "wedding soup large pot toast", "-q", "large pot wedding toast")
    assert out.count("**Playbook**") == 1


def test_json_names_the_playbook(ask: Run) -> None:
    answer = json.loads(ask("wedding soup large pot toast", "--json")[1])
    assert answer["playbook"] == {"ref": "change/soup-for-hundred", "name": "Cook soup for a hundred guests"}
    assert [each["ref"] for each in json.loads(ask("--playbook", "wedding soup", "--json")[1])["results"]] == [
        "change/soup-for-hundred"
    ]


def test_a_question_that_only_playbooks_hold_still_names_the_task(ask: Run) -> None:
    status, out, _ = ask("wedding feast")
    assert status == search.NOTHING
    assert "`change/soup-for-hundred`" in out


def test_a_recipe_is_shown_with_notes_and_code_but_without_its_tests(ask: Run) -> None:
    status, out, _ = ask("--show", "recipe/carrot-soup", "change/move-kitchen")
    assert status == search.FOUND
    assert out.startswith("## Carrot soup\n\n`recipe/carrot-soup`\n\nFor cold days.\n\n### Guarantees\n\n- It is hot.")
    assert '### src/soup.py\n\n```py\nprint("soup")\n```' in out
    assert "not for readers" not in out
    assert "## Move the kitchen" in out
    fields = json.loads(ask("--show", "recipe/carrot-soup", "--json")[1])["results"][0]["fields"]
    assert list(fields) == ["Name", "Notes", "src/soup.py"]


@pytest.mark.parametrize("wrong", ["recipe/carrot-stew", "recipe/", "recipe/../data", "recipe/carrot-soup/.."])
def test_a_recipe_that_does_not_exist_leads_to_the_nearest(ask: Run, wrong: str) -> None:
    status, out, err = ask("--show", wrong)
    assert status == search.NOTHING
    assert not out
    assert "recipe/carrot-soup" in err


def test_the_list_holds_playbooks_and_recipes(ask: Run) -> None:
    _, out, _ = ask("--list")
    assert "playbooks\n  change            2 rows" in out
    assert "recipes\n  recipe            1 folders" in out
    assert ask("--list", "change", "recipes")[1].splitlines() == [
        "change/move-kitchen  Move the kitchen to another house",
        "change/soup-for-hundred  Cook soup for a hundred guests",
        "recipe/carrot-soup  Carrot soup",
    ]


def test_the_version_counts_them(ask: Run) -> None:
    assert ask("--version")[1].strip().endswith("4 rows, 8 playbooks, 1 recipes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--playbook", "soup", "-q", "soup"], "--playbook takes the task alone"),
        (["--playbook", "soup", "--domain", "kitchen"], "--playbook takes the task alone"),
        (["--playbook"], "--playbook needs a value"),
        (["--playbook", " "], "no question"),
        (["soup", "--domain", "change"], "type --playbook and the task"),
        (["--list", "chnge"], "nearest is change"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_type(ask: Run, arguments: list[str], message: str) -> None:
    status, _, err = ask(*arguments)
    assert status == search.USAGE
    assert message in err


def test_a_knowledge_base_without_playbooks_says_so(run: Run) -> None:
    status, _, err = run("--playbook", "soup")
    assert status == search.USAGE
    assert "there is none" in err


# ---------------------------------------------------------------- those that we ship


def tasks() -> list[tuple[str, str]]:
    """(what somebody types, the playbook that must come first) of tests/tasks.csv."""
    return [(task, ref) for task, ref in typed_tasks() if ref]


def typed_tasks() -> list[tuple[str, str]]:
    """As tasks, and those that no playbook is for, with nothing as reference."""
    with open(ROOT / "tests" / "tasks.csv", encoding="utf-8", newline="") as file:
        return [(row["Task"], row["Playbook"]) for row in csv.DictReader(file)]


def reports(task: str) -> bool:
    """Whether it belongs to the half that only reports: decided once and for all by its text."""
    return hashlib.sha256(task.encode("utf-8")).digest()[0] % 2 == 1


@pytest.mark.parametrize(("half", "share"), [(False, 0.95), (True, 0.95)], ids=["for tuning", "that only reports"])
def test_the_right_playbook_comes_first(half: bool, share: float) -> None:
    index = search.open_index(search.DATA)
    kinds = [scope.name for scope in index.scopes if scope.kind == "playbook"]
    asked = [each for each in tasks() if reports(each[0]) is half]
    found = [index.row(search.answer(index, task, kinds, 1).hits[0].number)[0] == ref for task, ref in asked]
    assert len(found) >= 110
    assert sum(found) >= share * len(found)


@pytest.mark.parametrize(("there", "least", "most"), [(True, 0, 0.12), (False, 0.8, 1)])
def test_a_task_without_a_playbook_gets_a_weak_match(there: bool, least: float, most: float) -> None:
    index = search.open_index(search.DATA)
    kinds = [scope.name for scope in index.scopes if scope.kind == "playbook"]
    weak = [search.answer(index, task, kinds, 1).weak for task, ref in typed_tasks() if bool(ref) is there]
    assert least <= sum(weak) / len(weak) <= most


def test_there_are_three_and_more_questions_for_each_playbook() -> None:
    index = search.open_index(search.DATA)
    playbooks = {index.row(row)[0] for scope in index.scopes if scope.kind == "playbook" for row in scope.rows}
    counts = {ref: sum(each == ref for _, each in tasks()) for ref in playbooks}
    assert min(counts.values()) >= 3, counts
    assert {ref for _, ref in tasks()} == playbooks


def test_a_question_that_nothing_answers_gets_no_playbook() -> None:
    index = search.open_index(search.DATA)
    beside = [question for question in retrieval.questions() if question.kind == retrieval.UNANSWERABLE]
    named = [question.text for question in beside if search.answer(index, question.text, [], 3).playbook]
    assert len(named) <= 0.05 * len(beside), named


def test_a_task_asked_as_an_ordinary_question_is_told_of_its_playbook() -> None:
    index = search.open_index(search.DATA)
    asked = [each for each in tasks() if not reports(each[0])]
    named = [(search.answer(index, task, [], 3).playbook or ("",))[0] for task, _ in asked]
    right = sum(name == ref for name, (_, ref) in zip(named, asked))
    wrong = sum(bool(name) and name != ref for name, (_, ref) in zip(named, asked))
    assert right >= 0.4 * len(asked)
    assert wrong <= 0.05 * len(asked)


def test_each_diagram_is_one_that_mermaid_parsed() -> None:
    lock = {key[0]: rest[0] for key, rest in code.read_lock().items() if key[1] == "Diagram"}
    table = tables.read_table(search.DATA, "playbooks/design.csv")
    now = {f"design/{row}": search.checksum(text.encode("utf-8")) for row, text in
           zip(table.column("ID"), table.column("Diagram"))}  # fmt: skip
    assert now == lock, "type: .venv/bin/python -m maintain.diagrams"


def test_there_are_enough_playbooks_of_each_kind() -> None:
    counts = {
        scope.name: len(scope.rows) for scope in search.open_index(search.DATA).scopes if scope.kind == "playbook"
    }
    least = {"design": 14, "change": 8, "diagnose": 6, "review": 4, "operate": 4}
    assert all(counts.get(kind, 0) >= number for kind, number in least.items()), counts


def test_rows_and_the_recipes_that_answer_them_name_each_other() -> None:
    named = set()
    for path in search.csv_files(search.DATA):
        if path.startswith(("domains/", "stacks/")):
            table = tables.read_table(search.DATA, path)
            for key, recipes in zip(table.column("ID"), table.column("Recipes")):
                named |= {(recipe, f"{search.scope_name(path)}/{key}") for recipe in recipes.split("; ") if recipe}
    said = set()
    for recipe in search.recipe_names(search.DATA):
        notes = (ROOT / "recipes" / recipe[len(search.RECIPE) :] / "README.md").read_text(encoding="utf-8")
        (line,) = [each for each in notes.split("\n\n") if each.startswith("Row: ")]
        said |= {(recipe, each.strip("` \n")) for each in line[len("Row: ") :].split(",")}
    assert named == said

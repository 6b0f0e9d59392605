"""Each rule finds what it should in specimens and Bad Code, and is silent over good code and over the recipes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from maintain import code
from maintain.tables import shipped_rows

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "sgconfig.yml"
SUFFIXES = {"node": "ts", "python": "py", "go": "go", "java": "java", "rust": "rs", "dotnet": "cs"}
RULES = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*/*.yml"))}
ROWS = dict(shipped_rows())
SEVERITY = {"critical": "error", "high": "warning", "medium": "info"}
ENGINE = shutil.which("ast-grep", path=sysconfig.get_path("scripts")) or "ast-grep"


def scan(*paths: Path) -> list[tuple[str, Path, int]]:
    """What the rules find below the paths, as (rule, file, line)."""
    command = [ENGINE, "scan", "--config", str(CONFIG), "--no-ignore", "hidden", "--json=compact", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    return [(each["ruleId"], Path(each["file"]), each["range"]["start"]["line"] + 1) for each in found]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str]]:
    """(rule, "Good Code" or "Bad Code", row) for every finding in the code of the stacks' rows."""
    folder = tmp_path_factory.mktemp("cells")
    files = {}
    for stack, suffix in SUFFIXES.items():
        for cell in code.cells(stack):
            path = folder / cell.column.split()[0] / f"{stack}--{cell.row}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(cell.code, encoding="utf-8")
            files[path.resolve()] = (cell.column, f"{stack}/{cell.row}")
    return [(rule, *files[path.resolve()]) for rule, path, _ in scan(folder)]


def test_specimens_are_found_where_they_should_be() -> None:
    command = [ENGINE, "test", "--config", str(CONFIG), "--skip-snapshot-tests"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_rule_names_its_row_and_has_three_specimens_of_each_kind(path: Path) -> None:
    rule = RULES[path]
    row = rule["metadata"]["row"]
    assert rule["id"] == f"{path.parent.name}-{path.stem}"
    assert rule["url"] in ROWS[row]["Source"].split("; ")
    assert rule["message"].endswith(f"({row}).") and rule["message"].isascii() and len(rule["message"]) <= 240
    assert rule["note"].strip().endswith(".")
    assert rule["severity"] == SEVERITY.get(ROWS[row].get("Severity", ""), rule["severity"])
    specimens = yaml.safe_load((HERE / "specimens" / path.relative_to(HERE)).read_text(encoding="utf-8"))
    assert specimens["id"] == rule["id"]
    assert len(set(specimens["valid"])) >= 3 and len(set(specimens["invalid"])) >= 3


def test_every_specimen_file_belongs_to_a_rule() -> None:
    files = {path.relative_to(HERE / "specimens") for path in (HERE / "specimens").glob("*/*.yml")}
    assert files == {path.relative_to(HERE) for path in RULES}


def test_bad_code_is_found_and_good_code_is_not(cells: list[tuple[str, str, str]]) -> None:
    assert [each for each in cells if each[1] == "Good Code"] == []
    found = {(rule, row) for rule, _, row in cells}
    shown = [rule for rule in RULES.values() if rule["metadata"]["shows"] == "bad-code"]
    assert [rule["id"] for rule in shown if (rule["id"], rule["metadata"]["row"]) not in found] == []


def test_this_repository_is_free_of_what_the_rules_find() -> None:
    top = HERE.parent
    built = (".build", "node_modules", "target")
    found = scan(top / "recipes", top / ".github", HERE, top / "search.py", top / "render_skill.py", top / "maintain")
    assert [each for each in found if not set(built) & set(each[1].parts)] == []


def test_findings_come_as_annotations_and_as_sarif(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("const answer = await fetch(url)\n", encoding="utf-8")
    for style, mark in (("github", "::"), ("sarif", '"version"')):
        command = [ENGINE, "scan", "--config", str(CONFIG), "--format", style, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
        assert mark in done.stdout and "(node/" in done.stdout, done.stdout + done.stderr

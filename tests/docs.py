"""What the documents show, made by running it: the generators that cog calls in README.md and CONTRIBUTING.md.

Renew the documents with: .venv/bin/python -m cogapp -r README.md CONTRIBUTING.md
"""

from __future__ import annotations

import shlex
import subprocess
import sys

import render_skill
import search
from maintain import rules

from .conftest import ROOT


def output(command: str) -> str:
    """What one of the project's commands prints."""
    words = shlex.split(command)
    assert words[0] == "python3"
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def shown(command: str) -> str:
    """A command and its output, as Markdown; the fence is longer than any in the output."""
    text = output(command)
    fence = "````" if "```" in text else "```"
    return f"\n{fence}console\n$ {command}\n{text}\n{fence}\n"


def scope_table() -> str:
    """The domains, stacks and kinds of playbooks with their row counts, as a Markdown table."""
    lines = ["", "| option | rows | answers |", "|---|---|---|"]
    for scope in sorted(search.open_index(search.DATA).scopes, key=lambda scope: search.KINDS.index(scope.kind)):
        name = "TASK" if scope.kind == "playbook" else scope.name
        lines.append(f"| `--{scope.kind} {name}` | {len(scope.rows)} | {scope.about} |")
    return "\n".join([*lines, ""])


def agent_table() -> str:
    """The agents by the folder of a project that they read, as a Markdown table."""
    agents = list(render_skill.agents().values())
    lines = ["", f"<details><summary>{len(agents)} agents</summary>", "", "| in a project | agents | for its user |"]
    lines.append("|---|---|---|")
    for folder in dict.fromkeys(sorted(each.project for each in agents)):
        names = [each.name + (" (by a rule)" if each.rule else "") for each in agents if each.project == folder]
        users = dict.fromkeys(f"`{each.user}`" for each in agents if each.project == folder and each.user)
        lines.append(f"| `{folder}` | {', '.join(names)} | {', '.join(users)} |")
    return "\n".join([*lines, "", "</details>", ""])


def rule_counts() -> str:
    """How many rules there are for each language, in a sentence."""
    names = {"node": "JavaScript and TypeScript", "dotnet": "C#", "deploy": "YAML"}
    folders = sorted({path.parent.name for path in (ROOT / "checks").glob("*/*.yml")})
    counts = {folder: len(list((ROOT / "checks" / folder).glob("*.yml"))) for folder in folders}
    listed = ", ".join(f"{names.get(folder, folder.capitalize())} {count}" for folder, count in counts.items())
    return f"\n{sum(counts.values())} rules: {listed}.\n"


def row_total() -> str:
    """How many rows there are, in a sentence."""
    scopes = search.open_index(search.DATA).scopes
    kinds = [scope.kind for scope in scopes]
    rows, playbooks = (
        sum(len(each.rows) for each in scopes if (each.kind == "playbook") is is_task) for is_task in (False, True)
    )
    return (
        f"\n{rows} rows in {kinds.count('domain')} domains and {kinds.count('stack')} stacks, {playbooks} playbooks, "
        f"{len(search.recipe_names(search.DATA))} recipes.\n"
    )


def rule_list() -> str:
    """The rules that --check holds rows to, each the sentence of its function, and the form of each column."""
    lines = [""]
    for rule in dict.fromkeys(rules.ROW_RULES + rules.PLAYBOOK_RULES):
        lines.append(f"- {(rule.__doc__ or '').strip().splitlines()[0]}")
        if rule is rules.rule_formats:
            lines += [f"  - {column}: {wanted}" for column, (_, wanted) in rules.FORMATS.items()]
    return "\n".join([*lines, ""])

"""Rendering SKILL.md and installing the skill."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import render_skill
import search

from .conftest import PLAIN, ROOT

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def render(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line: (status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = render_skill.main(list(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


def skill_of(project: Path, agent: str = "claude-code") -> Path:
    return project / render_skill.agents()[agent].project / render_skill.NAME


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(text: str) -> list[list[str]]:
    """Every command of a skill file that can be run: those without a <placeholder> in them."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("python3 ") and "search.py" in line]
    return [words for words in found if not re.search(r"<[a-z ]+>", " ".join(words))]


# ---------------------------------------------------------------- the skill file


def test_the_committed_skill_is_what_the_template_gives() -> None:
    assert (ROOT / "SKILL.md").read_bytes() == render_skill.skill_text("search.py").encode("utf-8"), (
        "SKILL.md is out of date: type python3 render_skill.py"
    )


def test_the_skill_follows_the_agent_skills_specification(render: Run, project: Path) -> None:
    from skills_ref import validate

    render("--agent", "claude", "--into", str(project))
    assert validate(skill_of(project)) == []
    text = (skill_of(project) / "SKILL.md").read_text(encoding="utf-8")
    front, body = text.split("---\n", 2)[1:]
    fields = yaml.safe_load(front)
    assert fields["name"] == skill_of(project).name
    assert 0 < len(fields["description"]) <= 1024
    assert len(body.splitlines()) < 500
    for agent in render_skill.agents():
        path = f"{render_skill.agents()[agent].project}/{render_skill.NAME}/search.py"
        assert len(render_skill.skill_text(path).encode("utf-8")) <= 8192  # some clients read no more


def test_the_skill_names_every_domain_and_stack_that_there_is() -> None:
    text = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    for name in (scope.name for scope in search.open_index(search.DATA).scopes if scope.kind != "playbook"):
        assert text.count(f"`{name}`") >= 1


@pytest.mark.parametrize("words", commands(render_skill.skill_text("search.py")), ids=" ".join)
def test_every_command_in_the_skill_runs_and_finds_something(words: list[str]) -> None:
    done = subprocess.run([*PLAIN, *words[1:]], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (search.FOUND, "")
    assert "Weak match" not in done.stdout


def test_installed_commands_work_from_the_projects_root_and_from_the_skills_folder(render: Run, project: Path) -> None:
    render("--agent", "cursor", "--into", str(project))
    skill = skill_of(project, "cursor")
    found = commands((skill / "SKILL.md").read_text(encoding="utf-8"))
    assert len(found) >= 6
    for words in (found[0], found[-1]):
        assert words[1] == ".agents/skills/backend-architecture/search.py"
        for folder, script in ((project, words[1]), (skill, "search.py")):
            done = subprocess.run([*PLAIN, script, *words[2:]], cwd=folder, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (search.FOUND, b"")


@pytest.mark.parametrize("description", ["a: b", 'it\'s "quoted"', "# no comment", "tail: ", "- item", "{x} [y] & *z"])
def test_frontmatter_is_yaml_whatever_the_description_holds(description: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_skill, "DESCRIPTION", description)
    front = render_skill.skill_text("search.py").split("---\n", 2)[1]
    assert yaml.safe_load(front)["description"] == description.strip()


def test_every_heading_of_the_seed_is_in_the_skill() -> None:
    text = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    for heading in (
        "Prerequisites", "How to Use This Skill", "Step 1: Analyze User Requirements",
        "Step 2: Search Architecture Recommendations", "Step 3: Stack-Specific Guidelines", "Search Reference",
        "Available Domains", "Available Stacks", "Example Workflow", "Common Rules for Professional Backend",
        "Database Design", "API Design", "Security", "Scaling", "Pre-Architecture Checklist", "Functional",
        "Non-Functional", "Operational", "Tips for Better Results", "Quick Reference",
    ):  # fmt: skip
        assert re.search(rf"^#+ {re.escape(heading)}$", text, re.M), heading


# ---------------------------------------------------------------- templates


def test_any_template_is_rendered_in_both_notations(render: Run, tmp_path: Path) -> None:
    template = tmp_path / "a.tmpl"
    template.write_text("# {{TITLE}}\n<<SCRIPT_PATH>> {{ SKILL_OR_WORKFLOW }}\n{{QUICK_REFERENCE}}", encoding="utf-8")
    status, out, err = render("--template", str(template))
    assert (status, err) == (render_skill.DONE, "")
    assert out.startswith(f"# {render_skill.values('')['TITLE']()}\nsearch.py Skill\n## Quick Reference")
    assert "<<" not in out
    assert "{{" not in out


@pytest.mark.parametrize("mark", ["<<COLOUR>>", "{{COLOUR}}", "<<colour>>", "{{ colour }}", "<<TITEL>>"])
def test_an_unknown_placeholder_is_an_error_that_names_it_and_its_line(render: Run, tmp_path: Path, mark: str) -> None:
    template = tmp_path / "a.tmpl"
    template.write_text(f"fine\n\n# {mark}\n", encoding="utf-8")
    status, out, err = render("--template", str(template))
    assert (status, out) == (render_skill.BROKEN, "")
    assert f"line 3: nothing fills {mark}" in err


def test_all_unfilled_placeholders_are_reported_and_nothing_is_written(
    render: Run, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "a.tmpl"
    template.write_text("<<ONE>>\n<<TWO>> <<DESCRIPTION>>", encoding="utf-8")
    monkeypatch.setattr(render_skill, "TEMPLATE", template)
    monkeypatch.setattr(render_skill, "SUMMARY", " ")
    status, _, err = render("--agent", "all", "--into", str(project))
    assert status == render_skill.BROKEN
    assert "line 1: nothing fills <<ONE>>" in err
    assert "line 2: nothing fills <<TWO>>" in err
    assert "line 2: <<DESCRIPTION>> is empty" in err
    assert tree(project) == {}


def test_what_fills_a_placeholder_is_not_filled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_skill, "DESCRIPTION", "see {{HELM}} and <<THIS>>")
    assert "see {{HELM}} and <<THIS>>" in render_skill.skill_text("search.py")


def test_a_missing_template_is_named(render: Run, tmp_path: Path) -> None:
    status, _, err = render("--template", str(tmp_path / "nothing"))
    assert status == render_skill.BROKEN
    assert "nothing cannot be read" in err


# ---------------------------------------------------------------- check


def test_check_shows_the_difference_writes_nothing_and_names_the_command(
    render: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (ROOT / "SKILL.md").read_bytes()
    assert render("--check")[0] == render_skill.DONE
    monkeypatch.setattr(render_skill, "COMPATIBILITY", "Needs a time machine.")
    status, out, _ = render("--check")
    assert status == render_skill.OUT_OF_DATE
    assert '+compatibility: "Needs a time machine."' in out
    assert "type python3 render_skill.py" in out
    assert (ROOT / "SKILL.md").read_bytes() == before


# ---------------------------------------------------------------- installing


# One of each kind: folders of their own and shared, deep ones, without a dot, with a rule.
KINDS = [
    "ai-assistant",
    "astrbot",
    "claude-code",
    "codex",
    "eve",
    "openclaw",
    "posit-assistant",
    "qoder-cn",
    "windsurf",
]


@pytest.mark.parametrize("agent", KINDS)
def test_each_agent_gets_a_skill_of_real_files_that_answers(render: Run, project: Path, agent: str) -> None:
    status, out, err = render("--agent", agent, "--into", str(project))
    assert (status, err) == (render_skill.DONE, "")
    skill = skill_of(project, agent)
    assert not [path for path in project.rglob("*") if path.is_symlink()]
    for name in ("SKILL.md", "search.py", "data/index.tsv", "data/domains/api.csv", "data/stacks/go.csv"):
        assert (skill / name).is_file()
        assert f"wrote {skill / name}" in out
    command = [*PLAIN, str(skill / "search.py"), "jwt expiry", "--domain", "security"]
    done = subprocess.run(command, cwd=project, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (search.FOUND, b"")
    others = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    rule = {render_skill.agents()[agent].rule} - {""}
    assert {name for name in others if not (project / name).is_relative_to(skill)} == rule


def test_one_folder_serves_the_agents_that_share_it(render: Run, project: Path) -> None:
    status, out, _ = render("--agent", "windsurf", "--agent", "codex", "--agent", "cursor", "--into", str(project))
    assert status == render_skill.DONE
    assert [path.parent for path in project.rglob("SKILL.md")] == [skill_of(project, "codex")]
    assert "Codex, Cursor" in out
    assert out.count("Windsurf") == 1
    assert "note: " not in out


def test_all_agents_share_what_they_share_and_the_report_says_who_sees_it_twice(render: Run, project: Path) -> None:
    status, out, _ = render("--agent", "all", "--into", str(project))
    assert status == render_skill.DONE
    assert len(list(project.rglob("SKILL.md"))) > 40
    assert {agent.name for agent in render_skill.agents().values() if agent.name not in out} == set()
    assert "GitHub Copilot" in out.partition("note: ")[2]


def test_auto_installs_for_the_agents_whose_folders_are_there(render: Run, project: Path, home: Path) -> None:
    status, _, err = render("--agent", "auto", "--into", str(project))
    assert (status, list(project.iterdir())) == (render_skill.USAGE, [])
    assert "no agent's folder is in" in err
    (project / ".roo").mkdir()
    (home / ".qwen").mkdir()
    render("--agent", "auto", "--into", str(project))
    assert {path.parent for path in project.rglob("SKILL.md")} == {
        skill_of(project, "roo"), skill_of(project, "qwen-code"),
    }  # fmt: skip


def test_a_skill_for_all_projects_of_a_user_answers_from_any_folder(
    render: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))
    status, _, _ = render("--agent", "claude", "--agent", "crush", "--global")
    assert status == render_skill.DONE
    assert (home / "settings/crush/skills/backend-architecture/search.py").is_file()
    skill = home / ".claude/skills/backend-architecture/SKILL.md"
    command = commands(skill.read_text(encoding="utf-8"))[0][1:]
    assert command[0] == "~/.claude/skills/backend-architecture/search.py"
    line = f"{shlex.quote(sys.executable)} {command[0]} jwt"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == search.FOUND


def test_an_agent_without_skills_gets_a_rule_that_points_at_one(render: Run, project: Path) -> None:
    render("--agent", "amazon-q", "--into", str(project))
    rule = (project / ".amazonq/rules/backend-architecture.md").read_text(encoding="utf-8")
    assert "## How to Use This Rule" in rule
    script = commands(rule.replace("<task>", "task"))[0][1]
    assert (project / script).is_file()
    (project / ".amazonq/rules/backend-architecture.md").write_text("mine", encoding="utf-8")
    assert render("--agent", "amazon-q", "--into", str(project))[0] == render_skill.BROKEN


def test_uninstalling_removes_only_what_was_installed(render: Run, project: Path) -> None:
    (project / ".claude").mkdir()
    (project / ".claude" / "settings.json").write_text("{}", encoding="utf-8")
    (project / ".roo").mkdir()
    before = sorted(project.rglob("*"))
    agents = ("--agent", "claude", "--agent", "roo", "--agent", "amazon-q", "--agent", "posit-assistant")
    render(*agents, "--into", str(project))
    mine = skill_of(project) / "notes.md"
    mine.write_text("mine", encoding="utf-8")
    _, out, _ = render("--uninstall", "--into", str(project), "--dry-run")
    assert "would remove" in out and (skill_of(project) / "search.py").is_file()
    status, out, err = render("--uninstall", "--into", str(project))
    assert (status, err) == (render_skill.DONE, "")
    assert f"left alone {mine}" in out
    mine.unlink()
    mine.parent.rmdir()
    mine.parent.parent.rmdir()
    assert [path for path in sorted(project.rglob("*")) if path.name != ".amazonq"] == before
    assert render("--uninstall", "--into", str(project))[1] == "nothing of ours is there\n"


def test_installing_twice_changes_nothing(render: Run, project: Path) -> None:
    render("--agent", "claude", "--into", str(project))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in project.rglob("*") if path.is_file()}
    status, out, _ = render("--agent", "claude", "--into", str(project))
    assert status == render_skill.DONE
    assert "wrote" not in out
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(render: Run, project: Path) -> None:
    status, out, _ = render("--agent", "gemini", "--into", str(project), "--dry-run")
    assert status == render_skill.DONE
    assert f"would write {skill_of(project, 'gemini-cli') / 'SKILL.md'}" in out
    assert list(project.iterdir()) == []


def test_an_update_mends_our_files_drops_those_that_went_and_keeps_the_users(render: Run, project: Path) -> None:
    render("--agent", "claude", "--into", str(project))
    skill = skill_of(project)
    fresh = tree(skill)
    (skill / "search.py").write_text("broken", encoding="utf-8")
    (skill / "data" / "domains" / "old.csv").write_text("ID,Name\na,Old\n", encoding="utf-8")
    (skill / "notes.md").write_text("mine", encoding="utf-8")
    manifest = json.loads((skill / render_skill.MANIFEST).read_text(encoding="utf-8"))
    manifest["files"] += ["data/domains/old.csv", "../../../outside.txt"]
    (skill / render_skill.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    (project / "outside.txt").write_text("keep", encoding="utf-8")
    status, out, _ = render("--agent", "claude", "--into", str(project))
    assert status == render_skill.DONE
    assert tree(skill) == {**fresh, "notes.md": b"mine"}
    assert (project / "outside.txt").exists()
    assert f"removed {skill / 'data/domains/old.csv'}" in out
    assert f"left alone {skill / 'notes.md'}" in out


def test_a_folder_that_something_else_made_is_not_touched_without_force(render: Run, project: Path) -> None:
    skill = skill_of(project)
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("somebody's own", encoding="utf-8")
    status, out, err = render("--agent", "gemini", "--agent", "claude", "--into", str(project))
    assert (status, out) == (render_skill.BROKEN, "")
    assert "was not made by render_skill.py" in err
    assert "--force" in err
    assert tree(project) == {f"{skill.relative_to(project)}/SKILL.md": b"somebody's own"}
    assert render("--agent", "claude", "--into", str(project), "--force")[0] == render_skill.DONE
    assert (skill / "search.py").is_file()


def test_a_linked_skill_folder_is_refused_even_with_force(render: Run, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    skill_of(project).parent.mkdir(parents=True)
    skill_of(project).symlink_to(elsewhere, target_is_directory=True)
    status, _, err = render("--agent", "claude", "--into", str(project), "--force")
    assert status == render_skill.BROKEN
    assert "is a link" in err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent", "claud", "--into", "."], "did you mean claude?"),
        (["--agent", "claude"], "expected --into DIR"),
        (["--agent", "claude", "--into", ".", "--global"], "expected --into DIR"),
        (["--agent", "eve", "--global"], "no folder for its user's skills"),
        (["--agent", "claude", "--into", "nowhere/at/all"], "no folder nowhere/at/all"),
        (["--into", "."], "go with --agent"),
        (["--check", "--list"], "at once"),
    ],
)
def test_wrong_usage_gets_one_message_that_says_what_to_type(render: Run, arguments: list[str], message: str) -> None:
    status, out, err = render(*arguments)
    assert (status, out) == (render_skill.USAGE, "")
    assert message in err


def test_the_list_names_each_agents_folder_readers_and_documentation(render: Run) -> None:
    _, out, _ = render("--list")
    for agent in render_skill.agents().values():
        assert agent.name in out
        assert agent.project in out
        assert agent.user in out
        assert agent.documentation.startswith("https://")
        assert agent.documentation in out


def test_it_runs_as_a_script_from_another_folder(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "render_skill.py"), "--check"], cwd=tmp_path, check=False)
    assert done.returncode == render_skill.DONE


def test_a_csv_of_the_users_own_is_searched_after_an_update_without_rank_bm25(
    render: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render("--agent", "claude", "--into", str(project))
    own = skill_of(project) / "data" / "domains" / "team.csv"
    own.write_text("ID,Name\nzebra,Zebra crossing of the frobnicator\n", encoding="utf-8")
    for hidden in (False, True):
        if hidden:
            monkeypatch.setitem(sys.modules, "rank_bm25", None)
        (skill_of(project) / "data" / "index.tsv").unlink()
        assert render("--agent", "claude", "--into", str(project))[0] == render_skill.DONE
        command = [*PLAIN, str(skill_of(project) / "search.py"), "frobnicator zebra", "--json"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (search.FOUND, "")
        assert json.loads(done.stdout)["results"][0]["ref"] == "team/zebra"
    own.write_text("ID,Title\na,b\n", encoding="utf-8")
    before = tree(project)
    status, _, err = render("--agent", "claude", "--into", str(project))
    assert status == render_skill.BROKEN
    assert "team.csv" in err
    assert tree(project) == before


def test_an_interrupted_install_is_resumed(render: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = Path.write_bytes, [4]

    def full(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        status, _, err = render("--agent", "claude", "--into", str(project))
    assert status == render_skill.BROKEN
    assert "No space left on device" in err
    assert "None" not in err
    assert not list(project.rglob("*.tmp"))
    assert render("--agent", "claude", "--into", str(project))[0] == render_skill.DONE
    assert (skill_of(project) / "search.py").is_file()


def test_two_agents_whose_folders_are_one_are_installed_once(render: Run, project: Path) -> None:
    (project / ".agents" / "skills").mkdir(parents=True)
    (project / ".claude").mkdir()
    (project / ".claude" / "skills").symlink_to(project / ".agents" / "skills", target_is_directory=True)
    arguments = ("--agent", "claude", "--agent", "codex", "--into", str(project))
    status, out, _ = render(*arguments)
    assert status == render_skill.DONE
    assert out.count("(read by ") == 1
    assert out.count("Claude Code") == out.count("Codex") == 1
    before = tree(project)
    assert "wrote" not in render(*arguments)[1]
    assert tree(project) == before


def test_an_installed_skill_says_where_to_check_and_rebuild(render: Run, project: Path) -> None:
    render("--agent", "claude", "--into", str(project))
    script = skill_of(project) / "search.py"
    for option in ("--check", "--reindex"):
        done = subprocess.run([*PLAIN, str(script), option], capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == search.USAGE
        assert "clone" in done.stderr
    (skill_of(project) / "data" / "domains" / "api.csv").write_text("ID,Name\na,b\n", encoding="utf-8")
    done = subprocess.run([*PLAIN, str(script), "jwt"], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == search.BROKEN
    assert "--reindex --data" in done.stderr


def test_a_skill_cloned_with_other_line_ends_answers(render: Run, project: Path) -> None:
    render("--agent", "claude", "--into", str(project))
    assert (skill_of(project) / ".gitattributes").read_text(encoding="utf-8") == render_skill.GIT_ATTRIBUTES
    for path in skill_of(project).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    command = [*PLAIN, str(skill_of(project) / "search.py"), "jwt"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (search.FOUND, "")


def test_the_weights_without_rank_bm25_are_the_same() -> None:
    from maintain import build

    assert build.index_bytes(search.DATA, build.plain_scores) == build.index_bytes(search.DATA)

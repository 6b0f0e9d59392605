#!/usr/bin/env python3
"""Render the skill file from SKILL.md.tmpl, and install the skill where an agent looks for it."""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import functools
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

if __package__:
    from backend_architecture import search  # installed
else:
    import search  # run as a script

HELP = """Render the skill file from SKILL.md.tmpl, and install the skill where an agent looks for it.

  render_skill.py                                  write SKILL.md and the manifests of this repository
  render_skill.py --check                          say whether they are up to date
  render_skill.py --list                           the agents, their folders, and where that is documented
  render_skill.py --agent claude --into ../shop    install the whole skill in a project
  render_skill.py --agent auto --into ../shop      the same for every agent whose folders are there
  render_skill.py --agent codex --global           install it for yourself, in all your projects
  render_skill.py --uninstall --into ../shop       remove what was installed, and nothing else
  render_skill.py --zip backend-architecture.skill write the whole skill as one file
  render_skill.py --template FILE                  render any template to standard output

exit status: 0 done, 1 out of date, 2 wrong usage, 3 a template or a folder cannot be used
"""

DONE, OUT_OF_DATE, USAGE, BROKEN = 0, 1, 2, 3  # exit statuses

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE / "SKILL.md.tmpl"
AGENTS = HERE / "templates" / "agents.csv"
RULE = HERE / "templates" / "RULE.md.tmpl"
PARTIALS = HERE / "templates" / "partials"
MANIFEST = "installed-files.json"  # lists what was installed, and marks a folder as ours
OLD_MANIFEST = ".render_skill.json"  # as it was called up to version 1.0.0
# Index and CSV files are read by byte places, which line ends changed by git would move.
GIT_ATTRIBUTES = "* -text\n"

NAME = "backend-architecture"  # the Agent Skills specification wants the folder to have the same name
DESCRIPTION = (
    "Backend playbooks, code tested under faults, sourced numbers and version changes. Architecture, databases, "
    "security, scaling, APIs, messaging, caching, monitoring; Node.js, Python, Go, Java, Rust, .NET. Use when "
    "designing, building, reviewing or repairing a backend: lost events, timeouts, locks, double charges."
)
SUMMARY = "Whole tasks, code that was run while things failed, checks, and facts that were read in their source."
COMPATIBILITY = "Needs Python 3.9 or newer; no packages, no network."
OWN_DATA = re.compile(r"data/(domains|stacks|playbooks)/[^.~/][^/]*\.csv")  # of the user's, below a skill's folder
PLACEHOLDER = re.compile(r"<<\s*(\w+)\s*>>|\{\{\s*(\w+)\s*\}\}")


class Agent(NamedTuple):
    """One target: a line of templates/agents.csv.

    Folders are relative to the project, or start with `~` or `${VARIABLE:-~/folder}`.
    """

    key: str
    name: str
    other_names: list[str]
    project: str  # where it looks in a project
    user: str  # and for its user in all projects, or nothing
    also_reads: list[str]  # folders of others
    rule: str  # the file that points at the skill, for an agent that knows no skills
    there: list[str]  # any of these says that the agent is used here
    documentation: str

    def reads(self, user: bool) -> list[str]:
        """The folders in which it finds skills, its own first: of a project, or of its user."""
        others = [folder for folder in self.also_reads if folder.startswith(("~", "$")) is user]
        return [folder for folder in (self.user if user else self.project, *others) if folder]


class RenderError(Exception):
    """Something that the user can mend; carries the message and the exit status."""

    def __init__(self, message: str, status: int = BROKEN) -> None:
        super().__init__(message)
        self.status = status


# ---------------------------------------------------------------- values: each placeholder and what fills it


@functools.cache
def agents() -> dict[str, Agent]:
    """All agents by key, from templates/agents.csv: a line there adds one."""
    with open(AGENTS, encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    lists = [[cell.split("; ") if cell else [] for cell in line] for line in lines]
    return {
        line[0]: Agent(line[0], line[1], many[2], line[3], line[4], many[5], line[6], many[7], line[8])
        for line, many in zip(lines, lists)
    }


def scopes(kind: str) -> list[search.Scope]:
    """The domains or the stacks of the shipped data."""
    return [scope for scope in search.open_index(search.DATA).scopes if scope.kind == kind]


def names(kind: str, mark: str = "`") -> str:
    """The names of the domains or the stacks, in one line."""
    return ", ".join(mark + scope.name + mark for scope in scopes(kind))


def bullet_list(kind: str) -> str:
    """The domains or the stacks as Markdown bullets."""
    return "\n".join(f"- `{scope.name}` - {scope.about}" for scope in scopes(kind))


def domain_table() -> str:
    """The domains as a Markdown table."""
    lines = ["| Domain | Use For | Example Keywords |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{scope.name}` | {scope.about} | {scope.examples} |" for scope in scopes("domain")])


def stack_table() -> str:
    """The stacks as a Markdown table."""
    lines = ["| Stack | Focus |", "|---|---|"]
    return "\n".join(lines + [f"| `{scope.name}` | {scope.examples} |" for scope in scopes("stack")])


def values(script_path: str) -> dict[str, Callable[[], str]]:
    """Each placeholder's name and the function that writes its text."""
    return {
        "TITLE": lambda: "Backend Architecture Knowledge Base",
        "NAME": lambda: NAME,
        "DESCRIPTION": lambda: SUMMARY,
        "OCCASIONS": lambda: DESCRIPTION,
        "DESCRIPTION_YAML": lambda: yaml_string(DESCRIPTION),
        "COMPATIBILITY_YAML": lambda: yaml_string(COMPATIBILITY),
        "GENERATED": lambda: "Generated by render_skill.py: edit SKILL.md.tmpl.",
        "SKILL_OR_WORKFLOW": lambda: "Skill",
        "VERSION": lambda: search.__version__,
        "DATA_DAY": lambda: search.open_index(search.DATA).verified,
        "SCRIPT_PATH": lambda: script_path,
        "SCRIPT_PLACE": lambda: script_place(script_path),
        "COMMANDS_RUN_IN": lambda: commands_run_in(script_path),
        "QUICK_REFERENCE": lambda: partial("quick-reference.md", script_path),
        "DOMAIN_LIST": lambda: bullet_list("domain"),
        "DOMAIN_NAMES": lambda: names("domain", ""),
        "DOMAIN_TABLE": domain_table,
        "STACK_NAMES": lambda: names("stack"),
        "STACK_NAMES_PLAIN": lambda: names("stack", ""),
        "STACK_TABLE": stack_table,
    }


def commands_run_in(script_path: str) -> str:
    """The folder in which commands with that path work."""
    if script_path.startswith(("~", "/")):
        return "any folder"
    if script_path.startswith("../"):
        return "this file's folder"
    return "the project's root" if "/" in script_path else "this file's folder"


def script_place(script_path: str) -> str:
    """Where the script lies, seen from the skill file."""
    above = script_path.count("../")
    return f"lies {above} folders above this file" if above else "lies beside this file"


def yaml_string(text: str) -> str:
    """The text as a YAML scalar, whatever it holds: JSON strings are YAML (YAML 1.2.2, section 1.3)."""
    return json.dumps(" ".join(text.split()), ensure_ascii=False)


def partial(name: str, script_path: str) -> str:
    """A partial of templates/partials, rendered."""
    path = PARTIALS / name
    return render(read(path), values(script_path), str(path)).rstrip("\n")


# ---------------------------------------------------------------- rendering


def read(path: Path) -> str:
    """A text file's content; RenderError when it cannot be had."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RenderError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")


def render(template: str, filling: dict[str, Callable[[], str]], origin: str) -> str:
    """The template with every <<NAME>> and {{NAME}} filled.

    What fills a placeholder is not looked at again, so a value may hold such marks itself.
    RenderError names every placeholder that nothing fills, with its line.
    """
    faults, texts = [], {}
    for number, line in enumerate(template.splitlines(), 1):
        for match in PLACEHOLDER.finditer(line):
            name = match.group(1) or match.group(2)
            if name not in filling:
                near = difflib.get_close_matches(name.upper(), filling, 1)
                hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(sorted(filling))
                faults.append(f"{origin} line {number}: nothing fills {match.group()}: {hint}")
                continue
            if name not in texts:
                texts[name] = filling[name]()
            if not texts[name].strip():
                faults.append(f"{origin} line {number}: {match.group()} is empty: expected some text")
    if faults:
        raise RenderError("\n".join(faults))
    return PLACEHOLDER.sub(lambda match: texts[match.group(1) or match.group(2)], template)


def skill_text(script_path: str) -> str:
    """The skill file for a script at that path."""
    return render(read(TEMPLATE), values(script_path), str(TEMPLATE))


# ---------------------------------------------------------------- installing


class Target(NamedTuple):
    """A folder that gets the skill: its path, the path of its script in commands, and who finds it there."""

    folder: Path
    script_path: str
    readers: list[str]
    rules: dict[Path, bytes]  # files for agents that know no skills, which point at the folder


class Plan(NamedTuple):
    """What an installation into one folder will do, decided before anything is touched."""

    folder: Path
    readers: list[str]
    write: dict[Path, bytes]
    same: list[Path]
    remove: list[Path]
    keep: list[Path]
    leave: Sequence[Path] = ()  # folders to remove when they are empty in the end, the deepest first


def expanded(folder: str, root: Path) -> Path:
    """The folder of an agent as a path: `~`, `${VARIABLE:-folder}`, or below the project's root."""
    match = re.fullmatch(r"\$\{(\w+):-([^}]+)\}(.*)", folder)
    if match:
        folder = (os.environ.get(match[1], "").strip() or match[2]) + match[3]
    return Path(folder).expanduser() if folder.startswith(("~", "/")) else root / folder


def readers_of(folder: str, user: bool) -> list[str]:
    """The names of the agents that find skills in a folder."""
    return [each.name for each in agents().values() if folder in each.reads(user) and not each.rule]


def is_there(agent: Agent, root: Path, user: bool) -> bool:
    """Whether the agent is used in the project (its folder is there), or by the user."""
    return any(expanded(mark, root).exists() for mark in agent.there if not user or mark.startswith(("~", "$", "/")))


def targets(wanted: list[Agent], root: Path, user: bool) -> list[Target]:
    """The folders that serve the agents, as few as will do, so that no client lists the skill twice for want of care.

    An agent gets the folder where it has the skill already; else its own, unless it reads one that another needs.
    """
    folders: list[str] = []
    for agent in sorted(wanted, key=lambda each: len(each.reads(user))):
        reads = agent.reads(user)
        if not reads:
            raise RenderError(f"{agent.name} has no folder for its user's skills: type --into DIR for a project", USAGE)
        ours = [each for each in reads if installed_files(expanded(each, root) / NAME) is not None]
        if not set(folders) & set(reads):
            folders.append((ours or reads)[0])
    found: dict[Path, Target] = {}
    for folder in folders:
        path = expanded(folder, root) / NAME
        script = f"{path.as_posix()}/search.py" if user else f"{folder}/{NAME}/search.py"
        home = Path.home().as_posix()
        script = "~" + script[len(home) :] if script.startswith(home + "/") else script
        served = [each for each in wanted if each.rule and folder in each.reads(user)]
        rules = {root / each.rule: rule_text(script).encode("utf-8") for each in served}
        readers = readers_of(folder, user) + [each.name for each in served]
        first = found.get(path.resolve())  # of a folder that is a link to another
        if first:
            readers = list(dict.fromkeys([*first.readers, *readers]))
            path, script, rules = first.folder, first.script_path, {**first.rules, **rules}
        found[path.resolve()] = Target(path, script, readers, rules)
    return list(found.values())


def rule_text(script_path: str) -> str:
    """What an agent that knows no skills reads: when to look, and where."""
    filling = {**values(script_path), "SKILL_OR_WORKFLOW": lambda: "Rule"}
    return render(read(RULE), filling, str(RULE))


def check_files() -> list[Path]:
    """The checks of code and of running servers, without tests and specimens."""
    found = [path for path in sorted((HERE / "checks").rglob("*")) if path.suffix in (".yml", ".sql", ".awk")]
    return [path for path in found if "specimens" not in path.parts]


def copied_files() -> list[Path]:
    """What a skill and the wheel carry beside the data: the recipes without their tests, and the checks."""
    folders = [HERE / "recipes" / ref[len(search.RECIPE) :] for ref in search.recipe_names(search.DATA)]
    return [folder / name for folder in folders for name in search.recipe_files(str(folder))] + check_files()


@functools.cache
def shared_files() -> dict[str, bytes]:
    """The files that are the same in every installed skill, read once for all folders that get one."""
    files = {"search.py": (HERE / "search.py").read_bytes()}
    for path in sorted((HERE / "data").rglob("*")):
        if path.suffix in (".csv", ".tsv") and path.name != "releases.csv":  # that one is for maintain/freshness.py
            files[path.relative_to(HERE).as_posix()] = path.read_bytes()
    for path in copied_files():
        files[path.relative_to(HERE).as_posix()] = path.read_bytes()
    return {**files, ".gitattributes": GIT_ATTRIBUTES.encode("utf-8")}


def skill_files(script_path: str, made: int = 0) -> dict[str, bytes]:
    """Every file of an installed skill: its path inside the skill's folder, and its bytes.

    `made` is how many folders above the skill's were not there before it.
    """
    files = {"SKILL.md": skill_text(script_path).encode("utf-8"), **shared_files()}
    listing = {"made by": "render_skill.py", "folders made above": made, "files": sorted(files)}
    files[MANIFEST] = (json.dumps(listing, indent=2) + "\n").encode("utf-8")
    return files


def plan(target: Target, force: bool) -> Plan:
    """The Plan for one folder; RenderError where it is not ours to write."""
    folder = target.folder
    ours = installed_files(folder)
    made = folders_made(folder) if ours else sum(not parent.exists() for parent in folder.parents)
    files = skill_files(target.script_path, made)
    if ours is None and not force and (folder.is_symlink() or folder.exists()):
        raise RenderError(
            f"{folder} was not made by render_skill.py: nothing was written. "
            "Move it away, or add --force to overwrite the files that the skill has."
        )
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise RenderError(f"{folder} is a link or a file: nothing was written. Move it away.")
    for path in target.rules:
        if path.exists() and not is_our_rule(path) and not force:
            raise RenderError(f"{path} was not made by render_skill.py: nothing was written. Move it away, or --force.")
    gone = [folder / name for name in sorted(set(ours or ()) - set(files)) if (folder / name).is_file()]
    wanted = {folder / name for name in files}
    there = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    keep = [path for path in there if path not in wanted and path not in gone]
    own = {path.relative_to(folder).as_posix(): path for path in keep}
    own = {name: path for name, path in own.items() if OWN_DATA.fullmatch(name)}
    if own:
        files["data/index.tsv"] = index_with(files, own)
    paths = {**{folder / name: content for name, content in files.items()}, **target.rules}
    write = [(path, content) for path, content in paths.items() if not holds(path, content)]
    write.sort(key=lambda each: each[0].name != MANIFEST)  # first, so that an interrupted run can be resumed
    writes = {path for path, _ in write}
    return Plan(folder, target.readers, dict(write), sorted(set(paths) - writes), gone, keep)


def removal(folder: Path, readers: list[str], rules: list[Path]) -> Plan:
    """The Plan that takes away what was installed into one folder, and the rules of ours that point at it."""
    ours = [folder / name for name in installed_files(folder) or []]
    remove = [path for path in ours if path.is_file() or path.is_symlink()]
    keep = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    rules = [path for path in rules if is_our_rule(path)]
    within = {each for path in remove for each in path.parents if folder in (each, *each.parents)}
    above = folder.parents[: folders_made(folder)]
    leave = [*(path.parent for path in rules), *sorted(within, reverse=True), *above]
    return Plan(folder, readers, {}, [], remove + rules, sorted(set(keep) - set(remove)), leave)


def is_our_rule(path: Path) -> bool:
    """Whether a rule's file was written by this program."""
    try:
        return values("")["GENERATED"]().partition(":")[0] in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def index_with(files: dict[str, bytes], own: dict[str, Path]) -> bytes:
    """The index over the skill's files and the user's own; RenderError where those cannot be used."""
    build = search.maintain("build")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in [*files.items(), *((name, path.read_bytes()) for name, path in own.items())]:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        data = str(Path(folder, "data"))
        try:
            raw: bytes = build.index_bytes(data)
        except ImportError:  # the same weights without rank-bm25
            raw = build.index_bytes(data, build.plain_scores)
        except search.DataError as error:
            raise RenderError(f"{error}\nThe index over your own {', '.join(own)} was not made; nothing was written.")
    return raw


def installed_files(folder: Path) -> list[str] | None:
    """What a former run put into the folder, as its manifest says; None when there was none."""
    for manifest in (MANIFEST, OLD_MANIFEST):
        try:
            listed = json.loads((folder / manifest).read_text(encoding="utf-8"))["files"]
            # A path that leads out of the folder is not one that was written there.
            inside = [name for name in listed if ".." not in Path(name).parts and not Path(name).is_absolute()]
            return [*inside, manifest]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def folders_made(folder: Path) -> int:
    """How many folders above the skill's were made for it, as its manifest says."""
    try:
        return int(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["folders made above"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def holds(path: Path, content: bytes) -> bool:
    """Whether a real file is there with that content."""
    try:
        return not path.is_symlink() and path.read_bytes() == content
    except OSError:
        return False


def carry_out(plans: list[Plan]) -> None:
    """Write and remove what the plans say, each file in one step; RenderError naming what could not be written."""
    for each in plans:
        for path, content in each.write.items():
            temporary = path.with_name(path.name + ".tmp")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
                temporary.replace(path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise RenderError(f"{path} cannot be written ({error.strerror}): mend that and type the same again")
        for path in each.remove:
            path.unlink()
        for folder in each.leave:
            shutil.rmtree(folder / "__pycache__", ignore_errors=True)
            with contextlib.suppress(OSError):  # it holds something that is not ours
                folder.rmdir()


def report(plans: list[Plan], dry_run: bool) -> str:
    """Every path written, left alone or removed, and who reads the skill there."""
    wrote, removed = ("would write", "would remove") if dry_run else ("wrote", "removed")
    lines = []
    for each in plans:
        lines.append(f"{each.folder} (read by {', '.join(each.readers)})")
        lines += [f"  {wrote} {path}" for path in each.write]
        lines += [f"  {removed} {path}" for path in each.remove]
        lines += [f"  up to date {path}" for path in each.same]
        lines += [f"  left alone {path} (not part of the skill)" for path in each.keep]
    readers = [reader for each in plans for reader in each.readers]
    twice = sorted({reader for reader in readers if readers.count(reader) > 1})
    if twice and not any(each.remove for each in plans):
        lines.append(f"note: {', '.join(twice)} may show the skill more than once: each reads several of these folders")
    return "\n".join(lines)


# ---------------------------------------------------------------- command line


def repository_files() -> dict[str, bytes]:
    """What this program writes into the repository itself: the skill file, and what plugin systems look for."""
    sys.modules.setdefault("render_skill", sys.modules[__name__])  # run as a script, this is __main__
    found: dict[str, bytes] = search.maintain("manifests").files()
    return {"SKILL.md": skill_text("search.py").encode("utf-8"), **found}


def repository_skill(check: bool) -> tuple[str, int]:
    """Write the files of the repository, or with `check` compare them; returns (report, status)."""
    if not (HERE / "pyproject.toml").exists():
        raise RenderError(
            "this is no clone of the repository: type --agent NAME --into DIR to install the skill", USAGE
        )
    lines, status = [], DONE
    for name, content in repository_files().items():
        path = HERE / name
        if holds(path, content):
            lines.append(f"{path} is up to date")
        elif check:
            there = read(path).splitlines() if path.exists() else []
            wanted = content.decode("utf-8").splitlines()
            lines += difflib.unified_diff(there, wanted, name, "rendered", lineterm="")
            lines.append(f"{path} is out of date: type python3 render_skill.py")
            status = OUT_OF_DATE
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            lines.append(f"wrote {path}")
    return "\n".join(lines), status


def write_archive(name: str) -> tuple[str, int]:
    """Write the skill as one file that clients can be given; the same bytes each time. Returns (report, status)."""
    path = Path(name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for inside, content in skill_files("search.py").items():
            entry = zipfile.ZipInfo(f"{NAME}/{inside}")  # of the first day that the format knows, and not of today
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return f"wrote {path} ({path.stat().st_size:,} bytes)", DONE


def chosen(wanted: list[str], root: Path, user: bool) -> list[Agent]:
    """The agents asked for; RenderError for a name that is none, and where `auto` finds none."""
    known = agents()
    called = {name: each for each in known.values() for name in (each.key, *each.other_names)}
    found = {}
    for name in wanted:
        if name in ("all", "auto"):
            each = [agent for agent in known.values() if name == "all" or is_there(agent, root, user)]
            each = [agent for agent in each if agent.reads(user)]
            if not each:
                where = "your home" if user else f"{search.printable(str(root))} or your home"
                raise RenderError(f"--agent auto: no agent's folder is in {where}: name one, see --list", USAGE)
            found.update({agent.key: agent for agent in each})
        elif name in called:
            found[called[name].key] = called[name]
        else:
            near = difflib.get_close_matches(name, called, 1)
            hint = f"did you mean {near[0]}?" if near else "expected auto, all or one of those that --list shows"
            raise RenderError(f"no agent {search.printable(name)!r}: {hint}", USAGE)
    return list(found.values())


def install(options: argparse.Namespace) -> tuple[str, int]:
    """Install the skill for the agents asked for, or remove it; returns (report, status)."""
    user = bool(options.user)
    if bool(options.into) is user:
        raise RenderError("expected --into DIR, a project's root such as --into ., or --global for yourself", USAGE)
    root = Path.home() if user else Path(options.into)
    if not root.is_dir():
        raise RenderError(f"no folder {search.printable(str(root))}: expected the root of a project", USAGE)
    wanted = chosen(options.agent or ["all"], root, user)
    if options.uninstall:
        plans = removals(wanted, root, user)
    else:
        plans = [plan(target, options.force) for target in targets(wanted, root, user)]
    if not options.dry_run:
        carry_out(plans)
    return report(plans, options.dry_run) or "nothing of ours is there", DONE


def removals(wanted: list[Agent], root: Path, user: bool) -> list[Plan]:
    """The Plans that take the skill away from the agents, each folder that has it once."""
    found = {}
    for agent in wanted:
        for folder in agent.reads(user)[: None if len(wanted) > 1 else 1]:
            path = expanded(folder, root) / NAME
            if installed_files(path) is not None:
                rules = [root / each.rule for each in wanted if each.rule and folder in each.reads(user)]
                found[path.resolve()] = removal(path, readers_of(folder, user), rules)
    return list(found.values())


def agent_list() -> str:
    """The agents by the folder of a project that each reads first, then where that is documented."""
    lines = []
    for agent in agents().values():
        also = [f"also reads {', '.join(agent.also_reads)}"] * bool(agent.also_reads)
        rule = [f"by a rule, {agent.rule}"] * bool(agent.rule)
        where = "; ".join([f"{agent.project}/{NAME}", *([agent.user] * bool(agent.user)), *also, *rule])
        lines.append(f"{', '.join([agent.key, *agent.other_names]):<24} {agent.name}: {where}")
        lines.append(f"{'':<24} {agent.documentation}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    intro, _, ending = HELP.partition("\nexit status")
    result = argparse.ArgumentParser(
        prog="render_skill.py", description=intro, epilog="exit status" + ending, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = result.add_argument
    add("--check", action="store_true", help="compare SKILL.md with the template, write nothing")
    add("--list", action="store_true", help="list the agents")
    add("--agent", action="append", metavar="NAME", help="install for this agent, or auto, or all (repeatable)")
    add("--into", metavar="DIR", help="the root of the project that gets the skill")
    add("--global", action="store_true", dest="user", help="in place of --into: for yourself, in all projects")
    add("--uninstall", action="store_true", help="remove what was installed for these agents, or for all")
    add("--zip", metavar="FILE", help="write the whole skill into an archive")
    add("--template", metavar="FILE", help="render this template to standard output")
    add("--dry-run", action="store_true", help="with --agent: say what would be written or removed")
    add("--force", action="store_true", help="with --agent: overwrite a folder made by something else")
    return result


def run(options: argparse.Namespace) -> tuple[str, int]:
    """Do what the options ask for; returns (text for standard output, exit status)."""
    install_or_remove = options.agent or options.uninstall
    asked = [name for name in ("check", "list", "agent", "zip", "template") if getattr(options, name)]
    if len(asked) > 1:
        raise RenderError(f"--{' and --'.join(asked)} at once: expected one of them", USAGE)
    if not install_or_remove and (options.into or options.user or options.dry_run or options.force):
        raise RenderError("--into, --global, --dry-run and --force go with --agent NAME; see --list for names", USAGE)
    if options.list:
        return agent_list(), DONE
    if options.zip:
        return write_archive(options.zip)
    if options.template:
        path = Path(options.template)
        return render(read(path), values("search.py"), str(path)).rstrip("\n"), DONE
    return install(options) if install_or_remove else repository_skill(options.check)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Every error becomes one message on stderr."""
    search.use_utf8()
    try:
        text, status = run(parser().parse_args(arguments))
        print(text, flush=True)
        return status
    except RenderError as error:
        print(f"render_skill.py: {error}", file=sys.stderr)
        return error.status
    except search.DataError as error:
        print(f"render_skill.py: {error}", file=sys.stderr)
        return BROKEN
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        print(f"render_skill.py: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return BROKEN


def console() -> None:
    """The command that the package installs."""
    sys.exit(main())


if __name__ == "__main__":
    console()

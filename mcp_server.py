#!/usr/bin/env python3
"""Answer over the Model Context Protocol, for agents without a shell: tools search, show, list; playbooks as prompts.

    backend-architecture-mcp            speaks the protocol on standard input and output

It needs the package `mcp` (pip install 'backend-architecture[mcp]'). What the tools give is the JSON of
`search.py --json`, asked anew for each call, so that a changed index is seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:
    sys.exit("backend-architecture-mcp: the package mcp 2 is missing: pip install 'backend-architecture[mcp]'")

if __package__:
    from backend_architecture import search as engine  # installed
else:
    import search as engine  # run as a script

INSTRUCTIONS = (
    "Curated, sourced answers to backend questions. Get the playbook for a whole task (prompts, or `search` with "
    "playbook=true), draft from what you know, then ask `search` about the numbers, defaults, versions and library "
    "behaviour that you doubt, and `show` for whole rows and for recipes: code that was run while things failed."
)
server = MCPServer("backend-architecture", instructions=INSTRUCTIONS, version=engine.__version__, log_level="WARNING")


def asked(*arguments: str) -> Any:
    """What the command line would print as JSON; ToolError with its message for bad input and broken data."""
    try:
        return json.loads(engine.run(["--json", *arguments]).text)
    except (engine.UsageError, engine.DataError) as error:
        raise ToolError(str(error)) from error


@server.tool()
def search(
    question: str,
    domains: list[str] | None = None,
    stacks: list[str] | None = None,
    limit: int = 3,
    playbook: bool = False,
) -> dict[str, Any]:
    """The best rows for a backend question: keywords, an error message, a log.

    domains: any of architecture, database, security, scaling, api, messaging, caching, monitoring; stacks: any of
    node, python, go, java, rust, dotnet; without either, everything. playbook: the playbook for a whole task instead.
    """
    if question.strip() == "-":  # the command line would read standard input, which is the protocol's here
        raise ToolError("no question: expected keywords, such as jwt expiry")
    if playbook:
        answer: dict[str, Any] = asked("--playbook", question)
        return answer
    scopes = [f"--domain={name}" for name in domains or []] + [f"--stack={name}" for name in stacks or []]
    answer = asked(*scopes, "-n", str(limit), "-q", question)
    return answer


@server.tool()
def show(references: list[str]) -> dict[str, Any]:
    """Whole rows, playbooks and recipes by reference, such as messaging/transactional-outbox or recipe/outbox-relay."""
    if not references:
        raise ToolError("no reference: expected such as messaging/transactional-outbox")
    answer: dict[str, Any] = asked("--show", "--", *references)
    return answer


@server.tool(name="list")
def list_what_is_there(scopes: list[str] | None = None) -> dict[str, Any]:
    """The domains, stacks and kinds of playbooks; with names of some (or "recipe"), what is in them by reference."""
    return {"entries": asked("--list", "--", *(scopes or []))}


def prompt_of(ref: str) -> Callable[[], str]:
    """A prompt that holds a playbook whole."""

    def text() -> str:
        return engine.run(["--show", ref]).text

    return text


def add_playbooks() -> None:
    """Offer each playbook as a prompt."""
    kinds = [each["name"] for each in asked("--list") if each["kind"] == "playbook"]
    for each in asked("--list", *kinds) if kinds else []:
        server.prompt(name=each["ref"].replace("/", "-"), title=each["name"])(prompt_of(each["ref"]))


def console() -> None:
    """The command that the package installs."""
    add_playbooks()
    server.run("stdio")


if __name__ == "__main__":
    console()

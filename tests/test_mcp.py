"""The server for agents without a shell, asked by the protocol's own client over standard input and output."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

import search

from .conftest import ROOT

pytest.importorskip("mcp.server.mcpserver", reason="the package mcp, version 2, is not installed")
mcp = pytest.importorskip("mcp")
COMMAND = mcp.StdioServerParameters(command=sys.executable, args=[str(ROOT / "mcp_server.py")])


def called(*calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What the tools give, each as the object of the command line, or as the text of its error."""

    async def talk() -> list[Any]:
        async with mcp.Client(COMMAND) as client:
            results = [await client.call_tool(name, arguments) for name, arguments in calls]
        return [each.content[0].text if each.is_error else each.structured_content for each in results]

    return asyncio.run(talk())


def printed(*arguments: str) -> Any:
    return json.loads(search.run([*arguments, "--json"]).text)


def test_the_tools_give_what_the_command_line_prints() -> None:
    answers = called(
        ("search", {"question": "jwt expiry", "domains": ["auth"], "stacks": ["go"], "limit": 2}),
        ("search", {"question": "add a required column to a huge table", "playbook": True}),
        ("show", {"references": ["messaging/transactional-outbox", "recipe/outbox-relay", "api/nothing"]}),
        ("list", {"scopes": ["api", "recipe"]}),
    )
    assert answers[0] == printed("jwt expiry", "--domain", "auth", "--stack", "go", "-n", "2")
    assert answers[1] == printed("--playbook", "add a required column to a huge table")
    assert answers[2] == printed("--show", "messaging/transactional-outbox", "recipe/outbox-relay", "api/nothing")
    assert answers[3]["entries"] == printed("--list", "api", "recipe")


def test_bad_input_is_answered_with_the_message_of_the_command_line() -> None:
    answers = called(
        ("search", {"question": "jwt", "domains": ["dtabase"]}),
        ("search", {"question": "-"}),
        ("search", {"question": "jwt", "limit": 0}),
        ("show", {"references": []}),
        ("search", {"question": "--help"}),
    )
    assert "nearest is database" in answers[0]
    assert "no question" in answers[1]
    assert "expected a whole number from 1" in answers[2]
    assert "no reference" in answers[3]
    assert answers[4]["query"] == "--help"


def test_playbooks_are_prompts() -> None:
    async def talk() -> tuple[set[str], str]:
        async with mcp.Client(COMMAND) as client:
            names = {each.name for each in (await client.list_prompts()).prompts}
            prompt = await client.get_prompt("change-required-column-on-huge-table")
            return names, prompt.messages[0].content.text

    index = search.open_index(search.DATA)
    refs = {index.row(row)[0] for row in range(index.rows, index.count)}
    names, text = asyncio.run(talk())
    assert names == {ref.replace("/", "-") for ref in refs}
    assert text == search.run(["--show", "change/required-column-on-huge-table"]).text


def test_without_its_package_the_server_says_what_to_install() -> None:
    code = "import sys; sys.modules['mcp'] = None; import runpy; runpy.run_path('mcp_server.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "pip install" in done.stderr

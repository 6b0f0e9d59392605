"""Parse the playbooks' diagrams with Mermaid's own parser, and lock what passed, as maintain/code.py does for code.

    python -m maintain.diagrams      (needs Node.js with npm)

exit status: 0 all passed and locked, 1 some did not
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys

from maintain.code import BUILD, read_lock, write_lock
from maintain.tables import read_table
from search import DATA, checksum

VERSIONS = {"mermaid": "11.17.2", "jsdom": "29.1.1"}
PROGRAM = """
import { JSDOM } from 'jsdom';
globalThis.window = new JSDOM('').window;
globalThis.document = window.document;
const { default: mermaid } = await import('mermaid');
let input = '';
for await (const piece of process.stdin) input += piece;
const faults = {};
for (const [name, text] of Object.entries(JSON.parse(input)))
  await mermaid.parse(text).catch((error) => { faults[name] = String(error); });
console.log(JSON.stringify(faults));
"""


def diagrams() -> dict[tuple[str, str], str]:
    """{reference and column: fenced diagram} of the designs."""
    table = read_table(DATA, "playbooks/design.csv")
    return {
        (f"design/{row}", "Diagram"): text for row, text in zip(table.column("ID"), table.column("Diagram")) if text
    }


def faults(texts: dict[str, str]) -> dict[str, str]:
    """{name: Mermaid's message} of the diagrams that it refuses."""
    build = BUILD / "mermaid"
    build.mkdir(parents=True, exist_ok=True)
    (build / "package.json").write_text(json.dumps({"dependencies": VERSIONS}), encoding="utf-8")
    (build / "parse.mjs").write_text(PROGRAM, encoding="utf-8")
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=build, check=True)
    bare = {name: text.removeprefix("```mermaid\n").removesuffix("```") for name, text in texts.items()}
    done = subprocess.run(
        ["node", "parse.mjs"], cwd=build, input=json.dumps(bare), capture_output=True, encoding="utf-8", check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> int:
    """Parse all, write the lock; returns the exit status."""
    found = diagrams()
    wrong = faults({key[0]: text for key, text in found.items()})
    lock = {key: rest for key, rest in read_lock().items() if key[1] != "Diagram"}
    versions = f"mermaid {VERSIONS['mermaid']}"
    for key, text in found.items():
        if key[0] in wrong:
            print(f"{key[0]}: {wrong[key[0]]}")
        else:
            day = datetime.date.today().isoformat()
            lock[key] = [checksum(text.encode("utf-8")), "parses", versions, day]
    write_lock(lock)
    print(f"{len(found)} diagrams, {len(wrong)} refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

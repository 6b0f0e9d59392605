"""Fetch every source that rows, playbooks and evidence name, and list those that do not answer as they should.

    python -m maintain.links                     all of them (some thousand requests: minutes)
    python -m maintain.links go/ operate/        those of references that start so

A link is sound when it ends, after redirects, in a page with status 200, and when its anchor is in that page. Hosts
that answer no program are left out, with the reason, in LEFT_OUT. It needs a network; nothing else does.

exit status: 0 every link is sound, 1 some are not
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urldefrag, urlsplit

from maintain.evidence import ledger, ledgers
from maintain.tables import shipped_rows

TIMEOUT = 20.0  # seconds for a page
AT_ONCE = 8
LARGEST = 8_000_000  # bytes of a page that are read for its anchor
LEFT_OUT = {
    "doi.org": "publishers behind it refuse programs",
    "dl.acm.org": "refuses programs",
    "www.gnu.org": "answers programs with long pauses",
    "dev.mysql.com": "refuses programs",
    "www.oracle.com": "refuses programs",
    "www.pcisecuritystandards.org": "shows its documents after a form",
    "eur-lex.europa.eu": "builds its pages in the browser",
    "learn.microsoft.com": "limits programs to a few pages a minute; look at its links by hand",
}
# Their pages are built in the browser or name places in another way: lines of a file, a page of a PDF, a text.
NO_ANCHOR = re.compile(r"^(L\d|page=|:~:text=|/)")


def sources(prefixes: Iterable[str]) -> dict[str, list[str]]:
    """{link: the references that name it}, of those that start with one of the prefixes, or of all."""
    wanted = tuple(prefixes)
    found: dict[str, list[str]] = {}
    for ref, fields in shipped_rows():
        for link in filter(None, fields["Source"].split("; ")):
            found.setdefault(link, []).append(ref)
    for name in ledgers():
        for ref, _, source, *_ in ledger(name):
            for link in re.findall(r"https?://[^\s;,)\]]+", source):
                found.setdefault(link.rstrip("."), []).append(ref)
    return {link: refs for link, refs in found.items() if not wanted or any(ref.startswith(wanted) for ref in refs)}


def fetch(link: str) -> tuple[int, str]:
    """(status, text) of a page; status 0 and the reason where there was no answer."""
    request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0 (backend-architecture, link check)"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read(LARGEST).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, ValueError) as error:  # no such host, refused, timed out, no link at all
        return 0, str(error)


def fault(link: str) -> str:
    """What is wrong with a link, or an empty string."""
    page, anchor = urldefrag(link)
    status, text = fetch(page)
    if status == 0:
        return f"no answer ({text})"
    if status != 200:
        return f"status {status}"
    if anchor and not NO_ANCHOR.match(anchor) and text.lstrip()[:1] == "<":
        name = re.escape(unquote(anchor))
        if not re.search(rf"""(?:id|name)\\?=\\?["']?(?:user-content-)?{name}(?:["'\s>\\]|$)""", text):
            return f"no anchor #{anchor}"
    return ""


def left_out(link: str) -> bool:
    """Whether the link's host answers no program."""
    return urlsplit(link).hostname in LEFT_OUT


def faults(links: dict[str, list[str]]) -> Iterator[str]:
    """Yield a line for each link that is not sound, with the references that name it."""
    asked = sorted(link for link in links if not left_out(link))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for link, wrong in zip(asked, pool.map(fault, asked)):
            if wrong:
                yield f"{link}: {wrong} ({', '.join(sorted(set(links[link])))})"


def main() -> int:
    """Print what is not sound; returns the exit status."""
    links = sources(sys.argv[1:])
    found = list(faults(links))
    skipped = sum(map(left_out, links))
    print("\n".join([*found, f"{len(links) - skipped} links fetched, {skipped} left out, {len(found)} not sound"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

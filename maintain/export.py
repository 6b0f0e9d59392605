"""Write rows, playbooks and evidence for a search server or a database, where many more rows than these are kept.

    python -m maintain.export bulk       JSON Lines in the bulk format of OpenSearch and Elasticsearch
    python -m maintain.export mapping    the index they go into: its similarity and analysis, and the question with
                                         the weights of the columns, under _meta.question
    python -m maintain.export postgres   SQL: tables knowledge and evidence, and knowledge_search(question, most)

    python -m maintain.export mapping | curl -X PUT "$URL/backend-architecture" --json @-
    python -m maintain.export bulk | curl "$URL/_bulk" -H 'Content-Type: application/x-ndjson' --data-binary @-
    python -m maintain.export postgres | psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -qf -

exit status: 0 written, 2 wrong usage
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import search
from maintain import evidence
from maintain.tables import DOMAIN_COLUMNS, PLAYBOOK_COLUMNS, STACK_COLUMNS, shipped_rows

INDEX = "backend-architecture"
COLUMNS = list(dict.fromkeys(DOMAIN_COLUMNS + STACK_COLUMNS + PLAYBOOK_COLUMNS))
# PostgreSQL has four labels for words, from A down: the name, the keywords, what else counts, what only finds.
LABELS = {3: "A", 2: "B", 1: "C", 0: "D"}


def field(column: str) -> str:
    """A column's name where blanks and apostrophes are a nuisance: `Use When` is use_when."""
    return column.lower().replace(" ", "_").replace("'", "").replace("-", "_")


def weight(column: str) -> int | None:
    """How much a column's words count; None for one that is not searched."""
    return None if column in search.UNSEARCHED else search.COLUMN_WEIGHTS.get(column, 1)


def documents() -> Iterator[dict[str, object]]:
    """Each row and playbook with its reference, its scope and its claims."""
    claims: dict[str, list[dict[str, str]]] = {}
    for name in evidence.ledgers():
        for ref, *cells in evidence.ledger(name):
            claims.setdefault(ref, []).append(dict(zip(map(str.lower, evidence.COLUMNS[1:]), cells)))
    for ref, fields in shipped_rows():
        yield {
            "ref": ref, "scope": ref.partition("/")[0],
            **{field(column): cell for column, cell in fields.items() if cell}, "evidence": claims.get(ref, []),
        }  # fmt: skip


def bulk() -> Iterator[str]:
    """The lines of a bulk request: an action, then its document."""
    for document in documents():
        yield json.dumps({"index": {"_index": INDEX, "_id": document["ref"]}})
        yield json.dumps(document, ensure_ascii=False)


def mapping() -> dict[str, object]:
    """Settings and mapping: BM25 with this project's constants, English stems; a weight belongs to the question."""
    kinds: dict[str, dict[str, object]] = {name: {"type": "keyword"} for name in ("ref", "scope", "id")}
    weights = {}
    for column in COLUMNS:
        if weight(column) is None:
            kinds.setdefault(field(column), {"type": "text", "index": False})
        else:
            kinds[field(column)] = {"type": "text", "analyzer": "english", "similarity": "as_here"}
            weights[field(column)] = weight(column)
    kinds["verified"] = {"type": "date"}
    kinds["evidence"] = {"type": "object", "enabled": False}
    fields = [f"{name}^{value}" for name, value in weights.items() if value]
    question = {"query": {"multi_match": {"query": "QUESTION", "type": "most_fields", "fields": fields}}, "size": 3}
    similarity = {"as_here": {"type": "BM25", "k1": search.K1, "b": search.B}}
    return {
        "settings": {"index": {"similarity": similarity}},
        "mappings": {"dynamic": "strict", "_meta": {"question": question}, "properties": kinds},
    }


def quoted(text: str) -> str:
    """A string of SQL (standard_conforming_strings is on by default)."""
    return "'" + text.replace("'", "''").replace("\0", "") + "'"


def identifier(name: str) -> str:
    """A name of SQL that may be one of its words, such as do."""
    return f'"{name}"'


def postgres() -> Iterator[str]:
    """Statements that make and fill the tables, in one transaction."""
    searched = [column for column in COLUMNS if weight(column) is not None]
    vector = " || ".join(
        f"setweight(to_tsvector('english', coalesce({identifier(field(column))}, '')), '{LABELS[weight(column) or 0]}')"
        for column in searched
    )
    yield "BEGIN;"
    yield "CREATE TABLE knowledge (ref text PRIMARY KEY, scope text NOT NULL,"
    yield "".join(f"    {identifier(field(column))} text,\n" for column in COLUMNS)
    yield f"    words tsvector GENERATED ALWAYS AS ({vector}) STORED);"
    yield "CREATE INDEX ON knowledge USING gin (words);"
    yield "CREATE TABLE evidence ("
    yield "    ref text NOT NULL REFERENCES knowledge, claim text, source text, checked date, how text);"
    names = ["ref", "scope", *map(field, COLUMNS)]
    for document in documents():
        cells = [quoted(str(document[name])) if document.get(name) else "NULL" for name in names]
        yield f"INSERT INTO knowledge ({', '.join(map(identifier, names))}) VALUES ({', '.join(cells)});"
        for claim in document["evidence"]:  # type: ignore[attr-defined]
            cells = [quoted(cell) for cell in (str(document["ref"]), *claim.values())]
            yield f"INSERT INTO evidence VALUES ({', '.join(cells)});"
    yield "CREATE INDEX ON evidence (ref);"
    # Any word of the question finds a row; the weights stand from D to A, and 1 divides by the logarithm of its length.
    yield """CREATE FUNCTION knowledge_search(question text, most integer DEFAULT 3)
    RETURNS TABLE (ref text, name text, score real) LANGUAGE sql STABLE AS $$
    SELECT k.ref, k.name, ts_rank('{0, 0.33, 0.67, 1}', k.words, q.any_word, 1) AS score
    FROM knowledge k, (SELECT replace(plainto_tsquery('english', question)::text, '&', '|')::tsquery) q (any_word)
    WHERE k.words @@ q.any_word ORDER BY score DESC, k.ref LIMIT most
$$;"""
    yield "COMMIT;"


def main() -> int:
    """Write what is asked for; returns the exit status."""
    kinds = {"bulk": bulk, "postgres": postgres, "mapping": lambda: iter([json.dumps(mapping(), indent=2)])}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        print(f"export: expected one of {', '.join(kinds)}, such as python -m maintain.export bulk", file=sys.stderr)
        return 2
    search.use_utf8()
    for line in kinds[sys.argv[1]]():
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

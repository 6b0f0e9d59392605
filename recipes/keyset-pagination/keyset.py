"""Pages of a list by key, in both directions, with cursors that only this list accepts.

The table and its indexes, one for each order, with the columns that are always compared for equality first:

CREATE TABLE orders (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint      NOT NULL,
    status      text        NOT NULL DEFAULT 'open',
    created_at  timestamptz NOT NULL DEFAULT now(),
    paid_at     timestamptz
);
CREATE INDEX orders_created ON orders (customer_id, created_at, id);
CREATE INDEX orders_paid ON orders (customer_id, coalesce(paid_at, '-infinity'), id);
CREATE INDEX orders_status ON orders (customer_id, status, created_at, id);
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

DEFAULT, MAXIMUM = 50, 1000
# What may be sorted by, never text from the request. A row comparison with NULL is NULL, so rows without a value would
# be on no page: give them one. The text must be that of the index.
ORDERS = {"created": sql.SQL("created_at"), "paid": sql.SQL("coalesce(paid_at, '-infinity')")}


class BadRequest(Exception):
    """Answer 400. For a cursor: it is broken, foreign, or of a list with another order or filter; start again."""


class Page(NamedTuple):
    items: list[dict[str, Any]]
    next: str | None  # None is the only mark of the end; a page may be short, or empty, and have one
    previous: str | None


def _sign(payload: str, scope: str, key: bytes) -> str:
    return hmac.new(key, f"{payload}.{scope}".encode(), hashlib.sha256).hexdigest()[:32]


def _write(direction: str, row: dict[str, Any], scope: str, key: bytes) -> str:
    # The database's own text goes in and comes back: a datetime, a float or JavaScript would lose digits on the way.
    text = json.dumps([direction, row["sort_key"], row["id"]], separators=(",", ":"))
    payload = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return f"{payload}.{_sign(payload, scope, key)}"


def _read(cursor: str, scope: str, keys: Sequence[bytes]) -> tuple[str, str, int]:
    payload, _, signature = cursor.partition(".")
    # The signature is checked over the characters that came, before anything parses them.
    if len(cursor) > 500 or not cursor.isascii():
        raise BadRequest("cursor")
    if not any(hmac.compare_digest(signature, _sign(payload, scope, key)) for key in keys):
        raise BadRequest("cursor")
    direction, sort_key, row_id = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return direction, sort_key, row_id


def list_orders(
    connection: psycopg.Connection[Any], keys: Sequence[bytes], customer_id: int, *,
    status: str | None = None, order: str = "created", limit: int = 0, cursor: str | None = None,
) -> Page:  # fmt: skip
    """One page of a customer's orders, newest first. The customer comes from the session, never from the cursor.

    The first of the keys signs, all of them verify: put a new one in front, and remove the old one a week later.
    """
    if order not in ORDERS or limit < 0:
        raise BadRequest("order or limit")
    limit = min(limit or DEFAULT, MAXIMUM)  # cut down: a larger answer was never promised
    # All that decides which rows are in the list and how they are sorted. The size of a page is free to change.
    scope = json.dumps(["orders", customer_id, status, order])
    key, direction = ORDERS[order], "next"
    where: list[sql.Composable] = [sql.SQL("customer_id = %(customer)s")]
    values: dict[str, Any] = {"customer": customer_id, "fetch": limit + 1}  # one more tells whether more follow
    if status is not None:  # a condition only where there is one: "%s IS NULL OR ..." spoils the plan
        where.append(sql.SQL("status = %(status)s"))
        values["status"] = status
    if cursor is not None:
        direction, values["key"], values["id"] = _read(cursor, scope, keys)
        # One comparison of both columns, which an index can begin at; with AND and OR it would read from the start.
        condition = "({}, id) {} (%(key)s::timestamptz, %(id)s)"
        where.append(sql.SQL(condition).format(key, sql.SQL("<" if direction == "next" else ">")))
    sort = sql.SQL("DESC") if direction == "next" else sql.SQL("ASC")
    query = sql.SQL(
        # as text, a timestamp has all its digits and its offset, whatever the session's time zone is
        "SELECT id, status, created_at, paid_at, {key}::text AS sort_key FROM orders"
        " WHERE {where} ORDER BY {key} {sort}, id {sort} LIMIT %(fetch)s"
    ).format(key=key, where=sql.SQL(" AND ").join(where), sort=sort)
    with connection.cursor(row_factory=dict_row) as results:
        rows = results.execute(query, values).fetchall()
    more, rows = len(rows) > limit, rows[:limit]
    if direction == "previous":
        rows.reverse()
    # Where we came from there was something; on the other side there is if one row too many was found.
    behind = cursor is not None if direction == "next" else more
    ahead = more if direction == "next" else True
    after = _write("next", rows[-1], scope, keys[0]) if rows and ahead else None
    before = _write("previous", rows[0], scope, keys[0]) if rows and behind else None
    for row in rows:
        del row["sort_key"]
    return Page(rows, after, before)

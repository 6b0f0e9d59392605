"""One tenant's transaction on a pooled connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool


@contextmanager
def tenant(pool: ConnectionPool[psycopg.Connection[Any]], tenant_id: UUID) -> Iterator[psycopg.Connection[Any]]:
    """Yield a transaction in which the rows of this tenant are the only ones; the tenant comes from a verified token.

    The setting is local to the transaction: it ends with it, however it ends, so the next user of the connection, or of
    the server's session behind a pooler in transaction mode, has no tenant at all. The transaction is opened here, as
    on a connection in autocommit mode a local setting would be gone before the next statement.
    """
    with pool.connection() as connection, connection.transaction():
        connection.execute("SELECT set_config('app.tenant', %s, true)", (str(tenant_id),))
        yield connection

"""Asks for a slot, and says what to tell the user: which errors are an answer, and which are tried again."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.types.range import TimestamptzRange
from psycopg_pool import ConnectionPool

HOLD = timedelta(minutes=10)  # longer than the payment takes
DEADLINE = 8.0  # seconds for one request, all attempts together
# By the constraint's name: its text is for us, in the server's language, and may show the other guest's booking.
REFUSED = {
    "booking_slot": (422, "Give a start and an end after it."),
    "booking_length": (422, "A booking may take 31 days at most."),
    "booking_room_id_fkey": (404, "There is no such room."),
    "booking_request": (422, "This request was used for another booking. Start again."),
}


class Answer(NamedTuple):
    status: int  # as in HTTP
    message: str
    expires_at: datetime | None = None


def connect(url: str) -> ConnectionPool[psycopg.Connection[Any]]:
    return ConnectionPool(
        url, min_size=1, max_size=10, timeout=3, open=True, check=ConnectionPool.check_connection,
        # A booking waits for another one's transaction that hangs, but not for long.
        kwargs={"autocommit": True, "connect_timeout": 3,
                "options": "-c lock_timeout=2s -c statement_timeout=5s -c idle_in_transaction_session_timeout=5s"},
    )  # fmt: skip


def book(
    pool: ConnectionPool[psycopg.Connection[Any]], request: UUID, room: int, start: datetime, end: datetime, guest: str
) -> Answer:
    """Hold the room; repeat it with the same request id as often as you like.

    Neither the ends' order nor the length is computed here: Python compares two times of one zone by their clocks, and
    the hour that a clock shows twice would be a slot that ends when it begins.
    """
    if start.utcoffset() is None or end.utcoffset() is None:  # the server would take them in the time zone of its own
        return Answer(422, "Give times with a time zone.")
    end_of_tries, pause = time.monotonic() + DEADLINE, 0.05
    while True:
        try:
            with pool.connection() as connection:
                query = "SELECT state, expires_at FROM book(%s, %s, %s, %s, %s)"
                slot = TimestamptzRange(start, end, "[)")  # one guest's end is the next one's start
                row = connection.execute(query, [request, room, slot, guest, HOLD]).fetchone()
            state, expires_at = row or (None, None)
            if state is None:
                return Answer(409, "This room is taken at that time.")
            if state in ("held", "confirmed"):
                return Answer(201, f"The room is {state} for you.", expires_at if state == "held" else None)
            return Answer(410, f"This booking is {state}. Start again.")
        except psycopg.IntegrityError as error:
            if error.diag.constraint_name not in REFUSED:
                raise
            return Answer(*REFUSED[error.diag.constraint_name])
        except psycopg.DataError:  # the end is before the start
            return Answer(*REFUSED["booking_slot"])
        except psycopg.OperationalError:
            # Deadlock, serialization failure, lock timeout, full pool, a connection that broke with the outcome
            # unknown: the id makes it safe to ask again.
            if time.monotonic() + pause > end_of_tries:
                return Answer(503, "We could not reach the calendar. Try again; you will not book twice.")
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, 1)

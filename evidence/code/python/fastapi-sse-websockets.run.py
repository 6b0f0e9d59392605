import os
import sqlite3
import tempfile
import threading
import time
import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


import httpx
import measure as m
from sqlalchemy.pool import AsyncAdaptedQueuePool

FILE = os.path.join(tempfile.mkdtemp(), "shop.db")


class Base(DeclarativeBase):
    pass


class Event(Base):
    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    kind: Mapped[str]
    payload: Mapped[str]


async def load_events(session: AsyncSession, order_id: int, after: int = 0) -> Sequence[Event]:
    query = select(Event).where(Event.order_id == order_id, Event.id > after).order_by(Event.id)
    return (await session.scalars(query)).all()


engine = create_async_engine(f"sqlite+aiosqlite:///{FILE}", poolclass=AsyncAdaptedQueuePool, pool_size=3, max_overflow=0, pool_timeout=1)
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with SessionLocal() as session:
        yield session


<<CELL>>


@app.get("/count")
async def count() -> int:
    async with SessionLocal() as session:
        return len((await session.scalars(select(Event))).all())


with sqlite3.connect(FILE) as database:
    database.execute("CREATE TABLE event (id integer PRIMARY KEY, order_id integer, kind text, payload text)")
    database.execute("INSERT INTO event VALUES (1, 7, 'paid', 'x'), (2, 7, 'sent', 'y')")
url = m.asgi(app)
received: list[str] = []


def browser() -> None:
    with httpx.stream("GET", url + "/orders/7/events", timeout=30) as response:
        received.extend(response.iter_lines())


for _ in range(3):
    threading.Thread(target=browser, daemon=True).start()
time.sleep(1)
held = [engine.pool.checkedout() for _ in range(20) if not time.sleep(0.02)]
status = httpx.get(url + "/count", timeout=10).status_code
m.verdict(
    status == 200 and min(held) == 0,
    f"three open streams hold {min(held)} of 3 connections between polls; another request: {status}",
)

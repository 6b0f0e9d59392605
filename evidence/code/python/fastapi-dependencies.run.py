import os
import sqlite3
import tempfile
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


import httpx
import measure as m

FILE = os.path.join(tempfile.mkdtemp(), "shop.db")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


class OrderIn(BaseModel):
    id: int


engine = create_async_engine(f"sqlite+aiosqlite:///{FILE}")
SessionLocal = async_sessionmaker(engine)
app = FastAPI()
<<CELL>>

with sqlite3.connect(FILE) as database:
    database.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
url = m.asgi(app)
answers = [httpx.post(url + "/orders", json={"id": 1}).status_code for _ in range(2)]
[count] = database.execute("SELECT count(*) FROM orders").fetchone()
m.verdict(answers == [201, 500], f"two orders of the same key answered {answers}, {count} stored")

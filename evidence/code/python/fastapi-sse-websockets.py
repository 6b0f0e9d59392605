import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


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


engine = create_async_engine("postgresql+psycopg://app@db/shop")
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with SessionLocal() as session:
        yield session


<<CELL>>

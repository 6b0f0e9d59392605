import asyncio
import os

from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload


import measure as m

URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
real = create_async_engine


def create_async_engine(_url, **words):
    return real(URL, **words)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    lines: Mapped[list["Line"]] = relationship()


class Line(Base):
    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))


engine = create_async_engine(URL)
<<CELL>>


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with SessionLocal() as session:
        session.add_all([Order(id=n, lines=[Line(), Line()]) for n in (1, 2)])
        await session.commit()
    try:
        found = str(await load_both(1, 2))
    except Exception as error:
        found = type(error).__name__
    m.verdict(found == "[2, 2]", f"lines of two orders loaded at once: {found}")


asyncio.run(main())

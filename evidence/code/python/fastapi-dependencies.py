from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


class OrderIn(BaseModel):
    id: int


engine = create_async_engine("sqlite+aiosqlite://")
SessionLocal = async_sessionmaker(engine)
app = FastAPI()
<<CELL>>

import measure as m
import os

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Address(Base):
    __tablename__ = "address"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))


os.environ["DATABASE_URL"]  # begins with postgresql://, as a platform gives it
<<CELL>>

Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([User(id=1), User(id=2)])
    session.flush()
    session.add_all([Address(id=10, user_id=1), Address(id=20, user_id=2)])
    session.flush()
    try:
        found = str([user.id for user in users_at(session, 20)])
    except Exception as error:
        found = type(error).__name__
m.verdict(found == "[2]", f"users at address 20 (driver {engine.driver}): {found}")

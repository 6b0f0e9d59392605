import asyncio
import os
import re
import subprocess
import sys

import measure as m
import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

URL = os.environ["DATABASE_URL"]
TEST_DATABASE_URL = URL.replace("postgresql://", "postgresql+psycopg://")
engine = create_async_engine(TEST_DATABASE_URL)
<<CELL>>


@pytest.mark.asyncio
async def test_order_is_stored(session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO orders VALUES (1)"))
    await session.commit()
    assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar() == 1


@pytest.mark.asyncio
async def test_nothing_is_left_of_other_tests(session: AsyncSession) -> None:
    assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar() == 0


if __name__ == "__main__":
    with psycopg.connect(URL, autocommit=True) as database:
        database.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-c", os.devnull, "--rootdir", ".",
         "-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_default_test_loop_scope=session", __file__],
        capture_output=True, text=True,
    )  # fmt: skip
    with psycopg.connect(URL) as database:
        [rows] = database.execute("SELECT count(*) FROM orders").fetchone()
    result = re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1]).strip("= ")
    causes = sorted(set(re.findall(r"^E +(\w+Error\b|fixture '\w+' not found)", done.stdout, re.MULTILINE)))
    m.verdict(
        done.returncode == 0 and rows == 0,
        f"pytest: {result}{f' ({causes[0]})' if causes else ''}; {rows} rows left in the database",
    )

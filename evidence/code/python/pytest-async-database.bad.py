import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

engine = create_async_engine("postgresql+psycopg://test@db/test")
<<CELL>>

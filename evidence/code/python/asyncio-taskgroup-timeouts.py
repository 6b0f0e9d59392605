import asyncio


async def fetch_profile(user_id: int) -> dict[str, str]:
    await asyncio.sleep(0.1)
    return {"name": "Ada"}


async def fetch_orders(user_id: int) -> list[int]:
    await asyncio.sleep(0.1)
    return [user_id]


async def write_audit(user_id: int) -> None:
    await asyncio.sleep(0.1)


<<CELL>>

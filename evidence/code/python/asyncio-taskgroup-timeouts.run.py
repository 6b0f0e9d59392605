import asyncio
import time

import measure as m

finished: list[int] = []


async def fetch_profile(user_id: int) -> dict[str, str]:
    await asyncio.sleep(0.1 if user_id == 1 else 30)
    raise ConnectionError


async def fetch_orders(user_id: int) -> list[int]:
    await asyncio.sleep(0.5)
    finished.append(user_id)
    return [user_id]


async def write_audit(user_id: int) -> None:
    await asyncio.sleep(0.1)


<<CELL>>


async def main() -> None:
    failed = ""
    try:
        await load_page(1)
    except (ConnectionError, BaseExceptionGroup) as error:
        failed = type(error).__name__
    await asyncio.sleep(1)
    went_on = len(finished)
    start = time.monotonic()
    done, _ = await asyncio.wait({asyncio.create_task(load_page(2))}, timeout=5)
    hanging = f"{type(done.pop().exception()).__name__} after {time.monotonic() - start:.0f} s" if done else "waits after 5 s"
    m.verdict(
        not went_on and hanging.startswith("TimeoutError"),
        f"after {failed} {went_on} sibling calls ran to their end; a call that hangs: {hanging}",
    )


asyncio.run(main())

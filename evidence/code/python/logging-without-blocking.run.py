import asyncio
import io
import json
import logging
import logging.config
import logging.handlers
import sys
import time

import measure as m
from app.log import JsonFormatter, RequestIdFilter, request_id

written: list[str] = []


def store(request):
    time.sleep(0.3)
    written.append(request.rfile.read(int(request.headers["Content-Length"])).decode())
    m.reply(request, 200)


class SlowStream(io.StringIO):
    def write(self, text: str) -> int:
        if text.strip():
            time.sleep(0.3)
            written.extend(text.splitlines())
        return len(text)


sys.stderr = SlowStream()
LOGS = m.serve(store)
real = logging.handlers.HTTPHandler
logging.handlers.HTTPHandler = lambda host, *words, **more: real(LOGS.removeprefix("http://"), *words, **more)
logging.getLogger("asyncio").propagate = False
<<CELL>>

logging.getLogger().setLevel("INFO")


async def main() -> float:
    request_id.set("r-1")
    longest, last = 0.0, time.monotonic()

    async def heartbeat() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    beating = asyncio.create_task(heartbeat())
    for n in range(4):
        logging.getLogger("shop").info("loaded order %s", n)
        await asyncio.sleep(0.02)
    beating.cancel()
    return longest


pause = asyncio.run(main())
time.sleep(2)
with_id = sum("r-1" in line for line in written)
m.verdict(
    pause < 0.15 and with_id == 4,
    f"log sink of 0.3 s a line: the loop stood still for {pause:.1f} s; {len(written)} of 4 lines written, {with_id} with the request's id",
)

import threading
import time

import httpx
import measure as m


class LegacyClient:
    """A client that blocks."""

    def fetch(self, report_id: int) -> dict[str, int]:
        time.sleep(1)
        return {"id": report_id}


legacy_client = LegacyClient()
<<CELL>>


@app.get("/health")
async def health() -> str:
    return "ok"


url = m.asgi(app)
httpx.get(url + "/health")
reports = [threading.Thread(target=httpx.get, args=(f"{url}/reports/{n}",), daemon=True) for n in range(3)]
for thread in reports:
    thread.start()
time.sleep(0.2)
start = time.monotonic()
httpx.get(url + "/health", timeout=10)
took = time.monotonic() - start
m.verdict(took < 0.7, f"/health during three reports of 1 s each: {took:.1f} s")

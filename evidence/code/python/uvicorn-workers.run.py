import os
import threading
import time

import httpx
import measure as m

port = m.free_port()


def probe() -> None:
    for _ in range(200):
        time.sleep(0.05)
        try:
            seen = httpx.get(f"http://127.0.0.1:{port}/client", headers={"X-Forwarded-For": "203.0.113.9"}).json()
        except httpx.TransportError:
            continue
        m.verdict(seen == "127.0.0.1", f"started; a forged X-Forwarded-For from outside the ingress: client is {seen}")


try:
    import uvicorn

    real = uvicorn.run
    uvicorn.run = lambda app, **words: real(app, **{**words, "host": "127.0.0.1", "port": port, "log_level": "critical"})
    threading.Thread(target=probe, daemon=True).start()
    <<CELL>>
except SystemExit as ended:
    m.verdict(False, f"uvicorn.run of an application object with workers ended with exit status {ended.code}")

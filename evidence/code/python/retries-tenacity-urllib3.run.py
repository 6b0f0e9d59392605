import time

import httpx
import measure as m

seen: list[str] = []


def answer(request):
    seen.append(request.path)
    if request.path == "/prices/gone":
        m.reply(request, 404, b"{}")
    else:
        busy = len(seen) == 1
        m.reply(request, 503 if busy else 200, b"{}" if busy else b'{"amount": 5}')


client = httpx.Client(base_url=m.serve(answer))
<<CELL>>

once = m.outcome(lambda: price(client, "busy"))
first = len(seen)
gone = m.outcome(lambda: price(client, "gone"), 2).split(":")[0]
calls = len(seen) - first
m.verdict(
    first == 2 and gone == "HTTPStatusError" and calls == 1,
    f"503 once: {once} after {first} calls; unknown article (404): {gone} after {calls if calls < 10 else 'dozens of'} calls in 2 s",
)

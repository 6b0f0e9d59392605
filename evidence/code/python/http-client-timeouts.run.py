import asyncio
import time
from types import SimpleNamespace

import measure as m
import requests


def answer(request):
    if request.path == "/invoices/lost":
        return m.reply(request, 503, b'{"error": "busy"}')
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    for _ in range(30):  # a byte a second: no read timeout ends that
        request.wfile.write(b" ")
        time.sleep(1)


BILLING = m.serve(answer)
get = requests.get
requests.get = lambda url, **words: get(url.replace("https://billing.internal", BILLING), **words)
<<CELL>>


def call(order_id: str) -> object:
    if "lifespan" not in globals():
        return invoice(order_id)

    async def with_client() -> object:
        app = SimpleNamespace(state=SimpleNamespace())
        async with lifespan(app):
            app.state.billing.base_url = BILLING
            return await invoice(app.state.billing, order_id)

    return asyncio.run(with_client())


start = time.monotonic()
slow = m.outcome(lambda: call("slow"), 8)
took = time.monotonic() - start
lost = m.outcome(lambda: call("lost"))
m.verdict(
    slow.startswith("TimeoutError") and lost.startswith("HTTPStatusError"),
    f"a body of a byte a second: {slow.split(':')[0]} after {took:.0f} s; answer 503: {lost.split(':')[0] if 'Error' in lost else f'taken for data, {lost}'}",
)

import httpx
import measure as m


class Storage:
    largest = 0

    async def write(self, chunk: bytes) -> None:
        Storage.largest = max(Storage.largest, len(chunk))


storage = Storage()
<<CELL>>


@app.post("/orders")
async def orders(order: dict[str, str]) -> int:
    return len(order)


url = m.asgi(app)


def post(path: str, **words: object) -> str:
    try:
        return str(httpx.post(url + path, timeout=30, **words).status_code)
    except httpx.TransportError as error:  # the server may answer and close before all was sent
        return type(error).__name__


def pieces():
    for _ in range(60):
        yield b"a" * 1024 * 1024


allowed = post("/documents", files={"file": b"a" * 20 * 1024 * 1024})
largest = Storage.largest / 1024 / 1024
huge = post("/documents", files={"file": b"a" * 60 * 1024 * 1024})
json = post("/orders", content=b'{"note": "' + b"a" * 5 * 1024 * 1024 + b'"}', headers={"Content-Type": "application/json"})
chunked = post("/orders", content=pieces(), headers={"Content-Type": "application/json"})
forged = post("/orders", content=b'{"note": "a"}')
m.verdict(
    allowed == "200" and largest <= 1 and {huge, json} == {"413"} and chunked != "422" and forged == "422",
    f"upload of 20 MB {allowed} in pieces of {largest:.0f} MB, of 60 MB {huge}; JSON of 5 MB {json}, 60 MB without length {chunked}, without Content-Type {forged}",
)

"""An application that answers with the client's address as the server sees it."""

from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/client")
async def client(request: Request) -> str:
    return request.client.host if request.client else ""

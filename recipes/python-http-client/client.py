"""An outbound HTTP client: one total deadline, retries within a budget, bounded connections and bodies.

One Client per dependency, made when the process starts and closed when it ends:
    async with Client("https://billing.internal") as billing:
        answer = await billing.request("GET", "/invoices/7", deadline=3)
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from itertools import count
from typing import Self

import httpx2

IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}
TRANSIENT = {429, 502, 503, 504}
UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout)  # the request cannot have arrived: even a POST may be repeated
BROKEN = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, TimeoutError)
RETRY_COST, MAX_TOKENS = 10, 100  # each call earns one token: retries are at most a tenth of the calls, and ten at once


class Refused(Exception):
    """The answer is larger than allowed, or compressed although that was not asked for."""


@dataclass(frozen=True)
class Settings:
    connect: float = 0.5  # seconds, like all below
    read: float = 2  # the longest silence
    pool: float = 0.2  # the wait for one of our own connections
    attempt: float = 5  # one whole attempt
    attempts: int = 3
    backoff: float = 0.1  # before the second attempt at most twice this, before the third four times
    connections: int = 50
    max_body: int = 1 << 20


class Client:
    def __init__(self, base_url: str, settings: Settings = Settings()) -> None:
        self.set, self.tokens = settings, MAX_TOKENS
        self.http = httpx2.AsyncClient(
            base_url=base_url,
            timeout=httpx2.Timeout(settings.read, connect=settings.connect, pool=settings.pool),  # none is a total
            limits=httpx2.Limits(max_connections=settings.connections, keepalive_expiry=4),  # below the server's
            headers={"Accept-Encoding": "identity"},  # a small compressed body can become gigabytes
            trust_env=False,  # no proxy and no password because of some variable or ~/.netrc
        )
        # Otherwise the cookie that one call receives goes out with all later ones, whoever they are for.
        self.http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        deadline: float,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx2.Response:
        """The answer, whatever its status. TimeoutError when the deadline has passed, httpx2's errors, or Refused.

        A POST or PATCH is repeated only when it carries an Idempotency-Key, or when no connection came about.
        """
        now, given = asyncio.get_running_loop().time, httpx2.Headers(headers)
        end, repeatable = now() + deadline, method in IDEMPOTENT or "Idempotency-Key" in given
        self.tokens = min(MAX_TOKENS, self.tokens + 1)
        async with asyncio.timeout_at(end):
            for tried in count(1):
                given["X-Timeout-Ms"] = str(max(1, int((end - now()) * 1000)))  # so that the other side can give up too
                failure, least = None, 0.0
                try:
                    async with asyncio.timeout(self.set.attempt):
                        answer = await self.once(self.http.build_request(method, url, headers=given, content=content))
                    if answer.status_code not in TRANSIENT:
                        return answer
                    least = retry_after(answer)
                except BROKEN as error:
                    failure = error
                may = (repeatable or isinstance(failure, UNSENT)) and not isinstance(failure, httpx2.PoolTimeout)
                pause = least + random.uniform(0, self.set.backoff * 2**tried)
                if not may or tried == self.set.attempts or now() + pause >= end or not self.spend():
                    if failure:
                        raise failure
                    return answer
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def spend(self) -> bool:
        if self.tokens < RETRY_COST:
            return False
        self.tokens -= RETRY_COST
        return True

    async def once(self, request: httpx2.Request) -> httpx2.Response:
        response = await self.http.send(request, stream=True)
        try:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise Refused("compressed")
            if int(response.headers.get("Content-Length", 0)) > self.set.max_body and request.method != "HEAD":
                raise Refused("too large")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self.set.max_body:
                    raise Refused("too large")
        finally:
            await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body), request=request)

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, deadline: float) -> AsyncIterator[httpx2.Response]:
        """An answer to be read piece by piece with `aiter_raw()`: never repeated, not bounded in size.

        The deadline covers what the caller does with the pieces.
        """
        headers = {"X-Timeout-Ms": str(int(deadline * 1000))}
        async with asyncio.timeout(deadline), self.http.stream(method, url, headers=headers) as response:
            yield response


def retry_after(answer: httpx2.Response) -> float:
    """Seconds to wait at least. A date is compared with the server's own clock, which may differ from ours."""
    value = answer.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(answer.headers.get("Date", ""))
    except (ValueError, TypeError):
        return 0
    return max(0, wait.total_seconds())

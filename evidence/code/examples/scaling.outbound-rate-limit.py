"""The script in Redis and in Valkey."""

import os

import redis

SCRIPT = """
<<CELL>>
"""
for port in (os.environ["REDIS_PORT"], os.environ["VALKEY_PORT"]):
    server = redis.Redis(port=int(port))
    server.delete("slot")
    waits = [server.eval(SCRIPT, 1, "slot", 1000, 2000, 3000) for _ in range(8)]
    assert waits[:3] == [0, 0, 0], waits
    assert all(900 * n < wait <= 1000 * n for n, wait in enumerate(waits[3:6], start=1)), waits
    assert waits[6:] == [-1, -1], waits
print("shows a burst passes at once, then one each gap, and a wait too long is refused")

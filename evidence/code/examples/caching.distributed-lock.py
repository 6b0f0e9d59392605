"""The script in Redis and in Valkey."""

import os

import redis

SCRIPT = """
<<CELL>>
"""
for port in (os.environ["REDIS_PORT"], os.environ["VALKEY_PORT"]):
    server = redis.Redis(port=int(port))
    server.set("lock", "mine")
    assert server.eval(SCRIPT, 1, "lock", "theirs") == 0
    assert server.get("lock") == b"mine"
    assert server.eval(SCRIPT, 1, "lock", "mine") == 1
    assert not server.exists("lock")
print("shows only the token's owner deletes the lock")

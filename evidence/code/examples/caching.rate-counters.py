"""The script in Redis and in Valkey."""

import os

import redis

SCRIPT = """
<<CELL>>
"""
for port in (os.environ["REDIS_PORT"], os.environ["VALKEY_PORT"]):
    server = redis.Redis(port=int(port))
    server.delete("counter")
    assert server.eval(SCRIPT, 1, "counter", 60000) == 1
    server.pexpire("counter", 5000)
    assert server.eval(SCRIPT, 1, "counter", 60000) == 2
    assert server.pttl("counter") <= 5000
print("shows only the first hit sets the expiry")

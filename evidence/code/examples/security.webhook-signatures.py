<<CELL>>


secret, now, body = b"s" * 32, str(int(time.time())), b'{"a": 1}'


def signed(key, ts):
    return "v1," + base64.b64encode(hmac.new(key, f"m.{ts}.".encode() + body, hashlib.sha256).digest()).decode()


assert verify(secret, "m", now, body, signed(secret, now))
assert verify(secret, "m", now, body, signed(b"o" * 32, now) + " " + signed(secret, now))
assert not verify(secret, "m", now, body + b" ", signed(secret, now))
assert not verify(secret, "m", now, body, signed(b"o" * 32, now))
old = str(int(time.time()) - 301)
assert not verify(secret, "m", old, body, signed(secret, old))
assert not verify(secret, "m", now, body, "v1,\u00e9")
print("shows either of two signatures is taken; a changed body, another key and an old time are not")

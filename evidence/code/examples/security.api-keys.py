<<CELL>>


key_id, key, digest = new_key()
body, check = key[:-8], key[-8:]
assert f"{zlib.crc32(body.encode()):08x}" == check
assert key.startswith(f"acme_live_{key_id}_") and digest == hashlib.sha256(key.encode()).digest()
broken = ("x" if key[20] != "x" else "y").join([key[:20], key[21:]])
assert f"{zlib.crc32(broken[:-8].encode()):08x}" != broken[-8:]
print("shows a mistyped key fails its checksum")

import json
import random


class CacheError(Exception):
    pass


class Cache:
    down = False

    def __init__(self):
        self.values, self.expiries = {}, {}

    def get(self, key):
        if self.down:
            raise CacheError
        return self.values.get(key)

    def set(self, key, value, ex):
        if self.down:
            raise CacheError
        self.values[key], self.expiries[key] = value, ex


class Database:
    loads = 0

    def load_product(self, pid):
        self.loads += 1
        return {"id": pid} if pid < 100 else None


cache, db = Cache(), Database()


<<CELL>>


assert [get_product(1), get_product(1)] == [{"id": 1}] * 2 and db.loads == 1
assert [get_product(100), get_product(100)] == [None, None] and db.loads == 2
assert cache.expiries["v3:product:100"] == 30 and 270 <= cache.expiries["v3:product:1"] <= 330
cache.down = True
assert get_product(1) == {"id": 1} and db.loads == 3
print("shows misses and absences are cached, a broken cache is passed by")

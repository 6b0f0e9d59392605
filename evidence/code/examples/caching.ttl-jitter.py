import random

<<CELL>>


seen = [ttl(300) for _ in range(2000)]
assert 270 <= min(seen) < 275 and 325 < max(seen) <= 330
assert ttl(1) == 2
print("shows expiries spread by 10 %")

<<CELL>>


import argon2

old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("secret")
renewed = check(old, "secret")
assert renewed != old and "m=19456,t=2,p=1" in renewed
assert check(renewed, "secret") == renewed
try:
    check(renewed, "wrong")
except argon2.exceptions.VerifyMismatchError:
    print("shows an old hash is renewed, a wrong password raises")

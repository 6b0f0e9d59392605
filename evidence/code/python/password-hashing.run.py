from dataclasses import dataclass


@dataclass
class User:
    password_hash: str

    def set_hash(self, hashed: str) -> None:
        self.password_hash = hashed


import bcrypt as library

import measure as m

<<CELL>>

phrase = "パスワード" * 6  # 30 characters, 90 bytes
stored = m.outcome(lambda: hash_password(phrase))
old = library.hashpw(b"correct horse", library.gensalt(4)).decode()
user = User(old)
legacy = m.outcome(lambda: verify(user, phrase)) if "verify" in globals() else "not there"
m.verdict(
    stored.startswith("$argon2id$") and legacy == "False",
    f"pass phrase of 90 bytes: {stored[:9] if stored.startswith('$') else stored}; the same against an old bcrypt hash: {legacy}",
)

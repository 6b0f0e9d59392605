from dataclasses import dataclass


@dataclass
class User:
    password_hash: str

    def set_hash(self, hashed: str) -> None:
        self.password_hash = hashed


<<CELL>>

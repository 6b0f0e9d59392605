import sqlite3

<<CELL>>
assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)
db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
assert not db.in_transaction
again = sqlite3.connect("app.db")
assert again.execute("PRAGMA journal_mode").fetchone() == ("wal",)
assert again.execute("PRAGMA foreign_keys").fetchone() == (0,)
print("shows WAL stays with the file, foreign_keys is each connection's own")

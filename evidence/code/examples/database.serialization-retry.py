import os
import random
import threading
import time

import psycopg
import psycopg_pool


class Overloaded(Exception):
    pass


retries = 0
together = threading.Barrier(2)


def transfer(conn, source, target, amount):
    global retries
    conn.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    (balance,) = conn.execute("SELECT balance FROM account WHERE id = %s", [source]).fetchone()
    if retries == 0:
        together.wait(5)
    retries += 1
    conn.execute("UPDATE account SET balance = %s WHERE id = %s", [balance - amount, source])
    conn.execute("UPDATE account SET balance = balance + %s WHERE id = %s", [amount, target])
    return "done"


<<CELL>>


url = f"host={os.environ['PGHOST']} port={os.environ['PGPORT']} user=postgres dbname={os.environ['PGDATABASE']}"
with psycopg_pool.ConnectionPool(url, min_size=2) as pool:
    with pool.connection() as connection:
        connection.execute("CREATE TABLE account (id int PRIMARY KEY, balance int)")
        connection.execute("INSERT INTO account VALUES (1, 100), (2, 0)")
    threads = [threading.Thread(target=transfer_with_retry, args=(pool, 1, 2, 10)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pool.connection() as connection:
        assert connection.execute("SELECT balance FROM account ORDER BY id").fetchall() == [(80,), (20,)]
assert retries == 3, retries
print("shows of two transfers at once one is run again, and both count")

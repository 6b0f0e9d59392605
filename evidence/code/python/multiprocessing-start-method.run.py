class Model:
    def predict(self, row: dict[str, float]) -> float:
        return row["x"] * 2


def load_model(path: str) -> Model:
    return Model()


import multiprocessing

import measure as m

<<CELL>>

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")  # Python 3.14's default on Linux
    found = m.outcome(lambda: run([{"x": float(n)} for n in range(1000)])[-1], 30)
    m.verdict(found == "1998.0", f"1,000 rows in workers of forkserver: {found}")

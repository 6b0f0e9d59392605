import inspect
import subprocess
import sys
import tempfile

import measure as m

<<CELL>>

source = inspect.getsource(load) + inspect.getsource(with_fee)
caller = '\n\ndef bill(raw: str, fee: str) -> int:\n    return int(with_fee(load(raw), fee))\n'
head = "import json\nfrom typing import TypedDict\n" + (inspect.getsource(Payment) if "Payment" in globals() else "")
with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
    file.write(head + source + caller)
    file.flush()
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--config-file=", "--cache-dir=/dev/null", file.name],
        capture_output=True, text=True,
    )  # fmt: skip
found = done.stdout.count(": error:")
total = m.outcome(lambda: with_fee(load('{"amount": "100", "currency": "EUR"}'), None)).split(":")[0]
m.verdict(
    found == 1 and total == "100",
    f"mypy's defaults find {found} of 1 faults of a caller; a payment without fee: {total}",
)

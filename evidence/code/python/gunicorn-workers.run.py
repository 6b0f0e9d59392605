import multiprocessing
import pathlib
import subprocess
import sys
import tempfile
import time

import measure as m

multiprocessing.cpu_count = lambda: 64  # what a container of 2 CPUs sees on such a node, before Python's -X cpu_count
<<CELL>>

names = ("worker_class", "threads", "timeout", "graceful_timeout", "keepalive", "max_requests", "max_requests_jitter")
settings = {name: globals()[name] for name in ("workers", *names) if name in globals()}
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "site_under_load.py").write_text(
    "def app(environ, start_response):\n    start_response('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n"
)
(folder / "gunicorn.conf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
port = m.free_port()
server = subprocess.Popen(
    [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--chdir", folder, "-c", folder / "gunicorn.conf.py", "site_under_load:app"],
    stderr=subprocess.DEVNULL,
)
started, memory = 0, 0.0
for _ in range(40):
    time.sleep(0.25)
    children = pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    if len(children) == settings["workers"]:
        break
time.sleep(1)
for child in children:
    lines = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()[1:])
    memory += int(lines["Pss"].split()[0]) / 1024
server.terminate()
server.wait(timeout=20)
m.verdict(
    len(children) <= 8,
    f"on a node of 64 cores {len(children)} workers of {settings.get('threads', 1)} threads, about {round(memory, -1):.0f} MiB for an empty application",
)

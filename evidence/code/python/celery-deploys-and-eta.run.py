import datetime
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import redis
from celery import Celery

REDIS_PORT = int(os.environ["REDIS_PORT"])
app = Celery("shop", broker=f"redis://127.0.0.1:{REDIS_PORT}")


@dataclass
class Reminder:
    id: int
    due_at: datetime.datetime


TOMORROW = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
REMINDERS = [Reminder(n, TOMORROW) for n in range(50)]  # rows of a table


def claim_due_reminders(limit: int) -> list[int]:
    return [reminder.id for reminder in REMINDERS if reminder.due_at < datetime.datetime.now(datetime.UTC)][:limit]


@app.task
def send_reminder(reminder_id: int) -> None:
    pass


<<CELL>>

if __name__ == "__main__":
    import measure as m

    broker = redis.Redis(port=REDIS_PORT)
    broker.flushall()
    name = os.path.basename(__file__).removesuffix(".py")
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", name, "worker", "--pool", "solo"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    from importlib import import_module

    shop = import_module(name)
    if hasattr(shop, "schedule"):
        for reminder in REMINDERS:
            shop.schedule(reminder)
    else:
        shop.send_due_reminders.delay()
    held = 0
    for _ in range(60):
        time.sleep(0.25)
        held = broker.hlen("unacked")
        if held == len(REMINDERS) or (worker.poll() is None and not broker.llen("celery") and not held and _ > 20):
            break
    waiting = broker.llen("celery")
    worker.kill()
    worker.wait()
    timeout = shop.app.conf.broker_transport_options.get("visibility_timeout", 3600)
    m.verdict(
        not held and not waiting,
        f"50 reminders due tomorrow: a worker that was killed held {held} of them, back after visibility_timeout, {timeout / 3600:.0f} h" if held
        else f"50 reminders due tomorrow: a worker that was killed held 0 of them, {waiting} messages wait",
    )

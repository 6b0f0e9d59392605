import datetime
from dataclasses import dataclass

from celery import Celery

app = Celery("shop", broker="redis://redis")


@dataclass
class Reminder:
    id: int
    due_at: datetime.datetime


def claim_due_reminders(limit: int) -> list[int]:
    return list(range(limit))


@app.task
def send_reminder(reminder_id: int) -> None:
    pass


<<CELL>>

import time


class LegacyClient:
    """A client that blocks."""

    def fetch(self, report_id: int) -> dict[str, int]:
        time.sleep(1)
        return {"id": report_id}

    def score(self, user_id: int) -> float:
        time.sleep(1)
        return 0.5


legacy_client = LegacyClient()
<<CELL>>

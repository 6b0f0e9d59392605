from dataclasses import dataclass


class PaymentUnavailable(Exception):
    """The provider does not answer."""


@dataclass
class Payment:
    reference: str
    captured: bool = False


class Gateway:
    def capture(self, reference: str, idempotency_key: str = "") -> None:
        raise PaymentUnavailable


def load_payment(payment_id: int) -> Payment:
    return Payment(str(payment_id))


gateway = Gateway()
<<CELL>>

import measure as m


class PaymentUnavailable(Exception):
    """The provider does not answer."""


class Payment(int):
    """The payment's number, which serves as the payment too, for either signature."""

    captured = False

    @property
    def reference(self) -> str:
        return f"payment {int(self)}"


class Gateway:
    calls = 0
    captured = 0

    def capture(self, reference: str, idempotency_key: str = "") -> None:
        self.calls += 1
        if self.calls == 1:
            raise PaymentUnavailable
        self.captured += 1


load_payment = Payment
gateway = Gateway()
<<CELL>>

result = capture_payment.apply(args=(Payment(7),))  # in this process, retries at once
limit = capture_payment.time_limit
m.verdict(
    gateway.captured == 1 and limit is not None,
    f"provider unavailable once: {result.state} after {gateway.calls} calls; acks_late {capture_payment.acks_late}, time limit {limit}",
)

import os
from functools import partial

import measure as m
import psycopg

URL = os.environ["DATABASE_URL"]
m.django(URL)

from django.db import IntegrityError, transaction
from shop.models import Cart, CouponUse, Customer, Order, Remark

m.tables(Customer, Cart, Order, CouponUse, Remark)
Customer.objects.create(pk=1, name="Ada")


class SendReceipt:
    """A worker that is quicker than the caller."""

    missed = 0

    def delay(self, order_id: int) -> None:
        with psycopg.connect(URL) as worker:
            if not worker.execute("SELECT 1 FROM shop_order WHERE id = %s", [order_id]).fetchone():
                self.missed += 1


send_receipt = SendReceipt()
<<CELL>>

cart = Cart.objects.create(code="SPRING")
ended = []
for _ in range(2):
    try:
        place_order(cart)
        ended.append("placed")
    except Exception as error:
        ended.append(type(error).__name__)
m.verdict(
    Order.objects.count() == 2 and not send_receipt.missed,
    f"two orders with one coupon: {', then '.join(ended)}; the worker missed {send_receipt.missed} of them",
)

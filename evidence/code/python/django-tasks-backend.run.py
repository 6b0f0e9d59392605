import measure as m

m.django(TASKS={"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend", "QUEUES": []}})

from django.db import connection
from shop.models import SENT, Cart, Customer, Order

m.tables(Customer, Cart, Order)
Customer.objects.create(pk=1, name="Ada")
inside: list[bool] = []
send = Order.send_receipt


def send_receipt_and_look(order: Order) -> None:
    inside.append(connection.in_atomic_block)
    send(order)


Order.send_receipt = send_receipt_and_look
<<CELL>>

try:
    place_order(Order(customer_id=1))
    ended = "order placed"
except TypeError as error:
    ended = f"TypeError: {error}"
m.verdict(
    len(SENT) == 1 and inside == [False],
    f"{ended}; {Order.objects.count()} orders, {len(SENT)} receipts, {sum(inside)} of them sent before the commit",
)

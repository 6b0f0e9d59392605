from functools import partial

from celery import Celery
from django.db import IntegrityError, transaction
from shop.models import CouponUse, Order

celery = Celery("shop")


@celery.task
def send_receipt(order_id: int) -> None:
    Order.objects.get(pk=order_id).send_receipt()


<<CELL>>

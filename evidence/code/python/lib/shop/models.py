"""The models that the rows on Django name; their tables are the programs' own."""

from __future__ import annotations

from django.db import models


class Account(models.Model):
    balance = models.BigIntegerField()

    class Meta:
        app_label = "shop"
        constraints = [models.CheckConstraint(condition=models.Q(balance__lte=1000), name="limit")]


class Product(models.Model):
    sku = models.TextField(unique=True)
    price = models.IntegerField()

    class Meta:
        app_label = "shop"


class Customer(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "shop"


class Cart(models.Model):
    code = models.TextField()

    class Meta:
        app_label = "shop"


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, default=1)
    cart = models.ForeignKey(Cart, models.CASCADE, null=True)

    class Meta:
        app_label = "shop"

    def send_receipt(self) -> None:
        SENT.append(self.pk)


class Line(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    shipped = models.BooleanField(default=True)

    class Meta:
        app_label = "shop"


class Remark(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="remarks")
    text = models.TextField()

    class Meta:
        app_label = "shop"


class CouponUse(models.Model):
    order = models.ForeignKey(Order, models.CASCADE)
    code = models.TextField(unique=True)

    class Meta:
        app_label = "shop"


SENT: list[int] = []

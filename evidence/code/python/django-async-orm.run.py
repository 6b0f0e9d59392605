import asyncio
import os

import measure as m

m.django(os.environ["DATABASE_URL"])

from django.db.models import F, Sum
from django.http import HttpRequest, JsonResponse
from shop.models import Account

m.tables(Account)
Account.objects.create(pk=1, balance=500)
Account.objects.create(pk=2, balance=900)  # no account may hold more than 1,000
<<CELL>>

ended = m.run(transfer_view(HttpRequest(), 1, 2, 200))
total = Account.objects.aggregate(total=Sum("balance"))["total"]
m.verdict(total == 1400, f"second statement refused ({ended.split(':')[0]}): the accounts hold {total} of 1400")

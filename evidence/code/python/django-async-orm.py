from django.db.models import F
from django.http import HttpRequest, JsonResponse
from shop.models import Account

<<CELL>>

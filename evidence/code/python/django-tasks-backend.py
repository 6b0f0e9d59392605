from shop.models import Order

<<CELL>>

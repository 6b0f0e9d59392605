import os
import resource

import measure as m

m.django(os.environ["DATABASE_URL"])

from shop.models import Product

m.tables(Product)
<<CELL>>

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load(f"sku-{n},{n}" for n in range(100_000))
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
count = Product.objects.count()
try:
    load(["twice,1", "twice,2", "sku-1,5"])
    again = f"prices {Product.objects.get(sku='twice').price} and {Product.objects.get(sku='sku-1').price}"
except Exception as error:
    again = type(error).__name__
m.verdict(
    count == 100_000 and grown < 30 and again == "prices 2 and 5",
    f"{count} rows from a generator: about {round(grown, -1):.0f} MiB more; a line twice and one known before: {again}",
)

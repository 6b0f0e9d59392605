// OrderRow is the database model.
type OrderRow struct {
	SKU   string `json:"sku" binding:"required"`
	Qty   int    `json:"qty" binding:"required"`
	Price int64  `json:"price"`
	Owner string `json:"owner"`
}

var jobs sync.WaitGroup

func audit(ctx context.Context, ip, sku string) {}

<<CELL>>

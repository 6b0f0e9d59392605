// OrderRow is the database model.
type OrderRow struct {
	SKU   string `json:"sku" binding:"required"`
	Qty   int    `json:"qty" binding:"required"`
	Price int64  `json:"price"`
	Owner string `json:"owner"`
}

var (
	jobs sync.WaitGroup
	said = make(chan string, 9)
)

// The audit takes a while; by then other requests have been served.
func audit(ctx context.Context, ip, sku string) {
	time.Sleep(50 * time.Millisecond)
	said <- fmt.Sprint(ctx.Value(key{}))
}

type key struct{}

<<CELL>>

func main() {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.ContextWithFallback = true
	engine.POST("/", create)
	ask := func(body, trace string) int {
		req := httptest.NewRequest("POST", "/", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), key{}, trace)))
		return w.Code
	}
	zero := ask(`{"sku": "a", "qty": 0}`, "zero")
	invalid := ask(`{"sku": 7}`, "invalid")
	ask(`{"sku": "b", "qty": 1}`, "first")
	for range 20 {
		ask(`{"sku": 7}`, "other")
	}
	last := <-said
	if last == "zero" {
		last = <-said
	}
	lib.Verdict(zero == 201 && invalid == 422 && last == "first",
		"quantity 0: %d; invalid body: %d; the first request's audit saw its own trace: %t", zero, invalid, last == "first")
}

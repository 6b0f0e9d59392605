var client = &http.Client{Timeout: 2 * time.Second}

<<CELL>>

// The service answers 503 to thirty callers; before each of them two others hang up.
func main() {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Error(w, "overloaded", http.StatusServiceUnavailable)
	}))
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	call := func(ctx context.Context) error {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		resp, err := fetch(req)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	refused := 0
	for range 30 {
		call(gone)
		call(gone)
		if errors.Is(call(context.Background()), gobreaker.ErrOpenState) {
			refused++
		}
	}
	lib.Verdict(asked.Load() == 20 && refused == 10,
		"30 calls of a service that answers 503 among 60 that hang up: %d sent, %d refused by the breaker", asked.Load(), refused)
}

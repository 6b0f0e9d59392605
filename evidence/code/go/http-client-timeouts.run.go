<<CELL>>

// A service that hangs, one whose body is too long, and forty calls at once, twice.
func main() {
	var dialled atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hangs":
			select {
			case <-r.Context().Done():
			case <-time.After(4 * time.Second):
			}
		case "/long":
			w.Write(make([]byte, 3<<20))
		default:
			time.Sleep(50 * time.Millisecond)
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			dialled.Add(1)
		}
	}
	srv.Start()
	ask := func(path string) error {
		req, _ := http.NewRequest("GET", srv.URL+path, nil)
		return lib.Error(fetch(context.Background(), req))
	}
	burst := func() {
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() { ask("/") })
		}
		wg.Wait()
		time.Sleep(100 * time.Millisecond)
	}
	burst()
	before := dialled.Load()
	burst()
	again := dialled.Load() - before
	start := time.Now()
	hung := ask("/hangs")
	waited := time.Since(start).Round(time.Second)
	long := ask("/long")
	lib.Verdict(hung != nil && waited == 2*time.Second && long != nil && again == 0,
		"second burst of 40 dials again: %t; service that hangs: %v after %v; body of 3 MiB: %v", again > 0, hung != nil, waited, long)
}

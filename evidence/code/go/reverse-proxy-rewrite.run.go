func userFrom(ctx context.Context) string { return "anna" }

func gateway(mux *http.ServeMux, backend *url.URL, backendTransport http.RoundTripper) {
	<<CELL>>
}

// A client that names X-User as hop-by-hop and brings an X-Forwarded-For of its own.
func main() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "X-User %q, X-Forwarded-For %q", r.Header.Get("X-User"), r.Header.Get("X-Forwarded-For"))
	}))
	target, _ := url.Parse(backend.URL)
	mux := http.NewServeMux()
	gateway(mux, target, http.DefaultTransport)
	srv := httptest.NewServer(mux)
	_, _, body, _ := lib.Ask("GET", srv.URL, "", "Connection: X-User", "X-Forwarded-For: 6.6.6.6", "X-User: root")
	lib.Verdict(body == `X-User "anna", X-Forwarded-For "127.0.0.1"`, "the backend got %s", body)
}

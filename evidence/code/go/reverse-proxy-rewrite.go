func userFrom(ctx context.Context) string { return "" }

func gateway(mux *http.ServeMux, backend *url.URL, backendTransport http.RoundTripper) {
	<<CELL>>
}

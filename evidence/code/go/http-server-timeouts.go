func stream(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController) {}

func serve(mux *http.ServeMux, addr string) {
	<<CELL>>
}

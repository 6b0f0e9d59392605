func stream(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController) {
	fmt.Fprint(w, "data: 1\n\n")
	rc.Flush()
}

func serve(mux *http.ServeMux, addr string) {
	<<CELL>>
}

// A client that sends half of its headers and then nothing.
func main() {
	addr := lib.Address()
	go serve(http.NewServeMux(), addr)
	lib.Listening(addr)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		panic(err)
	}
	start := time.Now()
	fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: a\r\nX-Slow: ")
	conn.SetReadDeadline(start.Add(8 * time.Second))
	_, err = io.ReadAll(conn)
	held := time.Since(start).Round(time.Second)
	status, _, body, _ := lib.Ask("GET", "http://"+addr+"/events", "")
	lib.Verdict(err == nil && held == 5*time.Second && status == 200,
		"half a header: connection held for %v of 8s; event stream: %d %q", held, status, body)
}

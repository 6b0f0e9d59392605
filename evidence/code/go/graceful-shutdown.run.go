<<CELL>>

// A handler of 7 s runs when the signal comes; 2 s later somebody asks again.
func main() {
	addr := lib.Address()
	if lib.Child() {
		addr = os.Getenv("ADDRESS")
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		mux := http.NewServeMux()
		mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(7 * time.Second)
			fmt.Fprint(w, "complete")
		})
		mux.HandleFunc("/stop", func(w http.ResponseWriter, r *http.Request) { syscall.Kill(os.Getpid(), syscall.SIGTERM) })
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {})
		fmt.Print(serve(ctx, &http.Server{Addr: addr, Handler: mux}))
		return
	}
	ended := make(chan string, 1)
	go func() {
		_, output := lib.Isolated("ADDRESS=" + addr)
		ended <- output
	}()
	lib.Listening(addr)
	slow := make(chan string, 1)
	go func() {
		_, _, body, err := lib.Ask("GET", "http://"+addr+"/slow", "")
		if err != nil {
			body = "cut off"
		}
		slow <- body
	}()
	time.Sleep(200 * time.Millisecond)
	client := &http.Client{Timeout: 5 * time.Second}
	if resp, err := client.Get("http://" + addr + "/stop"); err == nil {
		resp.Body.Close()
	}
	time.Sleep(2 * time.Second)
	late := "refused"
	if resp, err := client.Get("http://" + addr + "/"); err == nil {
		resp.Body.Close()
		late = fmt.Sprintf("%d, to close: %t", resp.StatusCode, resp.Close)
	}
	answer, output := <-slow, <-ended
	lib.Verdict(answer == "complete" && late == "200, to close: true" && output == "<nil>",
		"request in flight: %s; request 2 s after SIGTERM: %s; serve returned %s", answer, late, output)
}

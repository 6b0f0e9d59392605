type statusWriter struct {
	http.ResponseWriter
	wrote bool
}

func (w *statusWriter) WriteHeader(code int) {
	w.wrote = w.wrote || code >= 200
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(part []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(part)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func audit(r *http.Request) {
	if r.URL.Path == "/audited" {
		panic("audit")
	}
}

<<CELL>>

// Panics before and in the middle of an answer, an intended abort, and one in a goroutine of the middleware.
func main() {
	addr := lib.Address()
	if lib.Child() {
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "session=1")
			switch r.URL.Path {
			case "/half":
				fmt.Fprint(w, "half of it")
				panic("half")
			case "/abort":
				panic(http.ErrAbortHandler)
			case "/early":
				panic("early")
			}
			time.Sleep(100 * time.Millisecond)
		})
		http.ListenAndServe(os.Getenv("ADDRESS"), recoverer(handler))
		return
	}
	ended := make(chan int, 1)
	logged := make(chan string, 1)
	go func() {
		status, output := lib.Isolated("ADDRESS=" + addr)
		ended <- status
		logged <- output
	}()
	lib.Listening(addr)
	early, header, text, _ := lib.Ask("GET", "http://"+addr+"/early", "")
	half, _, _, cut := lib.Ask("GET", "http://"+addr+"/half", "")
	abort, _, _, aborted := lib.Ask("GET", "http://"+addr+"/abort", "")
	_, _, _, alive := lib.Ask("GET", "http://"+addr+"/audited", "")
	lib.Stop()
	status, silent := <-ended, !strings.Contains(<-logged, "abort Handler")
	lib.Verdict(early == 500 && header.Get("Set-Cookie") == "" && cut != nil && aborted != nil && silent && alive == nil && status == -1,
		"panic early: %d %q, cookie kept: %t; half sent: %d, cut: %t; abort: %d, cut: %t, unlogged: %t; process ended by itself: %t",
		early, strings.TrimSpace(text), header.Get("Set-Cookie") != "", half, cut != nil, abort, aborted != nil, silent, status != -1)
}

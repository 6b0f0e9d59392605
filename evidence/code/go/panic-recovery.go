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

func audit(r *http.Request) {}

<<CELL>>

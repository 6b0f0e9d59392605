// Command main is the service under test: what its handlers do is what the tests throw at it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"example.com/service"
)

// exists waits until the tests have made a file, or the context has ended.
func exists(ctx context.Context, path string) error {
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	s := service.New(os.Getenv("ADDR"))
	seconds := map[string]float64{}
	if err := json.Unmarshal([]byte(os.Getenv("SECONDS")), &seconds); err != nil {
		panic(err)
	}
	for name, limit := range map[string]*time.Duration{
		"ReadHeaderTimeout": &s.Server.ReadHeaderTimeout, "ReadTimeout": &s.Server.ReadTimeout,
		"WriteTimeout": &s.Server.WriteTimeout, "IdleTimeout": &s.Server.IdleTimeout,
		"Request": &s.Request, "ReadyLag": &s.ReadyLag, "Drain": &s.Drain, "Cut": &s.Cut,
	} {
		if wanted, ok := seconds[name]; ok && *limit > 0 && *limit < time.Hour { // what the recipe does not limit stays so
			*limit = time.Duration(wanted * float64(time.Second))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	mux.HandleFunc("POST /size", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			http.Error(w, "too slow", http.StatusRequestTimeout)
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		} else {
			fmt.Fprint(w, len(body))
		}
	})
	mux.HandleFunc("GET /large", func(w http.ResponseWriter, _ *http.Request) {
		part := bytes.Repeat([]byte("x"), 1<<20)
		for range 256 {
			if _, err := w.Write(part); err != nil {
				slog.Info("the answer was cut", "timeout", errors.Is(err, os.ErrDeadlineExceeded))
				return
			}
		}
		slog.Info("the answer was read")
	})
	mux.HandleFunc("GET /panic", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("Set-Cookie", "session=1")
		panic("in the handler")
	})
	mux.HandleFunc("GET /half", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "half of the answer")
		switch r.FormValue("how") {
		case "panic":
			panic("half way")
		case "abort":
			panic(http.ErrAbortHandler)
		}
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first")
		if err := http.NewResponseController(w).Flush(); err != nil {
			slog.Error("not flushed", "error", err)
		}
		_ = exists(r.Context(), r.FormValue("file"))
		fmt.Fprint(w, "second")
	})
	mux.HandleFunc("GET /patient", func(w http.ResponseWriter, r *http.Request) { // waits beyond WriteTimeout on purpose
		if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
			slog.Error("no deadline set", "error", err)
		}
		time.Sleep(s.Server.WriteTimeout + 300*time.Millisecond)
		fmt.Fprint(w, "late")
	})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) { // heeds its context
		slog.Info("waiting")
		<-r.Context().Done()
	})
	mux.HandleFunc("GET /deaf", func(w http.ResponseWriter, r *http.Request) { // does not
		slog.Info("deaf")
		_ = exists(context.Background(), r.FormValue("file"))
		fmt.Fprint(w, "done")
	})
	mux.HandleFunc("POST /job", func(w http.ResponseWriter, r *http.Request) {
		s.Go(r.Context(), time.Minute, func(ctx context.Context) {
			if r.FormValue("file") == "" {
				panic("in the job")
			}
			slog.Info("job ended", "error", exists(ctx, r.FormValue("file")))
		})
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST /go", func(http.ResponseWriter, *http.Request) { go panic("in a goroutine of its own") })
	if err := s.Run(mux); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
	slog.Info("ended")
}

// Command service takes the orders of partners.
package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"
	"unicode/utf8"
)

func number(name string, start float64) float64 {
	if value, err := strconv.ParseFloat(os.Getenv(name), 64); err == nil {
		return value
	}
	return start
}

func seconds(name string, start float64) time.Duration {
	return time.Duration(number(name, start) * float64(time.Second))
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func orders(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "unsupported_media_type")
		return
	}
	body, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		fail(w, http.StatusRequestEntityTooLarge, "too_large")
		return
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		fail(w, http.StatusRequestTimeout, "timeout")
		return
	}
	var keys map[string]json.RawMessage // a struct would take "SKU" for "sku"
	var sku *string
	var quantity *int
	if err == nil {
		err = errors.Join(json.Unmarshal(body, &keys), json.Unmarshal(keys["sku"], &sku), json.Unmarshal(keys["quantity"], &quantity))
	}
	if err != nil || sku == nil || quantity == nil || *quantity < 1 || *quantity > 1000 ||
		*sku == "" || utf8.RuneCountInString(*sku) > 64 {
		fail(w, http.StatusBadRequest, "invalid_request")
		return
	}
	answer(w, http.StatusCreated, map[string]any{"id": rand.Text(), "sku": *sku, "quantity": *quantity})
}

func slow(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.ParseUint(r.URL.Query().Get("ms"), 10, 32)
	if err != nil || ms > 60000 {
		fail(w, http.StatusBadRequest, "invalid_request")
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		answer(w, http.StatusOK, map[string]any{"slept": ms})
	case <-r.Context().Done():
	}
}

func main() {
	s := New("127.0.0.1:" + os.Getenv("PORT"))
	s.Server.ReadHeaderTimeout, s.Server.ReadTimeout = seconds("HEADER_SECONDS", 5), seconds("BODY_SECONDS", 10)
	s.Server.IdleTimeout, s.Request = seconds("IDLE_SECONDS", 60), seconds("REQUEST_SECONDS", 30)
	s.Server.WriteTimeout = s.Server.ReadTimeout + s.Request + 5*time.Second
	s.Server.MaxHeaderBytes = int(number("MAX_HEADER_BYTES", 16384))
	s.MaxBody, s.MaxRequests = int64(number("MAX_BODY_BYTES", 1<<20)), int64(number("MAX_REQUESTS", 200))
	s.ReadyLag, s.Drain = seconds("LB_SECONDS", 5), seconds("DRAIN_SECONDS", 20)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", orders)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("on purpose") })
	for _, path := range []string{"/orders", "/slow", "/panic"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			fail(w, http.StatusMethodNotAllowed, "method_not_allowed")
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "not_found") })
	if err := s.Run(mux); err != nil {
		slog.Error("ended", "error", err)
		if !s.draining.Load() {
			os.Exit(1)
		}
	}
}

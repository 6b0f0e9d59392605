package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func setting(name string, start float64) float64 {
	if value, err := strconv.ParseFloat(os.Getenv(name), 64); err == nil {
		return value
	}
	return start
}

func seconds(name string, start float64) time.Duration {
	return time.Duration(setting(name, start) * float64(time.Second))
}

func send(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func main() {
	timeout := seconds("TIMEOUT_SECONDS", 2)
	client := New(os.Getenv("UPSTREAM_URL"), int(setting("MAX_UPSTREAM", 20)))
	client.TTL = seconds("TTL_SECONDS", 30)
	client.Fetch = timeout - timeout/50 // ended before its callers are told, so that the next one makes a new call
	client.MaxEntries = int(setting("MAX_ENTRIES", 10_000))

	handler := func(w http.ResponseWriter, r *http.Request) {
		id, found := strings.CutPrefix(r.URL.Path, "/prices/")
		switch {
		case r.Method != http.MethodGet:
			send(w, http.StatusMethodNotAllowed, map[string]string{"error": "method"})
			return
		case r.URL.Path == "/healthz":
			send(w, http.StatusOK, map[string]string{"status": "ok"})
			return
		case !found:
			send(w, http.StatusNotFound, map[string]string{"error": "not_found"})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		price, err := client.Price(ctx, id)
		status, code := http.StatusBadGateway, "upstream_failed"
		switch {
		case err == nil:
			send(w, http.StatusOK, price)
			return
		case errors.Is(err, ErrBadID):
			status, code = http.StatusBadRequest, "invalid_id"
		case errors.Is(err, ErrNotFound):
			status, code = http.StatusNotFound, "not_found"
		case errors.Is(err, context.DeadlineExceeded):
			status, code = http.StatusGatewayTimeout, "timeout"
		}
		slog.Info("no price", "id", id, "error", err)
		send(w, status, map[string]string{"error": code})
	}

	server := &http.Server{
		Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: http.HandlerFunc(handler), ReadHeaderTimeout: 10 * time.Second,
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("ended", "error", err)
			os.Exit(1)
		}
	}()
	<-stop.Done()
	drain, cancel := context.WithTimeout(context.Background(), seconds("DRAIN_SECONDS", 10))
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		slog.Error("cut off", "error", err)
	}
}

// Command main answers GET /price?id=...&seconds=... from the client under test.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"example.com/prices"
)

// panics stands for instrumentation that fails.
type panics struct{ http.RoundTripper }

func (p panics) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/prices/panic" {
		panic("in the transport")
	}
	return p.RoundTripper.RoundTrip(r)
}

func main() {
	client := prices.New(os.Getenv("UPSTREAM"))
	client.HTTP.Transport = panics{client.HTTP.Transport}
	settings := map[string]float64{}
	if err := json.Unmarshal([]byte(os.Getenv("SETTINGS")), &settings); err != nil {
		panic(err)
	}
	client.TTL = time.Duration(settings["TTL"] * float64(time.Second))
	client.Fetch = time.Duration(settings["Fetch"] * float64(time.Second))
	client.MaxEntries = int(settings["MaxEntries"])

	var inside, gone atomic.Int64
	http.HandleFunc("GET /price", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if seconds, err := strconv.ParseFloat(r.FormValue("seconds"), 64); err == nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)))
			defer cancel()
		}
		inside.Add(1)
		price, err := client.Price(ctx, r.FormValue("id"))
		inside.Add(-1)
		switch {
		case err == nil:
			fmt.Fprint(w, price.Cents)
		case ctx.Err() != nil:
			gone.Add(1)
			http.Error(w, err.Error(), http.StatusGatewayTimeout)
		case errors.Is(err, prices.ErrBadID):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case errors.Is(err, prices.ErrNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		default:
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	http.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]int64{
			"inside": inside.Load(), "gone": gone.Load(), "goroutines": int64(runtime.NumGoroutine()),
		})
	})
	slog.Error("ended", "error", http.ListenAndServe(os.Getenv("ADDR"), nil))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type Service struct {
	Server               http.Server
	Request              time.Duration // deadline of a handler's context, below Server.WriteTimeout
	MaxBody, MaxRequests int64
	ReadyLag, Drain, Cut time.Duration   // their sum stays below the grace period before SIGKILL
	base                 context.Context // of all requests and jobs; ends when Drain is over
	cut                  func()
	draining             atomic.Bool
	under                atomic.Int64 // requests at work
	active               sync.Map     // connections that are at a request
}

// New returns a service with starting values for every limit; change them before Run.
func New(addr string) *Service {
	base, cut := context.WithCancel(context.Background())
	return &Service{
		Server: http.Server{
			Addr:              addr,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       15 * time.Second, // header and body
			WriteTimeout:      30 * time.Second, // from the end of the header to the last byte of the answer
			IdleTimeout:       75 * time.Second, // above the load balancer's, which then closes first
			MaxHeaderBytes:    32 << 10,
			BaseContext:       func(net.Listener) context.Context { return base },
		},
		Request: 10 * time.Second, MaxBody: 1 << 20, base: base, cut: cut,
		ReadyLag: 5 * time.Second, Drain: 18 * time.Second, Cut: 300 * time.Millisecond,
	}
}

// Run serves until SIGTERM or SIGINT; nil means that every request and job ended by itself.
func (s *Service) Run(handler http.Handler) error {
	if s.Request >= s.Server.WriteTimeout {
		return fmt.Errorf("deadline %v >= WriteTimeout %v: the answer to it could not be sent", s.Request, s.Server.WriteTimeout)
	}
	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop() // not before the end: a second signal must not kill the drain
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if s.draining.Load() {
			answer(w, http.StatusServiceUnavailable, map[string]string{"status": "stopping"})
		} else {
			answer(w, http.StatusOK, map[string]string{"status": "ok"})
		}
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed")
	})
	mux.Handle("/", s.guard(handler))
	s.Server.Handler = mux
	s.Server.ConnState = func(connection net.Conn, state http.ConnState) {
		if state == http.StateActive {
			s.active.Store(connection, true)
		} else {
			s.active.Delete(connection)
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Server.ListenAndServe() }()
	select {
	case err := <-failed: // the port is taken
		return err
	case <-signals.Done():
	}
	s.draining.Store(true) // readiness fails first; requests are served until the load balancers have noticed
	time.Sleep(s.ReadyLag)
	err := s.drain(s.Drain)
	if err != nil {
		s.cut() // handlers and jobs that heed their context end now, with an answer
		err = fmt.Errorf("requests or jobs were cut off: %w", errors.Join(err, s.drain(s.Cut), s.Server.Close()))
	}
	return err
}

// drain stops accepting, then waits for the requests, then for the jobs that they started.
func (s *Service) drain(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit) // not below the signal's context: that has ended
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- s.Server.Shutdown(ctx) }()
	for waiting := true; waiting; {
		select {
		case err := <-shut:
			if err != nil {
				return err
			}
			waiting = false
		case <-time.After(500 * time.Millisecond): // Shutdown waits 5 s for those who have said nothing yet
			waiting = false
			s.active.Range(func(any, any) bool { waiting = true; return false })
			if !waiting {
				_ = s.Server.Close()
			}
		}
	}
	return nil
}

// guard gives each request its limits, and an answer when its handler panics or gives up at the deadline.
func (s *Service) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.under.Add(-1)
		if s.under.Add(1) > s.MaxRequests {
			w.Header().Set("Retry-After", "1")
			fail(w, http.StatusServiceUnavailable, "busy")
			return
		}
		if s.draining.Load() {
			w.Header().Set("Connection", "close") // the client leaves before Shutdown closes the connection under it
		}
		r.Body = http.MaxBytesReader(w, r.Body, s.MaxBody) // through a wrapper of w the server would read on
		ctx, cancel := context.WithTimeout(r.Context(), s.Request)
		defer cancel()
		answer := &writer{ResponseWriter: w}
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				slog.ErrorContext(ctx, "panic in a handler", "value", p, "stack", string(debug.Stack()))
			}
			if p != nil && (answer.begun || p == http.ErrAbortHandler) {
				panic(http.ErrAbortHandler) // cuts the connection, or half an answer would look whole
			}
			if p != nil {
				fail(w, http.StatusInternalServerError, "internal")
			} else if ctx.Err() != nil && !answer.begun { // the handler gave up without a word
				fail(w, http.StatusServiceUnavailable, "timeout")
			}
		}()
		next.ServeHTTP(answer, r.WithContext(ctx))
	})
}

// fail drops what the handler has set, so that no Cache-Control, ETag or Set-Cookie stays on the error.
func fail(w http.ResponseWriter, status int, code string) {
	maps.DeleteFunc(w.Header(), func(name string, _ []string) bool { return name != "Connection" && name != "Retry-After" })
	answer(w, status, map[string]string{"error": code})
}

// writer notes whether the answer has begun.
type writer struct {
	http.ResponseWriter
	begun bool
}

func (w *writer) WriteHeader(status int) {
	w.begun = w.begun || status >= http.StatusOK // 1xx are no answer yet
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(b []byte) (int, error) { w.begun = true; return w.ResponseWriter.Write(b) }
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter } // for http.ResponseController
func (w *writer) Flush()                      { w.begun = true; _ = http.NewResponseController(w.ResponseWriter).Flush() }

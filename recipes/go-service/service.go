// Package service runs an http.Handler with every limit set, and stops it without losing a request.
package service

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
	MaxBody              int64
	ReadyLag, Drain, Cut time.Duration   // their sum stays below the grace period before SIGKILL
	base                 context.Context // of all requests and jobs; ends when Drain is over
	cut                  func()
	draining             atomic.Bool
	jobs                 sync.WaitGroup
}

// New returns a service with starting values for every limit; change them before Run.
func New(addr string) *Service {
	base, cut := context.WithCancel(context.Background())
	return &Service{
		Server: http.Server{
			Addr:                addr,
			ReadHeaderTimeout:   5 * time.Second,
			ReadTimeout:         15 * time.Second, // header and body
			WriteTimeout:        30 * time.Second, // from the end of the header to the last byte of the answer
			IdleTimeout:         75 * time.Second, // above the load balancer's, which then closes first
			MaxHeaderBytes:      32 << 10,
			MaxHeaderValueCount: 100,
			BaseContext:         func(net.Listener) context.Context { return base },
		},
		Request: 10 * time.Second, MaxBody: 1 << 20, base: base, cut: cut,
		ReadyLag: 5 * time.Second, Drain: 18 * time.Second, Cut: 2 * time.Second,
	}
}

// Go runs a job that outlives the request, with a deadline of its own; Run waits for it and a panic in it is logged.
func (s *Service) Go(ctx context.Context, limit time.Duration, job func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit) // keeps the trace id, not the caller's end
	stop := context.AfterFunc(s.base, cancel)
	s.jobs.Go(func() {
		defer func() {
			if p := recover(); p != nil { // nobody else recovers it: the process would end
				slog.ErrorContext(ctx, "panic in a job", "value", p, "stack", string(debug.Stack()))
			}
			stop()
			cancel()
		}()
		job(ctx)
	})
}

// Run serves until SIGTERM or SIGINT; nil means that every request and job ended by itself.
func (s *Service) Run(handler http.Handler) error {
	if s.Request >= s.Server.WriteTimeout {
		return fmt.Errorf("deadline %v >= WriteTimeout %v: the answer to it could not be sent", s.Request, s.Server.WriteTimeout)
	}
	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop() // not before the end: a second signal must not kill the drain
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.draining.Load() {
			fail(w, http.StatusServiceUnavailable)
		}
	})
	mux.Handle("/", s.guard(handler))
	s.Server.Handler = mux
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
	if err := s.Server.Shutdown(ctx); err != nil {
		return err
	}
	idle, done := context.WithCancel(ctx)
	go func() { s.jobs.Wait(); done() }()
	<-idle.Done()
	return ctx.Err()
}

// guard gives each request its limits, and an answer when its handler panics or gives up at the deadline.
func (s *Service) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
				fail(w, http.StatusInternalServerError)
			} else if ctx.Err() != nil && !answer.begun { // the handler gave up without a word
				fail(w, http.StatusServiceUnavailable)
			}
		}()
		next.ServeHTTP(answer, r.WithContext(ctx))
	})
}

// fail drops what the handler has set: http.Error would keep Cache-Control, ETag and Set-Cookie on the error.
func fail(w http.ResponseWriter, status int) {
	maps.DeleteFunc(w.Header(), func(name string, _ []string) bool { return name != "Connection" })
	http.Error(w, http.StatusText(status), status)
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

// Package pool runs jobs on a fixed number of goroutines behind a queue of fixed length.
package pool

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

var (
	ErrFull    = errors.New("queue is full")
	ErrStopped = errors.New("pool is stopped")
	ErrDropped = errors.New("dropped: the pool stopped before its turn")
)

type Config[T any] struct {
	Workers, Queue int
	Limit          time.Duration // the longest that a job's context lives
	Grace          time.Duration // how long Stop waits for jobs that it has cancelled
	Work           func(context.Context, T) error
	Report         func(T, error) // each job that failed, panicked or was dropped; called from several goroutines
}

type Pool[T any] struct {
	config   Config[T]
	queue    chan T
	stopping chan struct{}
	once     sync.Once
	sending  sync.RWMutex // held for reading while something may be sent to queue, for writing to close it
	workers  sync.WaitGroup
	base     context.Context
	cancel   context.CancelFunc
}

// New starts the workers; whoever calls it calls Stop.
func New[T any](config Config[T]) *Pool[T] {
	p := &Pool[T]{config: config, queue: make(chan T, config.Queue), stopping: make(chan struct{})}
	p.base, p.cancel = context.WithCancel(context.Background())
	for range config.Workers {
		p.workers.Go(func() {
			for job := range p.queue {
				if err := p.run(job); err != nil {
					config.Report(job, err)
				}
			}
		})
	}
	return p
}

// Submit waits for room in the queue: the caller goes no faster than the workers. After nil the job runs or is reported.
func (p *Pool[T]) Submit(ctx context.Context, job T) error {
	p.sending.RLock()
	defer p.sending.RUnlock()
	if p.stopped() {
		return ErrStopped
	}
	select {
	case p.queue <- job:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.stopping:
		return ErrStopped
	}
}

// TrySubmit does not wait: ErrFull is the answer 503 or 429 of whoever calls.
func (p *Pool[T]) TrySubmit(job T) error {
	p.sending.RLock()
	defer p.sending.RUnlock()
	if p.stopped() {
		return ErrStopped
	}
	select {
	case p.queue <- job:
		return nil
	default:
		return ErrFull
	}
}

func (p *Pool[T]) stopped() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// run gives a job its deadline and turns a panic, which would end the process, into an error.
func (p *Pool[T]) run(job T) (err error) {
	if p.base.Err() != nil {
		return ErrDropped
	}
	ctx, cancel := context.WithTimeout(p.base, p.config.Limit)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return p.config.Work(ctx, job)
}

// Stop takes no more jobs and waits for those it has. When ctx ends it cancels what runs and drops what waits; an error
// says that this happened, and whether jobs still run. It may be called more than once.
func (p *Pool[T]) Stop(ctx context.Context) error {
	p.once.Do(func() {
		close(p.stopping) // wakes those who wait in Submit
		p.sending.Lock()  // they have left, and nobody sends after them
		close(p.queue)
		p.sending.Unlock()
	})
	done := make(chan struct{})
	go func() { p.workers.Wait(); close(done) }()
	select {
	case <-done:
		p.cancel()
		return nil
	case <-ctx.Done():
	}
	p.cancel()
	for job := range p.queue { // also when no worker is free to
		p.config.Report(job, ErrDropped)
	}
	select {
	case <-done:
		return fmt.Errorf("jobs were cancelled: %w", context.Cause(ctx))
	case <-time.After(p.config.Grace):
		return fmt.Errorf("jobs ignore that they were cancelled: %w", context.Cause(ctx))
	}
}

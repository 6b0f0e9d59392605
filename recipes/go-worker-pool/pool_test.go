package pool_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pool"
)

// In a bubble of synctest the clock stands still while anything runs, so that the times below are exact; and a bubble
// fails when a goroutine is left at its end.

// job is what the tests throw at the pool.
type job func(context.Context) error

type outcome struct {
	sync.Mutex
	errs []error
}

func (o *outcome) report(_ job, err error) {
	o.Lock()
	defer o.Unlock()
	o.errs = append(o.errs, err)
}

func (o *outcome) count(kind error) (n int) {
	o.Lock()
	defer o.Unlock()
	for _, err := range o.errs {
		if errors.Is(err, kind) {
			n++
		}
	}
	return n
}

func start(workers, queue int) (*pool.Pool[job], *outcome) {
	reported := &outcome{}
	return pool.New(pool.Config[job]{
		Workers: workers, Queue: queue, Limit: time.Minute, Grace: 5 * time.Second,
		Work:   func(ctx context.Context, j job) error { return j(ctx) },
		Report: reported.report,
	}), reported
}

func takes(d time.Duration) job {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func fault(t *testing.T, thrown, happened string, values ...any) {
	t.Attr("fault", thrown+" => "+fmt.Sprintf(happened, values...))
}

func must(t *testing.T, ok bool, values ...any) {
	t.Helper()
	if !ok {
		t.Fatal(values...)
	}
}

func TestAFullQueueHoldsTheCallerBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := start(4, 8)
		var running, most, accepted atomic.Int64
		work := func(ctx context.Context) error {
			now := running.Add(1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			defer running.Add(-1)
			return takes(time.Second)(ctx)
		}
		var submitters sync.WaitGroup
		for range 100 {
			submitters.Go(func() {
				if p.Submit(t.Context(), work) == nil {
					accepted.Add(1)
				}
			})
		}
		synctest.Wait()
		first := accepted.Load()
		began := time.Now()
		submitters.Wait()
		must(t, p.Stop(t.Context()) == nil)
		must(t, first == 12 && most.Load() == 4 && accepted.Load() == 100, first, most.Load(), accepted.Load())
		fault(t, "100 callers submit jobs of 1 s to 4 workers and a queue of 8",
			"%d accepted at once, the others wait; at most %d run at a time, all %d done after %v",
			first, most.Load(), accepted.Load(), time.Since(began))
	})
}

func TestAFullQueueIsSaidAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := start(4, 8)
		for range 4 { // these run
			must(t, p.Submit(t.Context(), takes(time.Second)) == nil)
			synctest.Wait()
		}
		began, full := time.Now(), 0
		for range 100 {
			if errors.Is(p.TrySubmit(takes(time.Second)), pool.ErrFull) {
				full++
			}
		}
		must(t, full == 92 && time.Since(began) == 0, full)
		must(t, p.Stop(t.Context()) == nil)
		fault(t, "100 times TrySubmit while 4 workers are busy, queue of 8", "%d accepted, %d ErrFull without waiting", 100-full, full)
	})
}

func TestACallerGivesUpWaitingForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := start(1, 0)
		must(t, p.Submit(t.Context(), takes(10*time.Second)) == nil)
		began := time.Now()
		err := p.Submit(within(t, time.Second), takes(0))
		must(t, errors.Is(err, context.DeadlineExceeded) && time.Since(began) == time.Second, err)
		fault(t, "the queue stays full, the caller's deadline is 1 s", "%v after %v", err, time.Since(began))
		must(t, p.Stop(t.Context()) == nil)
	})
}

func TestAPanicCostsOneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, reported := start(2, 0)
		var done atomic.Int64
		for n := range 100 {
			must(t, p.Submit(t.Context(), func(context.Context) error {
				if n%2 == 0 {
					panic("bad job")
				}
				done.Add(1)
				return nil
			}) == nil)
		}
		must(t, p.Stop(t.Context()) == nil)
		stack := strings.Contains(reported.errs[0].Error(), "pool_test.go")
		must(t, len(reported.errs) == 50 && done.Load() == 50 && stack, reported.errs[0])
		fault(t, "50 of 100 jobs panic on 2 workers", "%d reported with the stack, %d done", len(reported.errs), done.Load())
	})
}

func TestErrorsAreReportedWithTheirJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		odd := map[int]bool{}
		var mu sync.Mutex
		bad := errors.New("odd")
		p := pool.New(pool.Config[int]{
			Workers: 4, Queue: 4, Limit: time.Minute, Grace: time.Second,
			Work: func(_ context.Context, n int) error {
				if n%2 == 1 {
					return bad
				}
				return nil
			},
			Report: func(n int, err error) {
				mu.Lock()
				defer mu.Unlock()
				odd[n] = errors.Is(err, bad) && n%2 == 1
			},
		})
		for n := range 100 {
			must(t, p.Submit(t.Context(), n) == nil)
		}
		must(t, p.Stop(t.Context()) == nil)
		for _, ok := range odd {
			must(t, ok, odd)
		}
		must(t, len(odd) == 50, len(odd))
		fault(t, "50 of 100 jobs return an error", "%d reported, each with its job", len(odd))
	})
}

func TestAJobThatHangsEndsAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, reported := start(1, 0)
		began := time.Now()
		must(t, p.Submit(t.Context(), takes(time.Hour)) == nil)
		must(t, p.Submit(t.Context(), takes(0)) == nil)
		took := time.Since(began)
		must(t, reported.count(context.DeadlineExceeded) == 1 && took == time.Minute, took)
		must(t, p.Stop(t.Context()) == nil)
		fault(t, "a job waits for an hour, Limit is 1 min", "%v after %v, its worker takes the next job", context.DeadlineExceeded, took)
	})
}

func TestStopDrainsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, reported := start(4, 16)
		var done atomic.Int64
		for range 20 {
			must(t, p.Submit(t.Context(), func(ctx context.Context) error {
				defer done.Add(1)
				return takes(time.Second)(ctx)
			}) == nil)
		}
		began := time.Now()
		err := p.Stop(within(t, 30*time.Second))
		must(t, err == nil && done.Load() == 20 && len(reported.errs) == 0, err, done.Load(), reported.errs)
		must(t, errors.Is(p.Submit(t.Context(), takes(0)), pool.ErrStopped))
		must(t, errors.Is(p.TrySubmit(takes(0)), pool.ErrStopped))
		fault(t, "Stop with a deadline of 30 s while 4 jobs of 1 s run and 16 wait", "all %d done after %v, later ones get ErrStopped", done.Load(), time.Since(began))
	})
}

func TestStopCancelsWhatDoesNotEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, reported := start(4, 16)
		for range 20 {
			must(t, p.Submit(t.Context(), takes(40*time.Second)) == nil)
		}
		began := time.Now()
		err := p.Stop(within(t, 10*time.Second))
		cancelled, dropped := reported.count(context.Canceled), reported.count(pool.ErrDropped)
		must(t, err != nil && cancelled == 4 && dropped == 16 && time.Since(began) == 10*time.Second, err, cancelled, dropped)
		fault(t, "Stop with a deadline of 10 s while 4 jobs of 40 s run and 16 wait",
			"after %v an error; %d reported as cancelled, %d as dropped, no goroutine left", time.Since(began), cancelled, dropped)
	})
}

func TestStopDoesNotWaitForJobsThatIgnoreTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, reported := start(2, 3)
		for range 5 {
			must(t, p.Submit(t.Context(), func(context.Context) error { time.Sleep(time.Hour); return nil }) == nil)
		}
		began := time.Now()
		err := p.Stop(within(t, 10*time.Second))
		took, dropped := time.Since(began), reported.count(pool.ErrDropped)
		must(t, err != nil && took == 15*time.Second && dropped == 3, err, took, dropped)
		fault(t, "Stop with a deadline of 10 s while 2 jobs ignore their context and 3 wait, Grace is 5 s",
			"returns after %v: %v; %d reported as dropped", took, err, dropped)
		time.Sleep(2 * time.Hour) // they end at last, and their goroutines with them
	})
}

func TestStopWakesThoseWhoWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := start(1, 1)
		var stopped atomic.Int64
		var submitters sync.WaitGroup
		for range 50 {
			submitters.Go(func() {
				if errors.Is(p.Submit(context.Background(), takes(time.Second)), pool.ErrStopped) {
					stopped.Add(1)
				}
			})
		}
		synctest.Wait()
		must(t, p.Stop(t.Context()) == nil)
		submitters.Wait()
		must(t, stopped.Load() == 48, stopped.Load())
		fault(t, "Stop while 48 callers without a deadline wait for room", "%d get ErrStopped", stopped.Load())
	})
}

// TestNothingIsLostWhenAllStopAtOnce runs on the real clock and with real parallelism.
func TestNothingIsLostWhenAllStopAtOnce(t *testing.T) {
	before := runtime.NumGoroutine()
	const rounds = 1000
	for range rounds {
		var ran, accepted atomic.Int64
		p := pool.New(pool.Config[int]{
			Workers: 4, Queue: 4, Limit: time.Minute, Grace: time.Minute,
			Work:   func(context.Context, int) error { ran.Add(1); return nil },
			Report: func(_ int, err error) { t.Error(err) },
		})
		var all sync.WaitGroup
		gate := make(chan struct{})
		for n := range 32 {
			all.Go(func() {
				<-gate
				for range 20 {
					var err error
					if n%2 == 0 {
						err = p.Submit(t.Context(), n)
					} else {
						err = p.TrySubmit(n)
					}
					if err == nil {
						accepted.Add(1)
					} else if errors.Is(err, pool.ErrStopped) {
						return
					}
				}
			})
		}
		for range 3 {
			all.Go(func() {
				<-gate
				if err := p.Stop(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		close(gate)
		all.Wait()
		must(t, ran.Load() == accepted.Load(), ran.Load(), accepted.Load())
	}
	for range 1000 { // the last ones are on their way out
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	left := runtime.NumGoroutine() - before
	must(t, left <= 0, left)
	fault(t, fmt.Sprintf("%d times 32 callers submit while 3 others stop the pool", rounds), "no send on a closed channel, every job accepted was run, no goroutine left")
}

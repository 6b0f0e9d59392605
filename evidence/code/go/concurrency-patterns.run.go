type Item struct{ ID int64 }

var running, most, started atomic.Int64

func load(ctx context.Context, id int64) (Item, error) {
	started.Add(1)
	now := running.Add(1)
	defer running.Add(-1)
	for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
	}
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
		return Item{}, ctx.Err()
	}
	if id == 50 {
		return Item{}, errors.New("item 50 is broken")
	}
	return Item{id}, nil
}

<<CELL>>

// One of 500 items fails.
func main() {
	ids := make([]int64, 500)
	for i := range ids {
		ids[i] = int64(i)
	}
	err := lib.Error(loadAll(context.Background(), ids))
	time.Sleep(100 * time.Millisecond)
	lib.Verdict(err != nil && most.Load() <= 10 && started.Load() < 100,
		"item 50 of 500 fails: more than 10 at once: %t, most were never started: %t, error %v", most.Load() > 10, started.Load() < 100, err)
}

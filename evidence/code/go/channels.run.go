type Event int

// Source yields its events until they end or the context is done.
type Source interface {
	Events(ctx context.Context) iter.Seq[Event]
}

type three struct{}

func (three) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for i := range 3 {
			time.Sleep(5 * time.Millisecond)
			if !yield(Event(i)) {
				return
			}
		}
	}
}

<<CELL>>

// The child reads all of three sources; then it leaves a fourth call unread, and prints what it has seen.
func main() {
	if lib.Child() {
		count := 0
		for range produce(context.Background(), []Source{three{}, three{}, three{}}) {
			count++
		}
		time.Sleep(50 * time.Millisecond)
		before := runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(context.Background())
		<-produce(ctx, []Source{three{}, three{}})
		cancel()
		time.Sleep(100 * time.Millisecond)
		fmt.Printf("%d of 9 events, %d goroutines left behind", count, runtime.NumGoroutine()-before)
		return
	}
	status, output := lib.Isolated()
	said, _, _ := strings.Cut(output, "\n")
	if strings.HasPrefix(said, "panic: ") && strings.HasSuffix(said, " closed channel") {
		said = "panic: send on or close of closed channel"
	}
	lib.Verdict(status == 0 && said == "9 of 9 events, 0 goroutines left behind", "ended with %d: %s", status, said)
}

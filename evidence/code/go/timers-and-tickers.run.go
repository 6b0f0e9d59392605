type Item struct{ ID int64 }

<<CELL>>

// Two items, a pause longer than the timer, one more item, then the end.
func main() {
	if lib.Child() {
		flushed := 0
		in := make(chan Item)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan bool)
		go func() {
			batchLoop(ctx, in, func(batch []Item) { flushed += len(batch) })
			close(done)
		}()
		in <- Item{1}
		in <- Item{2}
		time.Sleep(1500 * time.Millisecond)
		select {
		case in <- Item{3}:
		case <-time.After(3 * time.Second):
			fmt.Print("the loop hangs after the first flush, ")
		}
		cancel()
		select {
		case <-done:
		case <-time.After(time.Second):
		}
		fmt.Printf("%d items of 3 flushed", flushed)
		return
	}
	_, output := lib.Isolated()
	lib.Verdict(output == "3 items of 3 flushed", "%s", output)
}

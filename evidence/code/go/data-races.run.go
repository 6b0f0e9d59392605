<<CELL>>

// The child writes from two goroutines while a third reads.
func main() {
	if lib.Child() {
		r := &Registry{items: map[string]string{}}
		var wg sync.WaitGroup
		for n := range 2 {
			wg.Go(func() {
				for i := range 200_000 {
					r.Set(strconv.Itoa(i%100), strconv.Itoa(n))
				}
			})
		}
		wg.Go(func() {
			for range 5_000 {
				for range r.Snapshot() {
				}
			}
		})
		wg.Wait()
		fmt.Print("all written and read")
		return
	}
	status, output := lib.Isolated()
	lib.Verdict(status == 0, "ended with %d, died of concurrent access to a map: %t", status, strings.HasPrefix(output, "fatal error: concurrent map"))
}

type Quote struct{ Price int }

func quote(ctx context.Context, url string) Quote {
	if url == "hangs" {
		<-ctx.Done()
	}
	time.Sleep(10 * time.Millisecond)
	return Quote{len(url)}
}

<<CELL>>

// Ten calls of five shops each; then one whose shops never answer, with a deadline.
func main() {
	ctx := context.Background()
	for range 10 {
		firstQuote(ctx, []string{"a", "b", "c", "d", "e"})
	}
	time.Sleep(100 * time.Millisecond)
	leaked := strings.Builder{}
	pprof.Lookup("goroutineleak").WriteTo(&leaked, 1)
	said, _, _ := strings.Cut(leaked.String(), "\n")
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := firstQuote(soon, []string{"hangs"})
	lib.Verdict(said == "goroutineleak profile: total 0" && err != nil, "%s; shop that hangs: %v", said, err)
}

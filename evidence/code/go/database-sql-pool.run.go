import _ "github.com/jackc/pgx/v5/stdlib"

<<CELL>>

// Bursts of 60 queries at once, then a database that is not there.
func main() {
	db, err := newDB(os.Getenv("DATABASE_URL"))
	if err != nil {
		panic(err)
	}
	for range 3 {
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() { db.Exec("SELECT pg_sleep(0.05)") })
		}
		wg.Wait()
	}
	stats := db.Stats()
	_, missing := newDB("postgres://postgres@" + lib.Address() + "/none")
	lib.Verdict(stats.OpenConnections <= 20 && stats.MaxIdleClosed == 0 && missing != nil,
		"3 bursts of 60 queries: %s; wrong address noticed at the start: %t",
		map[bool]string{true: "no connection closed for want of room", false: "connections closed again after each burst"}[stats.MaxIdleClosed == 0],
		missing != nil)
}

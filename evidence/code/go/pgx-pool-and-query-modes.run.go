<<CELL>>

// What the server sees of a query with a parameter.
func main() {
	address, err := url.Parse(os.Getenv("DATABASE_URL"))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	pool, err := newPool(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=%s", address.Hostname(), address.Port(), address.Path[1:]))
	if err != nil {
		panic(err)
	}
	var value, query string
	row := pool.QueryRow(ctx, "SELECT $1::text, query FROM pg_stat_activity WHERE pid = pg_backend_pid()", "a 'value'")
	if err := row.Scan(&value, &query); err != nil {
		panic(err)
	}
	sent, _, _ := strings.Cut(query, ",")
	config := pool.Config()
	lib.Verdict(strings.Contains(query, "$1") && config.MaxConns == 10 && config.PingTimeout > 0,
		"the server got %s; value back: %s; ping timeout %v, jitter %v", sent, value, config.PingTimeout, config.MaxConnLifetimeJitter)
}

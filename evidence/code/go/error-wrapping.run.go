import _ "github.com/jackc/pgx/v5/stdlib"

type Order struct{ ID, Total int64 }

type Store struct{ db *sql.DB }

<<CELL>>

// An order that is there, one that is not, and a database that is not there.
func main() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		panic(err)
	}
	if _, err := db.Exec("CREATE TABLE orders AS SELECT 1::bigint AS id, 7::bigint AS total"); err != nil {
		panic(err)
	}
	ctx := context.Background()
	there, err := (&Store{db}).Order(ctx, 1)
	_, absent := (&Store{db}).Order(ctx, 2)
	db.Close()
	_, broken := (&Store{db}).Order(ctx, 1)
	lib.Verdict(err == nil && there.Total == 7 && missing(absent) && !missing(broken) && broken != nil,
		"total %d; %q is missing: %t; %q is missing: %t", there.Total, absent, missing(absent), broken, missing(broken))
}

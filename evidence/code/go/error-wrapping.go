type Order struct{ ID, Total int64 }

type Store struct{ db *sql.DB }

<<CELL>>

type Item struct{ ID int64 }

<<CELL>>

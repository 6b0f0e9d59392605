type Order struct{ ID int64 }

<<CELL>>

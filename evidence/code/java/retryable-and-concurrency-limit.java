record Stock(int pieces) { }

<<CELL>>

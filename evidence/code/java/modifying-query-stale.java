<<CELL>>

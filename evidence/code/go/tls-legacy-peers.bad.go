<<CELL>>

func main() {}

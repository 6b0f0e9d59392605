type Order struct {
	Role string `json:"role"`
}

<<CELL>>

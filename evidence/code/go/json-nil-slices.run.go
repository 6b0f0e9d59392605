type Order struct{ ID int64 }

<<CELL>>

func main() {
	none, _ := json.Marshal(newPage(slices.Values([]Order(nil))))
	one, _ := json.Marshal(newPage(slices.Values([]Order{{1}})))
	lib.Verdict(string(none) == `{"items":[]}` && string(one) == `{"items":[{"ID":1}]}`, "none: %s, one: %s", none, one)
}

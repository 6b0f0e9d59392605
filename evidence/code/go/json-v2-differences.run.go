type Order struct {
	Role string `json:"role"`
}

<<CELL>>

// Bodies that two services may read differently, then a good one.
func main() {
	ask := func(body string) string {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		o, err := decodeOrder(httptest.NewRecorder(), r)
		if err != nil {
			return "refused"
		}
		return "role " + o.Role
	}
	twice := ask(`{"role": "user", "role": "admin"}`)
	upper := ask(`{"role": "user", "ROLE": "admin"}`)
	trailing := ask(`{"role": "user"} {"role": "admin"}`)
	plain := ask(`{"role": "user"}`)
	lib.Verdict(twice == "refused" && upper == "refused" && trailing == "refused" && plain == "role user",
		"name twice: %s; in capitals: %s; trailing data: %s; plain: %s", twice, upper, trailing, plain)
}

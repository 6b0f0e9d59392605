var client = &http.Client{Timeout: 2 * time.Second}

<<CELL>>

type Quote struct{ Price int }

func quote(ctx context.Context, url string) Quote { return Quote{len(url)} }

<<CELL>>

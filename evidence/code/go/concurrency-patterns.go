type Item struct{ ID int64 }

func load(ctx context.Context, id int64) (Item, error) { return Item{id}, ctx.Err() }

<<CELL>>

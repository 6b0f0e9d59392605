type Event int

// Source yields its events until they end or the context is done.
type Source interface {
	Events(ctx context.Context) iter.Seq[Event]
}

<<CELL>>

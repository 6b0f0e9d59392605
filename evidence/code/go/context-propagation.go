type Order struct{ ID int64 }

type Server struct {
	store interface {
		Insert(ctx context.Context, sku string) (Order, error)
	}
	jobs sync.WaitGroup
}

func (s *Server) sendMail(ctx context.Context, order Order) {}

<<CELL>>

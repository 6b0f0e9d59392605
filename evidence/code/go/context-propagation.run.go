type Order struct{ ID int64 }

type Server struct {
	store *store
	jobs  sync.WaitGroup
	mail  chan error
}

type store struct{ ended chan error }

func (s *store) Insert(ctx context.Context, sku string) (Order, error) {
	if sku != "slow" {
		return Order{1}, nil
	}
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
	}
	s.ended <- ctx.Err()
	return Order{1}, ctx.Err()
}

func (s *Server) sendMail(ctx context.Context, order Order) {
	select {
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
	}
	s.mail <- ctx.Err()
}

<<CELL>>

// One order is answered before its mail is sent; the client of another leaves during the insert.
func main() {
	s := &Server{store: &store{make(chan error, 1)}, mail: make(chan error, 2)}
	srv := httptest.NewServer(http.HandlerFunc(s.create))
	status, _, _, _ := lib.Ask("POST", srv.URL+"/?sku=quick", "")
	mail := <-s.mail
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", srv.URL+"/?sku=slow", nil)
	http.DefaultClient.Do(req)
	insert := <-s.store.ended
	lib.Verdict(status == 201 && mail == nil && errors.Is(insert, context.Canceled),
		"answer %d; the mail's context afterwards: %v; the insert's context once its client has left: %v", status, mail, insert)
}

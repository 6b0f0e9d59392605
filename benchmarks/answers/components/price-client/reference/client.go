// The recipe go-single-flight-client; here it limits calls under way, counts the age from a call's begin and repeats nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

var (
	ErrNotFound = errors.New("no such price")
	ErrBadID    = errors.New("not an id")

	validID  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	amount   = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
	currency = regexp.MustCompile(`^[A-Z]{3}$`)
)

// Price is handed to many callers at once: keep it free of maps, slices and pointers, or hand out copies.
type Price struct {
	ID       string `json:"id"`
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

type Client struct {
	HTTP       *http.Client
	Base       string        // http://host:port
	TTL        time.Duration // how old an answer from the cache may be
	Fetch      time.Duration // the longest that a call may take, whatever its callers want
	MaxBody    int64
	MaxEntries int

	flights singleflight.Group
	turns   chan struct{}
	mu      sync.Mutex
	cache   map[string]entry // guarded by mu
}

type entry struct {
	price   Price
	expires time.Time
}

// New returns a client with starting values; one for the whole program, since it holds the connections.
func New(base string, upstream int) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = upstream, upstream // 2 idle ones, the default, dial anew under load
	return &Client{
		HTTP: &http.Client{
			Transport: transport,
			// An internal service that redirects is misconfigured or taken over: do not go where it sends us.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Base: base, TTL: time.Minute, Fetch: 2 * time.Second, MaxBody: 64 << 10, MaxEntries: 10_000,
		turns: make(chan struct{}, upstream),
		cache: map[string]entry{},
	}
}

// Price returns a price from the cache, or from a call that all callers who want this price now share.
func (c *Client) Price(ctx context.Context, id string) (Price, error) {
	if !validID.MatchString(id) {
		return Price{}, fmt.Errorf("%w: %.128q", ErrBadID, id)
	}
	if price, ok := c.cached(id); ok {
		return price, nil
	}
	flight := c.flights.DoChan(id, func() (shared any, err error) {
		defer func() {
			if p := recover(); p != nil { // singleflight raises it where nobody can recover it
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		if price, ok := c.cached(id); ok { // another call ended since the caller looked
			return price, nil
		}
		// The first caller's values, such as the trace, but not its end: others wait for this call too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Fetch)
		defer cancel()
		select {
		case c.turns <- struct{}{}:
			defer func() { <-c.turns }()
		case <-ctx.Done():
			return Price{}, ctx.Err()
		}
		begun := time.Now()
		price, err := c.fetch(ctx, id)
		if err == nil {
			c.store(id, price, begun)
		}
		return price, err
	})
	select {
	case result := <-flight:
		if result.Err != nil {
			return Price{}, fmt.Errorf("price %q: %w", id, result.Err)
		}
		return result.Val.(Price), nil
	case <-ctx.Done(): // this caller gives up, the call goes on and fills the cache
		return Price{}, context.Cause(ctx)
	}
}

func (c *Client) fetch(ctx context.Context, id string) (price Price, err error) {
	// A body without GetBody, empty though it is, keeps net/http from repeating the call when a kept connection breaks.
	once := struct{ io.Reader }{http.NoBody}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Base+"/prices/"+id, once)
	if err != nil {
		return price, err
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return price, err
	}
	defer response.Body.Close()
	// Errors are read too: a body read to its end gives the connection back at once, Close drains in the background.
	body, err := io.ReadAll(io.LimitReader(response.Body, c.MaxBody+1)) // one more, or a cut body looks whole
	switch {
	case response.StatusCode == http.StatusNotFound:
		return price, ErrNotFound
	case response.StatusCode != http.StatusOK:
		return price, fmt.Errorf("status %s", response.Status)
	case err != nil:
		return price, err
	case int64(len(body)) > c.MaxBody:
		return price, fmt.Errorf("body above %d bytes", c.MaxBody)
	}
	var found map[string]json.RawMessage // a struct's keys would match in any case of letters
	if err := json.Unmarshal(body, &found); err != nil {
		return price, err
	}
	for key, to := range map[string]*string{"id": &price.ID, "amount": &price.Amount, "currency": &price.Currency} {
		if err := json.Unmarshal(found[key], to); err != nil {
			return price, fmt.Errorf("%s: %w", key, err)
		}
	}
	if price.ID != id || !amount.MatchString(price.Amount) || !currency.MatchString(price.Currency) {
		return price, fmt.Errorf("no price of %s: %.200q", id, body)
	}
	return price, nil
}

func (c *Client) cached(id string) (Price, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.cache[id]
	return found.price, ok && time.Now().Before(found.expires)
}

func (c *Client) store(id string, price Price, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other := range c.cache { // maps iterate in random order, which evicts well enough
		if len(c.cache) < c.MaxEntries {
			break
		}
		delete(c.cache, other)
	}
	c.cache[id] = entry{price, begun.Add(c.TTL)}
}

package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"

	"example.com/code/lib"
)

type traceKey struct{}

type User struct{ Name string }

<<CELL>>

func main() {
	var out bytes.Buffer
	logger := slog.New(traceHandler{slog.NewTextHandler(&out, nil)})
	ctx := context.WithValue(context.Background(), traceKey{}, "t1")
	logger.InfoContext(ctx, "plain")
	logger.With("job", "sync").InfoContext(ctx, "derived")
	lines := strings.Split(out.String(), "\n")
	plain, derived := strings.Contains(lines[0], "trace_id=t1"), strings.Contains(lines[1], "trace_id=t1")
	lib.Verdict(plain && derived, "trace id in the line: %t; after logger.With: %t", plain, derived)
}

package <<NAME>>

import (
	"context"
	"log/slog"
)

type traceKey struct{}

type User struct{ Name string }

<<CELL>>

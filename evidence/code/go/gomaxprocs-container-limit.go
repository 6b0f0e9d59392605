package <<NAME>>

import (
	"log/slog"
	"runtime"
)

<<CELL>>

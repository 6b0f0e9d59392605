package main

import (
	"fmt"
	"log/slog"
	"runtime"

	"example.com/code/lib"
)

<<CELL>>

// Stands in for a quota of one CPU on a bigger node: the child starts with one processor.
func main() {
	if lib.Child() {
		workers := logCPU(slog.New(slog.DiscardHandler))
		fmt.Printf("more workers than that: %t, processors taken: %t", workers > 1, runtime.GOMAXPROCS(0) > 1)
		return
	}
	_, output := lib.Isolated("GOMAXPROCS=1")
	lib.Verdict(output == "more workers than that: false, processors taken: false", "one processor granted: %s", output)
}

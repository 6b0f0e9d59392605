<<CELL>>

// The child starts with GOMEMLIMIT set by whoever runs it.
func main() {
	if lib.Child() {
		limitMemory()
		fmt.Printf("limit %d MiB, GOGC %d", debug.SetMemoryLimit(-1)>>20, debug.SetGCPercent(100))
		return
	}
	_, output := lib.Isolated("GOMEMLIMIT=100MiB")
	lib.Verdict(output == "limit 100 MiB, GOGC 100", "started with GOMEMLIMIT=100MiB: %s", output)
}

var (
	lbNet *net.IPNet
	addr  string
)

func serve() {
	<<CELL>>
}

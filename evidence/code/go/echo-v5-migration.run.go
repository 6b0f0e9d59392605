var (
	_, lbNet, _ = net.ParseCIDR("127.0.0.0/8")
	addr        = lib.Address()
)

func serve() {
	<<CELL>>
}

// An unknown route; then the process is told to stop.
func main() {
	if lib.Child() {
		addr = os.Getenv("ADDRESS")
		serve()
		fmt.Print("served to the end")
		return
	}
	ended := make(chan string, 1)
	go func() {
		status, output := lib.Isolated("ADDRESS=" + addr)
		ended <- fmt.Sprintf("status %d, clean-up reached: %t", status, strings.HasSuffix(output, "served to the end"))
	}()
	lib.Listening(addr)
	status, _, body, _ := lib.Ask("GET", "http://"+addr+"/nowhere", "")
	lib.Stop()
	lib.Verdict(status == 404, "unknown route: %d %s; on SIGTERM: %s", status, strings.TrimSpace(body), <-ended)
}

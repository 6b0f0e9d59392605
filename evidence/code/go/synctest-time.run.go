import "os/exec"

<<CELL>>

// The machine takes the process off its processors for 400 ms after every 50, as an overloaded or throttled one does; the
// child runs the test again and again until that is over.
func main() {
	if lib.Child() {
		stall := exec.Command("sh", "-c", fmt.Sprintf("for i in 1 2 3 4; do sleep 0.05; kill -STOP %[1]d; sleep 0.4; kill -CONT %[1]d; done", os.Getpid()))
		if err := stall.Start(); err != nil {
			panic(err)
		}
		var over atomic.Bool
		go func() {
			stall.Wait()
			over.Store(true)
		}()
		testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{
			Name: "TestClientGivesUp",
			F: func(t *testing.T) {
				for !over.Load() {
					TestClientGivesUp(t)
				}
				fmt.Println("ran until the end")
			},
		}}, nil, nil)
	}
	status, output := lib.Isolated()
	lib.Verdict(status == 0 && strings.Contains(output, "ran until the end"),
		"process held up for 400 ms now and then, test fails: %t", strings.Contains(output, "--- FAIL: TestClientGivesUp"))
}

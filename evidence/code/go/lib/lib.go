// Package lib is what the programs share: a verdict, a child process, results of either signature.
package lib

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Verdict prints what was measured and ends the program: with 0 when the cell does what the row promises, else with 1.
func Verdict(good bool, format string, values ...any) {
	fmt.Printf(format+"\n", values...)
	if good {
		os.Exit(0)
	}
	os.Exit(1)
}

// Error is the error among the results of a call, or nil: lib.Error(f()).
func Error(results ...any) error {
	for _, result := range results {
		if err, ok := result.(error); ok {
			return err
		}
	}
	return nil
}

// First is the first of the results of a call.
func First[T any](results ...any) T {
	value, _ := results[0].(T)
	return value
}

// Child says whether this is the process that Isolated has started.
func Child() bool { return os.Getenv("CODE_CHILD") != "" }

// Isolated starts this program once more, with Child true; its exit status and all that it wrote.
func Isolated(variables ...string) (int, string) {
	self := exec.Command(os.Args[0])
	self.Env = append(os.Environ(), append(variables, "CODE_CHILD=1")...)
	var output bytes.Buffer
	self.Stdout, self.Stderr = &output, &output
	if err := self.Start(); err != nil {
		panic(err)
	}
	child.Store(self.Process)
	self.Wait()
	return self.ProcessState.ExitCode(), output.String()
}

var child atomic.Pointer[os.Process]

// Stop sends SIGTERM to the process that Isolated has started.
func Stop() { child.Load().Signal(syscall.SIGTERM) }

// Address is one of the loopback interface on which nobody listens just now.
func Address() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Listening waits until somebody accepts connections.
func Listening(address string) {
	for range 500 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	panic("nobody listens on " + address)
}

// Ask sends a request with headers ("Name: value") over a connection of its own: status, headers, body, error.
func Ask(method, url, body string, headers ...string) (int, http.Header, string, error) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Add(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(text), err
}

// Command load is the workload of the cluster test. "load serve ADDR" answers each line with the same line. "load call ADDR" opens
// one new connection after the other, asks one line on each, and prints what it has counted, as JSON, once a second and at the end.
// Both speak clear text: the mTLS is the sidecar's, so one connection here is one handshake there. "load try ADDR..." opens a connection
// to each and prints {ADDR: what came of it}; "load get URL" prints what a GET brings.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	patience = 5 * time.Second  // for one connection, all in all
	slow     = 30 * time.Second // for one that is counted: a machine may be slow, and nobody is cut off
)

func serve(addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(slow))
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil {
				fmt.Fprint(conn, line)
			}
		}()
	}
}

type counts struct {
	sync.Mutex
	Tried  int    `json:"tried"`
	Failed int    `json:"failed"`
	Last   string `json:"last_failure"`
}

func (c *counts) add(err error) {
	c.Lock()
	defer c.Unlock()
	c.Tried++
	if err != nil {
		c.Failed++
		c.Last = time.Now().UTC().Format(time.RFC3339Nano) + " " + err.Error()
	}
}

func (c *counts) print() {
	c.Lock()
	defer c.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(c)
}

func ask(addr, line string) error {
	conn, err := net.DialTimeout("tcp", addr, slow)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(slow))
	if _, err = fmt.Fprintln(conn, line); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && answer != line+"\n" {
		err = fmt.Errorf("asked %q, answered %q", line, answer)
	}
	return err
}

// The first connection may wait for the sidecar; counting starts when one has worked.
func call(addr string) {
	for ask(addr, "first") != nil {
		time.Sleep(100 * time.Millisecond)
	}
	c := &counts{}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	second := time.NewTicker(time.Second)
	next := time.NewTicker(10 * time.Millisecond)
	for n := 0; ; {
		select {
		case <-end:
			c.print()
			return
		case <-second.C:
			c.print()
		case <-next.C:
			n++
			c.add(ask(addr, fmt.Sprint("ping ", n)))
		}
	}
}

const reached = "reached"

// try says of each address whether a connection can be opened; nothing is said on it.
func try(addrs []string) error {
	came := map[string]string{}
	for _, addr := range addrs {
		conn, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			came[addr] = err.Error()
			continue
		}
		conn.Close()
		came[addr] = reached
	}
	return json.NewEncoder(os.Stdout).Encode(came)
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 2 && args[0] == "call":
		call(args[1])
		return nil
	case len(args) >= 2 && args[0] == "try":
		return try(args[1:])
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	}
	return fmt.Errorf("usage: load serve|call ADDR, load try ADDR..., load get URL")
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

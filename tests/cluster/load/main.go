// Command load is the workload of the cluster test. "load serve ADDR" answers each line with the same line. "load call ADDR" opens
// one new connection after the other, asks one line on each, and prints what it has counted, as JSON, once a second and at the end.
// Both speak clear text: the mTLS is the sidecar's, so one connection here is one handshake there.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const patience = 5 * time.Second // for one connection, all in all

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
			_ = conn.SetDeadline(time.Now().Add(patience))
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
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
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

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, serve(os.Args[2]))
		os.Exit(1)
	}
	if len(os.Args) == 3 && os.Args[1] == "call" {
		call(os.Args[2])
		return
	}
	fmt.Fprintln(os.Stderr, "usage: load serve|call ADDR")
	os.Exit(2)
}

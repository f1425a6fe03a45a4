// istioca is an Istio agent's CA client: grpc-go, the published messages of istio.io/api, keys, requests and checks by Go's own
// crypto, retries by the interceptor that pilot-agent uses. For the tests of `./dev interop`.
//
//	istioca sign FLAGS    one key, one request, one answer checked; as JSON
//	istioca hold FLAGS    two answers on one connection with keepalive pings in between, and what the connection did meanwhile
//	istioca load FLAGS    new keys and requests on -workers connections until stdin ends; counts as JSON
package main

import (
	"context"
	"crypto"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "istioca:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	verbs := map[string]func(*options) error{"sign": sign, "hold": hold, "load": load}
	if len(args) == 0 || verbs[args[0]] == nil {
		return fmt.Errorf("usage: istioca sign|hold|load FLAGS")
	}
	o, err := parseOptions(args[0], args[1:])
	if err != nil {
		return err
	}
	return verbs[args[0]](o)
}

type options struct {
	addr, serverName, rootFile, tokenFile, clusterID string
	key, shape, id, certSigner, impersonate, csrFile string
	chainFile, keyFile                               string
	ttl                                              int64
	maxTLS                                           string
	idle                                             time.Duration
	workers                                          int
}

func parseOptions(verb string, args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	f.StringVar(&o.addr, "addr", "", "host:port of the CA")
	f.StringVar(&o.serverName, "server-name", "localhost", "name that its certificate must have")
	f.StringVar(&o.rootFile, "roots", "", "root-cert.pem")
	f.StringVar(&o.tokenFile, "token-file", "", "read anew for each call, trimmed, as pilot-agent does; none: no header")
	f.StringVar(&o.clusterID, "cluster-id", "Kubernetes", "value of ClusterID")
	f.StringVar(&o.key, "key", "p256", "rsa2048, p256 or p384")
	f.StringVar(&o.shape, "shape", "pilot-agent", "of the request: pilot-agent or ztunnel")
	f.StringVar(&o.id, "id", "", "SPIFFE id to ask for and to expect")
	f.StringVar(&o.certSigner, "cert-signer", "", "metadata CertSigner: pilot-agent always sends it")
	f.StringVar(&o.impersonate, "impersonate", "", "metadata ImpersonatedIdentity: ztunnel sends it")
	f.StringVar(&o.csrFile, "csr", "", "send this file instead of a request of our own")
	f.StringVar(&o.chainFile, "client-chain", "", "certificate to show, PEM")
	f.StringVar(&o.keyFile, "client-key", "", "its key, PEM")
	f.Int64Var(&o.ttl, "ttl", 86400, "seconds to ask for")
	f.StringVar(&o.maxTLS, "tls", "1.3", "highest version: 1.2 or 1.3")
	f.DurationVar(&o.idle, "idle", 22*time.Second, "hold: time between the two calls")
	f.IntVar(&o.workers, "workers", 4, "load: connections")
	return o, f.Parse(args)
}

func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// -- sign ----------------------------------------------------------------------------------------

func sign(o *options) error {
	c, err := newClient(o)
	if err != nil {
		return err
	}
	defer c.close()
	key, csr, err := o.request()
	if err != nil {
		return err
	}
	a := c.create(csr)
	if a.Code == "OK" && key != nil {
		a.check(key, o.id)
	}
	return say(a)
}

// -- hold ----------------------------------------------------------------------------------------

type held struct {
	First, Second *answer
	States        []string // of the connection between the two, READY left out
}

func hold(o *options) error {
	c, err := newClient(o)
	if err != nil {
		return err
	}
	defer c.close()
	_, csr, err := o.request()
	if err != nil {
		return err
	}
	out := held{First: c.create(csr), States: []string{}}
	ctx, cancel := context.WithTimeout(context.Background(), o.idle)
	defer cancel()
	for state := connectivity.Ready; c.conn.WaitForStateChange(ctx, state); {
		state = c.conn.GetState()
		out.States = append(out.States, state.String())
	}
	out.Second = c.create(csr)
	return say(out)
}

// -- load ----------------------------------------------------------------------------------------

type counts struct {
	mu       sync.Mutex
	OK       int
	Failed   int
	Attempts int      // calls on the wire, retries included
	Errors   []string // the first few
	Issuers  []string // of the leaves, in order of their first appearance
	Roots    []int    // how many the answers held, the same way
}

func addOnce[T comparable](list []T, v T) []T {
	for _, have := range list {
		if have == v {
			return list
		}
	}
	return append(list, v)
}

func (n *counts) note(a *answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Attempts += a.Attempts
	if a.Code != "OK" || a.Problem != "" {
		n.Failed++
		if len(n.Errors) < 5 {
			n.Errors = append(n.Errors, a.Code+" "+a.Message+" "+a.Problem)
		}
		return
	}
	n.OK++
	n.Issuers = addOnce(n.Issuers, a.Issuer)
	n.Roots = addOnce(n.Roots, a.Roots)
}

func (n *counts) work(o *options, stop <-chan struct{}) error {
	c, err := newClient(o)
	if err != nil {
		return err
	}
	defer c.close()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		var key crypto.Signer
		var csr string
		if key, csr, err = o.request(); err != nil {
			return err
		}
		a := c.create(csr)
		if a.Code == "OK" {
			a.check(key, o.id)
		}
		n.note(a)
	}
}

func load(o *options) error {
	n := &counts{Errors: []string{}, Issuers: []string{}, Roots: []int{}}
	stop, ended := make(chan struct{}), make(chan error, o.workers)
	for range o.workers {
		go func() { ended <- n.work(o, stop) }()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(stop)
	for range o.workers {
		if err := <-ended; err != nil {
			return err
		}
	}
	return say(n)
}

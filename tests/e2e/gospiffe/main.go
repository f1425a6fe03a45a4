// gospiffe is a workload made with the real go-spiffe v2, for the end-to-end tests of the SPIFFE Workload API.
//
//	gospiffe fetch SOCKET            one X.509 context, one set of bundles, and what JWT calls are answered; as JSON
//	gospiffe peer SOCKET SPIFFE-ID   mTLS with the peer of that id, in both directions, new connections all the time
//	gospiffe jwt SOCKET AUDIENCE     a JWTSource: for each line on stdin a JWT-SVID for the audience, checked by go-spiffe itself
//	gospiffe check SOCKET AUDIENCE   for each token on stdin what go-spiffe and what ValidateJWTSVID say of it
//
// A peer prints {"addr"} once it listens, dials the address that it reads from stdin, and prints what it has seen for each
// further line; it goes when stdin ends.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

const (
	startLimit = 60 * time.Second
	callLimit  = 60 * time.Second
	pause      = 5 * time.Millisecond // between one connection's end and the next
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gospiffe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "fetch":
		return fetch(args[1])
	case len(args) == 3 && args[0] == "peer":
		return peer(args[1], args[2])
	case len(args) == 3 && args[0] == "jwt":
		return jwt(args[1], args[2])
	case len(args) == 3 && args[0] == "check":
		return check(args[1], args[2])
	}
	return errors.New("usage: gospiffe fetch SOCKET | peer SOCKET SPIFFE-ID | jwt SOCKET AUDIENCE | check SOCKET AUDIENCE")
}

func say(v interface{}) error { return json.NewEncoder(os.Stdout).Encode(v) }

func subjects(certs []*x509.Certificate) []string {
	all := []string{}
	for _, c := range certs {
		all = append(all, c.Subject.CommonName)
	}
	return all
}

// -- fetch ---------------------------------------------------------------------------------------

type fetched struct {
	Code    string              `json:"code"` // of the X.509 context
	Message string              `json:"message"`
	ID      string              `json:"id"`
	Hint    string              `json:"hint"`
	Chain   []string            `json:"chain"`   // issuers' common names, leaf first
	Trust   []string            `json:"trust"`   // of the context's own bundle
	Bundles map[string][]string `json:"bundles"` // of FetchX509Bundles
	JWT     string              `json:"jwt"`     // code of FetchJWTSVID
}

func fetch(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(socket))
	if err != nil {
		return err
	}
	defer client.Close()
	out := fetched{Chain: []string{}, Trust: []string{}, Bundles: map[string][]string{}}
	x509ctx, err := client.FetchX509Context(ctx)
	out.Code, out.Message = status.Code(err).String(), status.Convert(err).Message()
	if err == nil {
		svid := x509ctx.DefaultSVID()
		out.ID, out.Hint = svid.ID.String(), svid.Hint
		for _, c := range svid.Certificates {
			out.Chain = append(out.Chain, c.Issuer.CommonName)
		}
		bundle, err := x509ctx.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return err
		}
		out.Trust = subjects(bundle.X509Authorities())
	}
	if bundles, err := client.FetchX509Bundles(ctx); err == nil {
		for _, b := range bundles.Bundles() {
			out.Bundles[b.TrustDomain().IDString()] = subjects(b.X509Authorities())
		}
	}
	_, err = client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "a"})
	out.JWT = status.Code(err).String()
	return say(out)
}

// -- peer ----------------------------------------------------------------------------------------

type seen struct {
	mu      sync.Mutex
	OK      int      `json:"ok"`
	Failed  int      `json:"failed"`
	Errors  []string `json:"errors"`  // the first few
	Served  int      `json:"served"`  // connections that were let in
	Refused int      `json:"refused"` // handshakes that failed on our side as server
	Leaves  []string `json:"leaves"`  // serials of the peer's leaves, in order
	Issuers []string `json:"issuers"` // who signed them
}

func add(list []string, s string) []string {
	if len(list) > 0 && list[len(list)-1] == s {
		return list
	}
	return append(list, s)
}

func (s *seen) note(err error, leaf *x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.Failed++
		if len(s.Errors) < 5 {
			s.Errors = append(s.Errors, time.Now().UTC().Format(time.RFC3339Nano)+" "+err.Error())
		}
		return
	}
	s.OK++
	s.Leaves = add(s.Leaves, leaf.SerialNumber.Text(16))
	s.Issuers = add(s.Issuers, leaf.Issuer.CommonName)
}

func (s *seen) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(callLimit))
			err := conn.(*tls.Conn).Handshake()
			s.mu.Lock()
			if err == nil {
				s.Served++
			} else if !errors.Is(err, io.EOF) {
				s.Refused++
			}
			s.mu.Unlock()
			if err == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}

// dial makes one connection and has four bytes sent back: with TLS 1.3 only that shows that the server took our leaf.
func dial(addr string, conf *tls.Config) (*x509.Certificate, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: callLimit}, "tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(callLimit))
	if _, err := conn.Write([]byte("ping")); err != nil {
		return nil, err
	}
	var got [4]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func peer(socket, other string) error {
	id, err := spiffeid.FromString(other)
	if err != nil {
		return err
	}
	start, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	source, err := workloadapi.NewX509Source(start, workloadapi.WithClientOptions(workloadapi.WithAddr(socket)))
	if err != nil {
		return err
	}
	defer source.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(id)))
	if err != nil {
		return err
	}
	defer l.Close()
	s := &seen{Errors: []string{}, Leaves: []string{}, Issuers: []string{}}
	go s.serve(l)
	if err := say(map[string]string{"addr": l.Addr().String()}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	if !in.Scan() {
		return errors.New("no address to dial on stdin")
	}
	addr, stop, done := in.Text(), make(chan struct{}), make(chan struct{})
	conf := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
	go func() {
		defer close(done)
		for {
			leaf, err := dial(addr, conf)
			s.note(err, leaf)
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
		}
	}()
	for in.Scan() { // "" asks for what has been seen so far; "stop" stops dialling first; the listener stays until stdin ends
		if in.Text() == "stop" {
			close(stop)
			<-done
		}
		s.mu.Lock()
		err = say(s)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return in.Err()
}

// -- jwt -----------------------------------------------------------------------------------------

type jwtSeen struct {
	Error    string   `json:"error"`
	Token    string   `json:"token"`
	ID       string   `json:"id"`
	Audience []string `json:"audience"`
	Left     float64  `json:"left"` // seconds until it ends
	Keys     []string `json:"keys"` // ids of the keys in the source's bundle
}

func keyIDs(source *workloadapi.JWTSource, td spiffeid.TrustDomain) ([]string, error) {
	bundle, err := source.GetJWTBundleForTrustDomain(td)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for id := range bundle.JWTAuthorities() {
		ids = append(ids, id)
	}
	return ids, nil
}

func jwtOnce(source *workloadapi.JWTSource, audience string) (out jwtSeen) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	out.Keys, out.Audience = []string{}, []string{}
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, ExtraAudiences: []string{"extra"}})
	if err != nil {
		out.Error = status.Code(err).String() + ": " + err.Error()
		return out
	}
	out.Token = svid.Marshal()
	if out.Keys, err = keyIDs(source, svid.ID.TrustDomain()); err != nil {
		out.Error = err.Error()
		return out
	}
	checked, err := jwtsvid.ParseAndValidate(out.Token, source, []string{audience})
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.ID, out.Audience, out.Left = checked.ID.String(), checked.Audience, time.Until(checked.Expiry).Seconds()
	return out
}

func jwtSource(socket string) (*workloadapi.JWTSource, error) {
	start, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	return workloadapi.NewJWTSource(start, workloadapi.WithClientOptions(workloadapi.WithAddr(socket)))
}

func jwt(socket, audience string) error {
	source, err := jwtSource(socket)
	if err != nil {
		return err
	}
	defer source.Close()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := say(jwtOnce(source, audience)); err != nil {
			return err
		}
	}
	return in.Err()
}

// -- check ---------------------------------------------------------------------------------------

type checked struct {
	Local  string                 `json:"local"` // go-spiffe's own words; "" it is good
	Code   string                 `json:"code"`  // of ValidateJWTSVID
	Words  string                 `json:"words"`
	ID     string                 `json:"id"`
	Claims map[string]interface{} `json:"claims"`
}

func checkOnce(client *workloadapi.Client, source *workloadapi.JWTSource, audience, token string) (out checked) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if _, err := jwtsvid.ParseAndValidate(token, source, []string{audience}); err != nil {
		out.Local = err.Error()
	}
	svid, err := client.ValidateJWTSVID(ctx, token, audience)
	out.Code, out.Words = status.Code(err).String(), status.Convert(err).Message()
	if err == nil {
		out.ID, out.Claims = svid.ID.String(), svid.Claims
	}
	return out
}

func check(socket, audience string) error {
	source, err := jwtSource(socket)
	if err != nil {
		return err
	}
	defer source.Close()
	client, err := workloadapi.New(context.Background(), workloadapi.WithAddr(socket))
	if err != nil {
		return err
	}
	defer client.Close()
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<20)
	for in.Scan() {
		if err := say(checkOnce(client, source, audience, in.Text())); err != nil {
			return err
		}
	}
	return in.Err()
}

// csrdiff makes CSRs, good ones and mutants, and asks three readers of each: Go's crypto/x509 here, ours and OpenSSL's in the
// program csr_verdicts. All that is random comes from one seed, keys and signatures included.
//
//	csrdiff -verdicts PATH [-n 100000] [-seed 4]
//
// Prints one JSON object: how many each accepts, what we accept and both others refuse (there must be none), and why we refuse
// what another accepts.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

type result struct {
	Total           int
	Ours            int
	Go              int
	OpenSSL         int
	All             int            // three times yes
	OnlyOurs        []string       // hex; accepted by us, refused by both others
	OtherKey        []string       // hex; we and OpenSSL read different keys
	GoRefuses       map[string]int // Go's reason -> what we and OpenSSL accept
	OpenSSLRefuses  int            // what we and Go accept
	StricterThanAll map[string]int // our reason -> what both others accept
	StricterThanOne map[string]int // our reason -> what one of the others accepts
	Mutations       map[string]int
}

type record struct {
	der  []byte
	what string
}

const keepMax = 5

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "csrdiff:", err)
		os.Exit(1)
	}
}

func run() error {
	verdicts := flag.String("verdicts", "", "the program csr_verdicts")
	n := flag.Int("n", 100000, "how many")
	seed := flag.Uint64("seed", 4, "of everything")
	flag.Parse()
	c := exec.Command(*verdicts)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	sent, failed := make(chan record, 1024), make(chan error, 1)
	go func() { failed <- send(newMaker(*seed), *n, in, sent) }()
	r, err := compare(out, sent)
	if err != nil {
		return err
	}
	if err := <-failed; err != nil {
		return err
	}
	if err := c.Wait(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func send(m *maker, n int, in io.WriteCloser, sent chan<- record) error {
	defer close(sent)
	defer in.Close()
	w := bufio.NewWriterSize(in, 1<<16)
	for range n {
		der, what := m.next()
		var head [4]byte
		binary.LittleEndian.PutUint32(head[:], uint32(len(der)))
		if _, err := w.Write(append(head[:], der...)); err != nil {
			return err
		}
		sent <- record{der, what}
		if len(sent) > cap(sent)/2 { // the reader waits for verdicts that may lie in our buffer
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

func compare(out io.Reader, sent <-chan record) (*result, error) {
	r := &result{OnlyOurs: []string{}, OtherKey: []string{}, GoRefuses: map[string]int{},
		StricterThanAll: map[string]int{}, StricterThanOne: map[string]int{}, Mutations: map[string]int{}}
	lines := bufio.NewScanner(out)
	for q := range sent {
		if !lines.Scan() {
			return nil, fmt.Errorf("csr_verdicts ended after %d of them, at %x", r.Total, q.der)
		}
		line := lines.Text()
		if len(line) < 5 {
			return nil, fmt.Errorf("csr_verdicts said %q", line)
		}
		r.note(q, line[:4], line[5:])
	}
	return r, nil
}

func keep(list []string, der []byte) []string {
	if len(list) < keepMax {
		list = append(list, hex.EncodeToString(der))
	}
	return list
}

// reason without the numbers and names in it, so that a class is one.
func reason(text string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return '#'
		}
		return c
	}, text)
}

func (r *result) note(q record, verdict, why string) {
	request, err := x509.ParseCertificateRequest(q.der)
	if err == nil {
		err = request.CheckSignature()
	}
	goes, ours, ossl := err == nil, verdict[1] != '0', verdict[3] == '1'
	r.Total++
	r.Mutations[q.what]++
	for _, c := range []struct {
		yes bool
		n   *int
	}{{ours, &r.Ours}, {goes, &r.Go}, {ossl, &r.OpenSSL}, {ours && goes && ossl, &r.All}, {ours && goes && !ossl, &r.OpenSSLRefuses}} {
		if c.yes {
			*c.n++
		}
	}
	if verdict[1] == 'K' {
		r.OtherKey = keep(r.OtherKey, q.der)
	}
	switch {
	case ours && !goes && !ossl:
		r.OnlyOurs = keep(r.OnlyOurs, q.der)
	case ours && !goes:
		r.GoRefuses[reason(err.Error())]++
	case !ours && goes && ossl:
		r.StricterThanAll[reason(why)]++
	case !ours && (goes || ossl):
		r.StricterThanOne[reason(why)]++
	}
}

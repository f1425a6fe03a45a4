// opinion says what Go's crypto/x509 and zlint make of certificates and CRLs.
//
//	opinion leaves        lines of leaf_samples on stdin: each field by crypto/x509 against what was asked for, and zlint
//	opinion certs FILE..  PEM certificates; zlint, and that crypto/x509 reads them
//	opinion crls FILE..   PEM CRLs, the same
//
// Prints one JSON object.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"

	stdx509 "crypto/x509"
)

const lineMax = 1 << 20

type report struct {
	Objects    int
	Mismatches []string           // crypto/x509 reads something else than was asked for, or nothing
	Lints      map[string]finding // everything that is not in order, by the name of the lint
	Ran        int                // lints that applied to anything
	Excluded   []string           // sources of lints that are not ours to meet
}

type finding struct {
	Status, Source, Description string
	Count                       int
	Example                     string // hex
}

func main() {
	r := &report{Mismatches: []string{}, Lints: map[string]finding{}}
	if err := run(os.Args[1:], r); err != nil {
		fmt.Fprintln(os.Stderr, "opinion:", err)
		os.Exit(1)
	}
}

func run(args []string, r *report) error {
	l, err := newLinter(r)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "leaves":
		err = leaves(r, l)
	case len(args) > 1 && args[0] == "certs":
		err = files(args[1:], func(der []byte) error { return r.certificate(l, der) })
	case len(args) > 1 && args[0] == "crls":
		err = files(args[1:], func(der []byte) error { return r.crl(l, der) })
	default:
		err = fmt.Errorf("usage: opinion leaves | certs FILE.. | crls FILE..")
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func leaves(r *report, l *linter) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, lineMax), lineMax)
	for in.Scan() {
		var s sample
		if err := json.Unmarshal(in.Bytes(), &s); err != nil {
			return err
		}
		der, err := hex.DecodeString(s.DER)
		if err != nil {
			return err
		}
		if err := s.check(der); err != nil {
			r.mismatch(der, err)
		}
		if err := l.certificate(r, der); err != nil {
			r.mismatch(der, err)
		}
		r.Objects++
	}
	return in.Err()
}

func (r *report) mismatch(der []byte, err error) {
	if len(r.Mismatches) < 5 {
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%v: %x", err, der))
	}
}

func (r *report) certificate(l *linter, der []byte) error {
	if _, err := stdx509.ParseCertificate(der); err != nil {
		r.mismatch(der, err)
	}
	r.Objects++
	return l.certificate(r, der)
}

func (r *report) crl(l *linter, der []byte) error {
	if _, err := stdx509.ParseRevocationList(der); err != nil {
		r.mismatch(der, err)
	}
	r.Objects++
	return l.crl(r, der)
}

func files(names []string, each func(der []byte) error) error {
	for _, name := range names {
		rest, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if err := each(block.Bytes); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

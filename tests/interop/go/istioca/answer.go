package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// answer is what a call gave: its status, and what an agent would make of the certificates.
type answer struct {
	Code, Message string
	Attempts      int // on the wire
	TLS           string
	Problem       string // what the agent would refuse; "" nothing
	Issuer        string
	URI           string
	Seconds       int64 // of validity, from NotBefore on
	Elements      int
	Roots         int // in the last element
	Algorithm     string
	Chain         []string // as it came
}

func certificates(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.TrimSpace(string(rest)) != "" {
				return nil, fmt.Errorf("text after the PEM blocks")
			}
			return all, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
}

// check holds the answer against specs/istio-ca.md 1.4 and what pilot-agent and ztunnel do with it.
func (a *answer) check(key crypto.Signer, id string) {
	if err := a.read(key, id); err != nil {
		a.Problem = err.Error()
	}
}

func (a *answer) read(key crypto.Signer, id string) error {
	a.Elements = len(a.Chain)
	if a.Elements <= 1 {
		return fmt.Errorf("invalid empty CertChain")
	}
	last := a.Elements - 1
	roots, err := certificates(a.Chain[last])
	if err != nil {
		return fmt.Errorf("roots: %w", err)
	}
	a.Roots = len(roots)
	var chain []*x509.Certificate
	for i, text := range a.Chain[:last] {
		one, err := certificates(text)
		if err != nil || len(one) != 1 || !strings.HasSuffix(text, "-----END CERTIFICATE-----\n") || strings.HasSuffix(text, "\n\n") {
			return fmt.Errorf("element %d is not one PEM block with one line end: %v", i, err)
		}
		chain = append(chain, one[0])
	}
	return a.verify(chain, roots, key, id)
}

// usageFor: RFC 8813 3 forbids keyEncipherment with a key that cannot do it.
func usageFor(key any) x509.KeyUsage {
	if _, is := key.(*rsa.PublicKey); is {
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

func (a *answer) verify(chain, roots []*x509.Certificate, key crypto.Signer, id string) error {
	leaf, trusted, between := chain[0], x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		trusted.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	a.Issuer, a.Algorithm = leaf.Issuer.CommonName, leaf.SignatureAlgorithm.String()
	a.Seconds = int64(leaf.NotAfter.Sub(leaf.NotBefore) / time.Second)
	if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(leaf.PublicKey) {
		return fmt.Errorf("the leaf has another key")
	}
	if len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		return fmt.Errorf("the leaf does not have one URI and no other name")
	}
	if a.URI = leaf.URIs[0].String(); a.URI != id {
		return fmt.Errorf("the leaf names %s", a.URI)
	}
	if leaf.IsCA || leaf.KeyUsage != usageFor(leaf.PublicKey) || leaf.Subject.String() != "" {
		return fmt.Errorf("the leaf is not of the workload's profile")
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: trusted, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return err
		}
	}
	return nil
}

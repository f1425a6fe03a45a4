package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
)

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

func (o *options) newKey() (crypto.Signer, error) {
	switch o.key {
	case "rsa2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return nil, fmt.Errorf("-key %s", o.key)
}

// request is a new key and its CSR, as the agent named by -shape makes them; no key with -csr. Source: specs/istio-ca.md 7.2.
func (o *options) request() (crypto.Signer, string, error) {
	if o.csrFile != "" {
		text, err := os.ReadFile(o.csrFile)
		return nil, string(text), err
	}
	key, err := o.newKey()
	if err != nil {
		return nil, "", err
	}
	uri, err := url.Parse(o.id)
	if err != nil {
		return nil, "", err
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Tag: 6, Class: asn1.ClassContextSpecific, Bytes: []byte(uri.String())}})
	if err != nil {
		return nil, "", err
	}
	template := &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidSAN, Critical: true, Value: san}}}
	if o.shape == "pilot-agent" { // one RDN, O= with an empty PrintableString
		template.Subject = pkix.Name{Organization: []string{""}}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, "", err
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

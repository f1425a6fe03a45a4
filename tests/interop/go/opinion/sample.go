package main

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// sample is a line of leaf_samples: a leaf, and what it was asked to be.
type sample struct {
	DER       string   `json:"der"`
	Signer    string   `json:"signer"`
	Serial    string   `json:"serial"`
	SPKI      string   `json:"spki"`
	NotBefore int64    `json:"not_before"`
	NotAfter  int64    `json:"not_after"`
	SANs      []string `json:"sans"`
}

var (
	order       = []string{"2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.35", "2.5.29.17"} // specs/istio-ca.md 4.2
	areCritical = []bool{true, false, true, false, true}
	usages      = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

func (s *sample) check(der []byte) error {
	rawSigner, err1 := hex.DecodeString(s.Signer)
	spki, err2 := hex.DecodeString(s.SPKI)
	serial, good := new(big.Int).SetString(s.Serial, 16)
	if err1 != nil || err2 != nil || !good {
		return fmt.Errorf("a line that is none")
	}
	signer, err := x509.ParseCertificate(rawSigner)
	if err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := c.CheckSignatureFrom(signer); err != nil {
		return err
	}
	names := slices.Clone(c.DNSNames) // leaf_samples puts DNS names before or after addresses; the kinds keep their order
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	want := slices.Clone(s.SANs)
	slices.Sort(names)
	slices.Sort(want)
	for _, row := range []struct {
		what string
		good bool
	}{
		{"version", c.Version == 3},
		{"serial", c.SerialNumber.Cmp(serial) == 0 && serial.Sign() > 0},
		{"issuer", bytes.Equal(c.RawIssuer, signer.RawSubject)},
		{"subject", bytes.Equal(c.RawSubject, []byte{0x30, 0})},
		{"not before", c.NotBefore.Unix() == s.NotBefore},
		{"not after", c.NotAfter.Unix() == s.NotAfter},
		{"public key", bytes.Equal(c.RawSubjectPublicKeyInfo, spki) && c.PublicKey != nil},
		{"names", slices.Equal(names, want) && len(c.EmailAddresses) == 0},
		{"key usage", c.KeyUsage == usageFor(c.PublicKey)},
		{"extended key usage", slices.Equal(c.ExtKeyUsage, usages) && len(c.UnknownExtKeyUsage) == 0},
		{"basic constraints", c.BasicConstraintsValid && !c.IsCA && c.MaxPathLen == -1},
		{"authority key id", bytes.Equal(c.AuthorityKeyId, signer.SubjectKeyId) && len(c.AuthorityKeyId) > 0},
		{"unhandled extensions", len(c.UnhandledCriticalExtensions) == 0 && len(c.Extensions) == len(order)},
	} {
		if !row.good {
			return fmt.Errorf("%s is not what was asked for", row.what)
		}
	}
	for i, x := range c.Extensions {
		if x.Id.String() != order[i] || x.Critical != areCritical[i] {
			return fmt.Errorf("extension %d is %s, critical %v", i, x.Id, x.Critical)
		}
	}
	return s.checkTimes(c.RawTBSCertificate)
}

func usageFor(key any) x509.KeyUsage {
	if _, is := key.(*rsa.PublicKey); is {
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature // RFC 8813 3
}

type tbsHead struct {
	Version    int `asn1:"explicit,tag:0"`
	Serial     *big.Int
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   struct{ NotBefore, NotAfter asn1.RawValue }
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions asn1.RawValue `asn1:"explicit,tag:3"`
}

// checkTimes: RFC 5280 4.1.2.5, UTCTime to 2049 and GeneralizedTime from 2050, always with seconds and Z.
func (s *sample) checkTimes(tbs []byte) error {
	var head tbsHead
	if rest, err := asn1.Unmarshal(tbs, &head); err != nil || len(rest) != 0 {
		return fmt.Errorf("TBSCertificate: %v", err)
	}
	for i, got := range []asn1.RawValue{head.Validity.NotBefore, head.Validity.NotAfter} {
		at := time.Unix([]int64{s.NotBefore, s.NotAfter}[i], 0).UTC()
		tag, want := asn1.TagUTCTime, at.Format("060102150405Z")
		if at.Year() >= 2050 {
			tag, want = asn1.TagGeneralizedTime, at.Format("20060102150405Z")
		}
		if got.Tag != tag || string(got.Bytes) != want {
			return fmt.Errorf("time %d is %q of tag %d, not %q", i, got.Bytes, got.Tag, want)
		}
	}
	return nil
}

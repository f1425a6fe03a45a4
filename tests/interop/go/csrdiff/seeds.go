package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"math/rand/v2"
)

// signing is a key and how it signs: without chance, so that a run can be repeated byte for byte.
type signing struct {
	name      string
	key       crypto.Signer
	hash      crypto.Hash
	algorithm []byte // AlgorithmIdentifier
	spki      []byte
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func randomBytes(r *rand.Rand, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.UintN(256))
	}
	return out
}

func prime(r *rand.Rand, bits int) *big.Int {
	for {
		p := new(big.Int).SetBytes(randomBytes(r, bits/8))
		p.SetBit(p, bits-1, 1).SetBit(p, bits-2, 1).SetBit(p, 0, 1)
		if p.ProbablyPrime(20) {
			return p
		}
	}
}

func rsaKey(r *rand.Rand, bits, e int) *rsa.PrivateKey {
	one := big.NewInt(1)
	for {
		p, q := prime(r, bits/2), prime(r, bits/2)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(big.NewInt(int64(e)), phi)
		if d == nil {
			continue
		}
		k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: e}, D: d, Primes: []*big.Int{p, q}}
		k.Precompute()
		return k
	}
}

func ecKey(r *rand.Rand, curve elliptic.Curve) *ecdsa.PrivateKey {
	raw := randomBytes(r, (curve.Params().BitSize+7)/8)
	raw[0] = 0 // below the order
	return must(ecdsa.ParseRawPrivateKey(curve, raw))
}

func oid(arcs ...int) asn1.ObjectIdentifier { return arcs }

func algorithm(o asn1.ObjectIdentifier, null bool) []byte {
	content := must(asn1.Marshal(o))
	if null {
		content = append(content, 5, 0)
	}
	return tlv(0x30, content)
}

func ecdsaWith(n int) []byte { return algorithm(oid(1, 2, 840, 10045, 4, 3, n), false) }

func signings(r *rand.Rand) []*signing {
	rsaSHA256 := algorithm(oid(1, 2, 840, 113549, 1, 1, 11), true)
	all := []*signing{
		{name: "p256", key: ecKey(r, elliptic.P256()), hash: crypto.SHA256, algorithm: ecdsaWith(2)},
		{name: "p384", key: ecKey(r, elliptic.P384()), hash: crypto.SHA384, algorithm: ecdsaWith(3)},
		{name: "p521", key: ecKey(r, elliptic.P521()), hash: crypto.SHA512, algorithm: ecdsaWith(4)},
		{name: "p224", key: ecKey(r, elliptic.P224()), hash: crypto.SHA256, algorithm: ecdsaWith(2)},
		{name: "ed25519", key: ed25519.NewKeyFromSeed(randomBytes(r, 32)), algorithm: algorithm(oid(1, 3, 101, 112), false)},
		{name: "rsa2048", key: rsaKey(r, 2048, 65537), hash: crypto.SHA256, algorithm: rsaSHA256},
		{name: "rsa1024", key: rsaKey(r, 1024, 65537), hash: crypto.SHA256, algorithm: rsaSHA256},
		{name: "rsa2048 e=3", key: rsaKey(r, 2048, 3), hash: crypto.SHA256, algorithm: rsaSHA256},
	}
	for _, s := range all {
		s.spki = must(x509.MarshalPKIXPublicKey(s.key.Public()))
	}
	return all
}

// sign is deterministic: RFC 6979 for ECDSA (no source of chance is given), PKCS#1 v1.5, Ed25519.
func (s *signing) sign(tbs []byte) []byte {
	switch s.hash {
	case crypto.SHA256:
		d := sha256.Sum256(tbs)
		return must(s.key.Sign(nil, d[:], s.hash))
	case crypto.SHA384:
		d := sha512.Sum384(tbs)
		return must(s.key.Sign(nil, d[:], s.hash))
	case crypto.SHA512:
		d := sha512.Sum512(tbs)
		return must(s.key.Sign(nil, d[:], s.hash))
	}
	return must(s.key.Sign(nil, tbs, crypto.Hash(0)))
}

func (s *signing) request(tbs []byte) []byte {
	return tlv(0x30, tbs, s.algorithm, tlv(3, []byte{0}, s.sign(tbs)))
}

// -- what is asked for ---------------------------------------------------------------------------

func attribute(o asn1.ObjectIdentifier, values ...[]byte) []byte {
	return tlv(0x30, must(asn1.Marshal(o)), tlv(0x31, values...))
}

func extension(o asn1.ObjectIdentifier, critical bool, value []byte) []byte {
	flag := []byte{}
	if critical {
		flag = []byte{1, 1, 0xff}
	}
	return tlv(0x30, must(asn1.Marshal(o)), flag, tlv(4, value))
}

func extensions(all ...[]byte) []byte {
	return attribute(oid(1, 2, 840, 113549, 1, 9, 14), tlv(0x30, all...))
}

func rdn(last int, tag byte, text string) []byte {
	return tlv(0x31, tlv(0x30, must(asn1.Marshal(oid(2, 5, 4, last))), tlv(tag, []byte(text))))
}

func uri(text string) []byte { return tlv(0x86, []byte(text)) }

// shapes are subjects and attributes as agents and tools send them.
func shapes() [][2][]byte {
	san := func(critical bool, names ...[]byte) []byte {
		return extension(oid(2, 5, 29, 17), critical, tlv(0x30, names...))
	}
	id := uri("spiffe://cluster.local/ns/shop/sa/cart")
	none := tlv(0x30)
	keyUsage := extension(oid(2, 5, 29, 15), true, []byte{3, 2, 5, 0xa0})
	eku := extension(oid(2, 5, 29, 37), false, tlv(0x30, must(asn1.Marshal(oid(1, 3, 6, 1, 5, 5, 7, 3, 1)))))
	noCA := extension(oid(2, 5, 29, 19), true, tlv(0x30))
	password := attribute(oid(1, 2, 840, 113549, 1, 9, 7), tlv(12, []byte("secret")))
	return [][2][]byte{
		{tlv(0x30, rdn(10, 19, "")), tlv(0xa0, extensions(san(true, id)))}, // pilot-agent
		{none, tlv(0xa0, extensions(san(true, id)))},                       // ztunnel
		{none, tlv(0xa0, extensions(san(false, id)))},                      // ztunnel before 2025-05
		{none, tlv(0xa0)},
		{tlv(0x30, rdn(6, 19, "DE"), rdn(10, 12, "W\u00fcrze"), rdn(3, 12, "cart")), tlv(0xa0, extensions(san(false, tlv(0x82, []byte("a.b")))))},
		{tlv(0x30, rdn(3, 22, "a@b")), tlv(0xa0, password, extensions(san(true, id, tlv(0x87, []byte{10, 0, 0, 1})), keyUsage, eku, noCA))},
	}
}

func info(subject, spki, attributes []byte) []byte {
	return tlv(0x30, []byte{2, 1, 0}, subject, spki, attributes)
}

func (s *signing) String() string { return fmt.Sprintf("%s (%d bytes)", s.name, len(s.spki)) }

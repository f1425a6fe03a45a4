// istiodface is the secure port of a stock istiod as its peers see it: a grpc-go server on Go's crypto/tls, whose client CAs are the roots that
// it started with. For the tests of `./dev interop`.
//
//	istiodface ADDRESS CERT KEY CHAIN ROOTS
package main

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func read(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return text
}

func main() {
	cert, err := tls.X509KeyPair(append(read(os.Args[2]), read(os.Args[4])...), read(os.Args[3]))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(os.Args[5])) {
		log.Fatal("no roots")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    roots,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2"},
	})))
	log.Fatal(server.Serve(listener))
}

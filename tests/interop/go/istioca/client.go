package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	pb "istio.io/api/security/v1alpha1"
)

const (
	attempts  = 5                      // specs/istio-ca.md 1.7
	backoff   = 100 * time.Millisecond // doubled each time
	callLimit = 15 * time.Second       // pilot-agent has none; a test has to end
	pingEvery = 10 * time.Second       // the shortest that grpc-go allows; pilot-agent has 30 s
	window    = 1 << 20
)

type client struct {
	o     *options
	conn  *grpc.ClientConn
	api   pb.IstioCertificateServiceClient
	calls atomic.Int64
}

func newClient(o *options) (*client, error) {
	conf, err := o.tlsConfig()
	if err != nil {
		return nil, err
	}
	c := &client{o: o}
	count := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
		opts ...grpc.CallOption) error {
		c.calls.Add(1)
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	again := retry.UnaryClientInterceptor(retry.WithMax(attempts), retry.WithBackoff(retry.BackoffExponentialWithJitter(backoff, 0.1)),
		retry.WithCodes(codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unavailable))
	c.conn, err = grpc.NewClient("passthrough:///"+o.addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithChainUnaryInterceptor(again, count), grpc.WithPerRPCCredentials(token{o.tokenFile}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window))
	if err != nil {
		return nil, err
	}
	c.api = pb.NewIstioCertificateServiceClient(c.conn)
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

func (o *options) tlsConfig() (*tls.Config, error) {
	pem, err := os.ReadFile(o.rootFile)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: o.serverName, MinVersion: tls.VersionTLS12}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", o.rootFile)
	}
	if o.maxTLS == "1.2" {
		conf.MaxVersion = tls.VersionTLS12
	}
	if o.chainFile != "" {
		pair, err := tls.LoadX509KeyPair(o.chainFile, o.keyFile)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// token reads its file for each call, trims it, and sends no header when nothing is left: pilot-agent's provider.
type token struct{ file string }

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if t.file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(t.file)
	if text := strings.TrimSpace(string(raw)); err == nil && text != "" {
		return map[string]string{"authorization": "Bearer " + text}, nil
	}
	return nil, err
}

func (token) RequireTransportSecurity() bool { return false }

func (o *options) metadata() *structpb.Struct {
	fields := map[string]*structpb.Value{}
	if o.shape == "pilot-agent" { // always there, empty when no signer was chosen
		fields["CertSigner"] = structpb.NewStringValue(o.certSigner)
	}
	if o.impersonate != "" {
		fields["ImpersonatedIdentity"] = structpb.NewStringValue(o.impersonate)
	}
	if len(fields) == 0 {
		return nil
	}
	return &structpb.Struct{Fields: fields}
}

// create asks once, with the retries of an agent.
func (c *client) create(csr string) *answer {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "ClusterID", c.o.clusterID), callLimit)
	defer cancel()
	before, from := c.calls.Load(), &peer.Peer{}
	r, err := c.api.CreateCertificate(ctx, &pb.IstioCertificateRequest{Csr: csr, ValidityDuration: c.o.ttl, Metadata: c.o.metadata()},
		grpc.Peer(from))
	a := &answer{Code: status.Code(err).String(), Message: status.Convert(err).Message(), Attempts: int(c.calls.Load() - before)}
	if info, is := from.AuthInfo.(credentials.TLSInfo); is {
		a.TLS = tls.VersionName(info.State.Version)
	}
	if err == nil {
		a.Chain = r.CertChain
	}
	return a
}

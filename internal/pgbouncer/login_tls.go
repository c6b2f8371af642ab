package pgbouncer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
)

// TLSMode is the protection of a connection, with libpq's names
// (https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION).
type TLSMode string

// The modes. Only TLSVerifyFull verifies the server. TLSRequire is libpq's require without a root certificate.
const (
	TLSDisable    TLSMode = "disable"
	TLSPrefer     TLSMode = "prefer"
	TLSRequire    TLSMode = "require"
	TLSVerifyFull TLSMode = "verify-full"
)

func (t Target) validate() error {
	switch t.TLS {
	case TLSDisable, TLSPrefer, TLSRequire:
		return nil
	case TLSVerifyFull:
		if t.ServerName == "" || t.RootCAs == nil {
			return fmt.Errorf("%w: %s needs a server name and root certificates", ErrTLS, t.TLS)
		}
		return nil
	default:
		return fmt.Errorf("%w: unknown mode %q; use disable, prefer, require or verify-full", ErrTLS, t.TLS)
	}
}

// negotiateTLS returns the connection with TLS if the mode says so. pgconn could do that too, but with prefer it would log
// in again without TLS after any failure, a refused login included.
func (t Target) negotiateTLS(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if t.TLS == TLSDisable {
		return raw, nil
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	offered, err := requestTLS(raw)
	switch {
	case err != nil:
		return nil, err
	case !offered && t.TLS == TLSPrefer:
		return raw, nil
	case !offered:
		return nil, fmt.Errorf("%w: the server does not offer it", ErrTLS)
	}
	conn := tls.Client(raw, t.tlsConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTLS, bounded(err)) // it may list the names in the certificate
	}
	return conn, nil
}

func (t Target) tlsConfig() *tls.Config {
	if t.TLS == TLSVerifyFull {
		return &tls.Config{ServerName: t.ServerName, RootCAs: t.RootCAs}
	}
	// The other modes are for certificates that cannot be verified, such as self-signed ones.
	return &tls.Config{InsecureSkipVerify: true}
}

// requestTLS sends an SSLRequest and reports whether the server offers TLS
// (https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-SSLREQUEST). It reads
// only the one byte of the answer: cleartext that follows does not count.
func requestTLS(conn net.Conn) (bool, error) {
	request := []byte{0, 0, 0, 8, 4, 210, 22, 47}
	answer := make([]byte, 1)
	_, err := conn.Write(request)
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: request TLS: %w", ErrUnreachable, err)
	case answer[0] == 'S':
		return true, nil
	case answer[0] == 'N':
		return false, nil
	default:
		return false, errors.Join(ErrNotPgbouncer, fmt.Errorf("its answer to an SSLRequest is %q", answer))
	}
}

package pgbouncer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
)

// TLSMode says how a connection is protected, in libpq's words
// (https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION).
type TLSMode string

// The modes. Only TLSVerifyFull proves who the server is; TLSRequire is libpq's without a root certificate.
const (
	TLSDisable    TLSMode = "disable"
	TLSPrefer     TLSMode = "prefer"
	TLSRequire    TLSMode = "require"
	TLSVerifyFull TLSMode = "verify-full"
)

func (t Target) check() error {
	switch t.TLS {
	case TLSDisable, TLSPrefer, TLSRequire:
		return nil
	case TLSVerifyFull:
		if t.ServerName == "" || t.RootCAs == nil {
			return fmt.Errorf("%w: %s needs a server name and root certificates", ErrTLS, t.TLS)
		}
		return nil
	default:
		return fmt.Errorf("%w: there is no mode %q", ErrTLS, t.TLS)
	}
}

// secure wraps the connection as the mode says. pgconn could do that, but where TLS is preferred it would log in again
// without TLS after any failure, a refused login included.
func (t Target) secure(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if t.TLS == TLSDisable {
		return raw, nil
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	offered, err := askForTLS(raw)
	switch {
	case err != nil:
		return nil, err
	case !offered && t.TLS == TLSPrefer:
		return raw, nil
	case !offered:
		return nil, fmt.Errorf("%w: the server has none", ErrTLS)
	}
	conn := tls.Client(raw, t.tlsConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTLS, err)
	}
	return conn, nil
}

func (t Target) tlsConfig() *tls.Config {
	if t.TLS == TLSVerifyFull {
		return &tls.Config{ServerName: t.ServerName, RootCAs: t.RootCAs}
	}
	// The other modes are for certificates that nobody can verify, as poolers have that signed their own.
	return &tls.Config{InsecureSkipVerify: true}
}

// askForTLS sends an SSLRequest
// (https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-SSLREQUEST). Only the one
// byte of the answer is read: what follows in cleartext does not count.
func askForTLS(conn net.Conn) (bool, error) {
	request := []byte{0, 0, 0, 8, 4, 210, 22, 47}
	answer := make([]byte, 1)
	_, err := conn.Write(request)
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: ask for TLS: %w", ErrUnreachable, err)
	case answer[0] == 'S':
		return true, nil
	case answer[0] == 'N':
		return false, nil
	default:
		return false, errors.Join(ErrNotPgbouncer, fmt.Errorf("asked for TLS, it answers %q", answer))
	}
}

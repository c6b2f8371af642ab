package escort

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
)

func TestIsUnreached_EachError_WhetherAnotherLookMayHelp(t *testing.T) {
	refused := &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"the network":                        {fmt.Errorf("%w: reset", pgbouncer.ErrUnreachable), true},
		"a tunnel that ended":                {pgbouncer.ErrClosed, true},
		"nothing listens":                    {fmt.Errorf("%w: %w", pgbouncer.ErrUnreachable, refused), false},
		"the API server refuses connections": {fmt.Errorf("get secret db/login: %w", Temporary{refused}), true},
		"the API server has no leader":       {Temporary{errors.New("etcdserver: no leader")}, true},
		"no permission":                      {fmt.Errorf("%w: %w", pgbouncer.ErrUnreachable, ErrForbidden), false},
		"no permission for the Secret":       {fmt.Errorf("%w: %w", ErrForbidden, Temporary{errors.New("forbidden")}), false},
		"the login is refused":               {pgbouncer.ErrRefused, false},
		"no login":                           {ErrNoLogin, false},
		"the end of the time":                {context.DeadlineExceeded, false},
	} {
		require.Equal(t, c.want, IsUnreached(c.err), name)
	}
}

// Command worker simulates the async workers of a job process. Each owns one connection to PostgreSQL through a pooler, runs
// transactions forever with default settings and no timeouts, and records the result of every transaction.
//
// GET /healthz always passes, GET /workers returns the journals, POST /forget resets the stalls, POST /stop stops the workers and
// keeps the journals.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// shutdownTimeout is how long transactions may continue after SIGTERM: long enough for many usual ones, and well within a
	// pod's grace period if workers hang.
	shutdownTimeout = 2 * time.Second
	// headerTimeout bounds a request's header: a client on the same network needs milliseconds.
	headerTimeout = 5 * time.Second
)

type options struct {
	behavior
	url         string
	workers     int
	first       int
	listen      string
	login       string
	straggler   time.Duration
	dialTimeout time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	config, err := settings(os.ExpandEnv(o.url), o.dialTimeout)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for requests: %w", err)
	}
	c := start(config, o)
	server := &http.Server{Handler: c.handler(), ReadHeaderTimeout: headerTimeout}
	context.AfterFunc(ctx, func() {
		c.finish(shutdownTimeout)
		_ = server.Close() // ends Serve below
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve requests: %w", err)
	}
	return nil
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.StringVar(&o.url, "url", "", "postgres URL; ${NAMES} of environment variables are expanded in it")
	flags.StringVar(&o.login, "login", "", "folder of a mounted Secret with username and password, read before each connection; default: those of the URL")
	flags.IntVar(&o.workers, "workers", 1, "how many workers")
	flags.IntVar(&o.first, "first", 1, "number of the first worker; the others count on from it")
	flags.StringVar(&o.listen, "listen", ":8080", "address to serve HTTP on")
	flags.DurationVar(&o.hold, "hold", 30*time.Millisecond, "how long a transaction lasts")
	flags.DurationVar(&o.think, "think", 10*time.Millisecond, "pause between transactions")
	flags.DurationVar(&o.recycle, "recycle", 0, "close connections between transactions at this age, or up to a quarter earlier; 0: never")
	flags.BoolVar(&o.validate, "validate", false, "try the connection before each transaction")
	flags.DurationVar(&o.dialTimeout, "dial-timeout", 0, "how long a TCP connection may take; 0: as long as the kernel tries, two minutes on Linux")
	flags.DurationVar(&o.straggler, "straggler", 0, "how long the first worker's transactions last, and the pauses between them; 0: as the others'")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.url == "" || o.workers < 1 || flags.NArg() > 0 {
		return o, errors.New("usage: worker -url postgres://... [-workers N] [flags]")
	}
	return o, nil
}

// worker returns the i-th worker of the process.
func (o options) worker(i int) *worker {
	habits := o.behavior
	if i == 0 && o.straggler > 0 {
		habits.hold, habits.think = o.straggler, o.straggler
	}
	number := o.first + i
	return &worker{behavior: habits, recorder: newRecorder(number, habits), number: number, login: o.login}
}

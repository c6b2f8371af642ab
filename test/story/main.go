// Command story shows, on this machine and with real parts, the failures that quiesce prevents, without and with quiesce. Auto
// Scaling terminates an instance with a pgbouncer, then one with the primary of a PostgreSQL cluster, and its node vanishes. It prints and
// draws what happens to the workers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"quiesce/test/env"
	"quiesce/test/env/poolers"
	"quiesce/test/story/picture"
)

// options are the flags of the command.
type options struct {
	bootstrap string
	picture   string
	primary   string
	versions  string
	warmUp    time.Duration
	observe   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.bootstrap, "bootstrap", "", "the built function; it is built if this is empty")
	flag.StringVar(&o.picture, "picture", "dist/story.svg", "where the picture goes")
	flag.StringVar(&o.primary, "primary-picture", "dist/story-primary.svg", "where the picture of the primary goes")
	flag.StringVar(&o.versions, "versions", "1.18,1.24", "of pgbouncer, separated by commas; none: only the primary's story")
	flag.DurationVar(&o.warmUp, "warm-up", 10*time.Second, "how long workers work before the instance is terminated")
	flag.DurationVar(&o.observe, "observe", time.Minute, "how long to look after the node's death")
	flag.Parse()
	if err := runAll(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "story:", err)
		os.Exit(1)
	}
}

func runAll(ctx context.Context, o options) (err error) {
	root, err := env.Root()
	if err != nil {
		return err
	}
	logf("starting a control plane, an IAM authenticator and Auto Scaling on this machine")
	s, err := env.Start(ctx, env.Options{Root: root, Bootstrap: o.bootstrap, Machines: true, Images: []string{"pgbouncer", "postgres", "patroni"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	pool := poolers.NewNodePool(s)
	if o.versions != "" {
		if err := tellPoolers(ctx, pool, o); err != nil {
			return err
		}
	}
	return tellPrimary(ctx, pool, o)
}

// tellPoolers tells the story of a pgbouncer.
func tellPoolers(ctx context.Context, pool *poolers.NodePool, o options) error {
	var runs []*run
	for version := range strings.SplitSeq(o.versions, ",") {
		for _, drained := range []bool{false, true} {
			r, err := runOnce(ctx, pool, o, poolerRun(version, drained))
			if err != nil {
				return fmt.Errorf("pgbouncer %s, %s quiesce: %w", version, withOrWithout(drained), err)
			}
			runs = append(runs, r)
		}
	}
	table(os.Stdout, rows, runs)
	return draw(o.picture, picture.Words{
		Title: "An instance with a pgbouncer on it is terminated, and its node vanishes",
		Hangs: "a worker that hangs: no error, no time limit, no commit",
	}, runs)
}

// tellPrimary tells the story of a PostgreSQL primary.
func tellPrimary(ctx context.Context, pool *poolers.NodePool, o options) error {
	var runs []*run
	for _, drained := range []bool{false, true} {
		r, err := runOnce(ctx, pool, o, primaryRun(drained))
		if err != nil {
			return fmt.Errorf("a primary, %s quiesce: %w", withOrWithout(drained), err)
		}
		runs = append(runs, r)
	}
	table(os.Stdout, primaryRows, runs)
	return draw(o.primary, picture.Words{
		Title: "An instance with the primary of a PostgreSQL cluster on it is terminated, and its node vanishes",
		Hangs: fmt.Sprintf("a worker without a commit for %.0f s or more", hangsAfter.Seconds()),
	}, runs)
}

func withOrWithout(drained bool) string {
	if drained {
		return "with"
	}
	return "without"
}

func draw(path string, words picture.Words, runs []*run) error {
	panels := make([]picture.Panel, len(runs))
	for i, r := range runs {
		panels[i] = r.panel()
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := picture.Draw(file, words, panels...); err != nil {
		return fmt.Errorf("draw the picture: %w", err)
	}
	logf("the picture: %s", path)
	return file.Close()
}

func logf(format string, args ...any) { fmt.Printf("story: "+format+"\n", args...) }

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pgbouncer"
	"quiesce/internal/pooler"
	"quiesce/internal/rotate"
)

// defaultQuiet is a day: what runs once a day has run.
const defaultQuiet = 24 * time.Hour

type rotateOptions struct {
	*options
	cluster           *kube.Client // once it is wired
	logins            []string
	to, group         string
	quietFor          time.Duration
	back, dryRun      bool
	userlists         []string
	poolers           string
	console, app      string
	database          string
	port              int
	admin             bool
	dsn               string
	standbys          []string
	ignoreStandbys    bool
	notManaged        bool
	passwordFile, env string
	userKey, passKey  string
	consoleKeys       []string
	tls               string
	serverName, ca    string // of the consoles' certificates
}

func newRotate(o *options) *cobra.Command {
	r := &rotateOptions{options: o}
	command := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the password of a login that is in use, without a failed connection",
		Long: "rotate lets two logins of one group role alternate. It enables the one that rests, in PostgreSQL and in every pooler, and moves the\n" +
			"clients to it. When the other one has been unused for --quiet-for, on each pooler and server, it closes that one.\n\n" +
			"It can be stopped at any time. The same command continues it. It must run all the time: after five minutes without a look, the\n" +
			"quiet time begins anew. --back undoes it.\n\n" +
			"PostgreSQL is reached with --dsn, or with the environment of psql (PGHOST, PGUSER, PGPASSWORD, ...).\n" +
			"Consoles are reached through the API server. No password is printed.",
		Example: "  quiescectl rotate --logins app_blue,app_green --to app_green --group app --userlist db/pgbouncer-userlist \\\n" +
			"    --console-secret db/pgbouncer-admin --app-secret shop/database --dry-run\n" +
			"  quiescectl rotate ... --back",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return r.run(c) },
	}
	r.addFlags(command)
	return command
}

func (r *rotateOptions) addFlags(command *cobra.Command) {
	flags := command.Flags()
	flags.StringSliceVar(&r.logins, "logins", nil, "the two logins, as blue,green (required)")
	flags.StringVar(&r.to, "to", "", "the login to rotate to; not needed to continue")
	flags.StringVar(&r.group, "group", "", "the group role of both; without it, the logins are pgbouncer's alone, and PostgreSQL is not asked")
	flags.DurationVar(&r.quietFor, "quiet-for", defaultQuiet, "how long the old login must be unused before it is closed")
	flags.BoolVar(&r.back, "back", false, "undo the rotation that is recorded")
	flags.BoolVar(&r.dryRun, "dry-run", false, "print what would be done, and change nothing")
	flags.StringArrayVar(&r.userlists, "userlist", nil, "Secret with a userlist of poolers, as namespace/name or namespace/name:key; may be repeated (required)")
	flags.StringVar(&r.poolers, "poolers", "", "label selector of the poolers; default: pods that mount a userlist")
	flags.StringVar(&r.console, "console-secret", "", "Secret with the login of a console's administrator, as namespace/name (required)")
	flags.StringSliceVar(&r.consoleKeys, "console-keys", []string{"username", "password"}, "keys of --console-secret: user, password")
	flags.StringVar(&r.tls, "console-tls", string(pgbouncer.TLSPrefer), "TLS to poolers: disable, prefer, require or verify-full")
	flags.StringVar(&r.serverName, "console-server-name", "", "name in the poolers' certificate, for verify-full")
	flags.StringVar(&r.ca, "console-ca-file", "", "CA certificates of the poolers in PEM, for verify-full")
	flags.StringVar(&r.app, "app-secret", "", "Secret that clients have their login from, as namespace/name; without it, you move the clients")
	flags.StringVar(&r.userKey, "app-user-key", "username", "key of --app-secret with the user")
	flags.StringVar(&r.passKey, "app-password-key", "password", "key of --app-secret with the password")
	flags.StringVar(&r.database, "database", "", "database that clients ask poolers for; default: the first of each pooler")
	flags.IntVar(&r.port, "port", 0, "port of the poolers; default: the one that the pod declares")
	flags.BoolVar(&r.admin, "admin", false, "the logins are for consoles (admin_users), such as quiesce's own")
	flags.StringVar(&r.dsn, "dsn", "", "connection string of the primary; default: the environment")
	flags.StringArrayVar(&r.standbys, "standby", nil, "connection string of a standby; may be repeated")
	flags.BoolVar(&r.ignoreStandbys, "ignore-standbys", false, "do not check standbys without --standby: you know that no client uses them")
	flags.BoolVar(&r.notManaged, "not-managed", false, "continue although an operator runs the server: you know that it does not manage these logins")
	flags.StringVar(&r.passwordFile, "password-file", "", "file with the new password, 16 to 99 printable characters; default: 32 random letters and digits")
	flags.StringVar(&r.env, "password-env", "", "environment variable with the new password")
	for _, name := range []string{"logins", "userlist", "console-secret"} {
		_ = command.MarkFlagRequired(name) // fails only for an unknown flag
	}
	command.MarkFlagsMutuallyExclusive("back", "to")
	command.MarkFlagsMutuallyExclusive("back", "dry-run")
	command.MarkFlagsMutuallyExclusive("password-file", "password-env")
}

// rotated is the output.
type rotated struct {
	rotate.Record
	Plan []string `json:"plan,omitempty"` // of a dry run
}

func (r *rotateOptions) run(c *cobra.Command) error {
	rotation, err := r.rotation(c.ErrOrStderr())
	if err != nil {
		return err
	}
	ctx := c.Context()
	if r.dryRun {
		record, plan, err := rotation.Plan(ctx)
		if err != nil {
			return err
		}
		table := fmt.Sprintf("from %s to %s\n%s\n", record.From, record.To, strings.Join(plan, "\n"))
		if record.Step == rotate.Closed {
			table = fmt.Sprintf("nothing to do: %s is in use, %s is closed\n", record.To, record.From)
		}
		return r.write(c.OutOrStdout(), rotated{record, plan}, table)
	}
	if err := checkClock(ctx, r.cluster, ""); err != nil { // drains and rotations take turns by their Leases
		return err
	}
	var record rotate.Record
	if r.back {
		if record, err = rotation.Back(ctx); err != nil {
			return err
		}
	}
	if record.Step != rotate.Closed {
		record, err = rotation.Run(ctx)
	}
	if err != nil && rotation.HasBegun() {
		return fmt.Errorf("%w\nthe same command continues, and --back undoes it", err)
	} else if err != nil {
		return err
	}
	return r.write(c.OutOrStdout(), rotated{Record: record}, fmt.Sprintf("%s is in use, %s is closed\n", record.To, record.From))
}

// rotation wires what the flags name.
func (r *rotateOptions) rotation(progress io.Writer) (*rotate.Rotation, error) {
	if len(r.logins) != 2 || r.logins[0] == r.logins[1] || slices.Contains(r.logins, "") {
		return nil, errors.New("--logins must be two names, such as app_blue,app_green")
	}
	if r.to != "" && !slices.Contains(r.logins, r.to) {
		return nil, fmt.Errorf("--to must be one of --logins, not %q", r.to)
	}
	password, err := r.password()
	if err != nil {
		return nil, err
	}
	wired := &rotate.Rotation{
		Logins: [2]string(r.logins), To: r.to, Password: password, QuietFor: r.quietFor,
		Tell: func(text string) { fmt.Fprintln(progress, time.Now().UTC().Format(time.TimeOnly), text) },
	}
	if err := r.wireDatabase(wired); err != nil {
		return nil, err
	}
	return wired, r.wireCluster(wired)
}

// password returns the one that was given; empty: none. No error has a part of it.
func (r *rotateOptions) password() (string, error) {
	password := ""
	switch {
	case r.passwordFile != "":
		text, err := os.ReadFile(r.passwordFile)
		if err != nil {
			return "", fmt.Errorf("--password-file: %w", err)
		}
		password = strings.TrimRight(string(text), "\r\n")
	case r.env != "":
		password = os.Getenv(r.env)
	default:
		return "", nil
	}
	return password, rotate.CheckPassword(password)
}

func (r *rotateOptions) wireDatabase(wired *rotate.Rotation) error {
	if r.group == "" {
		if !r.admin || r.app == "" {
			return errors.New("--group is missing: name the role that has the grants. Logins without a role need --admin and --app-secret")
		}
		return nil
	}
	primary, err := rotate.Connection(r.dsn, true)
	if err != nil {
		return fmt.Errorf("--dsn: %w", err)
	}
	var standbys []*pgx.ConnConfig
	for _, text := range r.standbys {
		standby, err := rotate.Connection(text, false)
		if err != nil {
			return fmt.Errorf("--standby: %w", err)
		}
		standbys = append(standbys, standby)
	}
	wired.Database = &rotate.Postgres{
		Primary: primary, Standbys: standbys, Group: r.group, NotManaged: r.notManaged, IgnoreStandbys: r.ignoreStandbys,
	}
	return nil
}

func (r *rotateOptions) wireCluster(wired *rotate.Rotation) error {
	lists, err := r.lists()
	if err != nil {
		return err
	}
	consoles, err := r.consoles()
	if err != nil {
		return err
	}
	access, _, err := r.connect()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return fmt.Errorf("make a client of the cluster: %w", err)
	}
	own, err := kube.New(access)
	if err != nil {
		return fmt.Errorf("make a client of the cluster: %w", err)
	}
	kept := &rotate.SecretLists{Client: client, Lists: lists, Logins: wired.Logins}
	if r.poolers != "" {
		if kept.Selector, err = labels.Parse(r.poolers); err != nil {
			return fmt.Errorf("--poolers: %w", err)
		}
	}
	if consoles.Logins, err = r.consoleLogins(client); err != nil {
		return err
	}
	consoles.Forwarder, r.cluster = own, own
	wired.Userlists = kept
	wired.Poolers = &rotate.Consoles{List: kept.Pods, Turns: own, Database: r.database, Admin: r.admin, Consoles: consoles}
	if r.app == "" {
		return nil
	}
	namespace, name, err := namespacedName("--app-secret", r.app)
	wired.App = &rotate.SecretApp{Client: client, Namespace: namespace, Name: name, UserKey: r.userKey, PasswordKey: r.passKey}
	return err
}

// consoles returns how poolers are reached, without a login.
func (r *rotateOptions) consoles() (consoles escort.Consoles, err error) {
	consoles = escort.Consoles{
		TLS: pgbouncer.TLSMode(r.tls), ServerName: r.serverName,
		Port: func(p escort.Pod) int { return pooler.ConsolePort(r.port, p) },
	}
	verified := consoles.TLS == pgbouncer.TLSVerifyFull
	switch {
	case !slices.Contains([]pgbouncer.TLSMode{pgbouncer.TLSDisable, pgbouncer.TLSPrefer, pgbouncer.TLSRequire, pgbouncer.TLSVerifyFull}, consoles.TLS):
		return consoles, fmt.Errorf("--console-tls must be disable, prefer, require or verify-full, not %q", r.tls)
	case verified != (r.serverName != "") || verified != (r.ca != ""):
		return consoles, errors.New("--console-tls verify-full, --console-server-name and --console-ca-file belong together")
	case !verified:
		return consoles, nil
	}
	pem, err := os.ReadFile(r.ca)
	if err != nil {
		return consoles, fmt.Errorf("--console-ca-file: %w", err)
	}
	consoles.RootCAs = x509.NewCertPool()
	if !consoles.RootCAs.AppendCertsFromPEM(pem) {
		return consoles, fmt.Errorf("--console-ca-file: %s has no certificates", r.ca)
	}
	return consoles, nil
}

// lists returns the Secrets of --userlist.
func (r *rotateOptions) lists() (lists []rotate.SecretKey, err error) {
	for _, text := range r.userlists {
		of, key, has := strings.Cut(text, ":")
		if !has {
			key = "userlist.txt"
		}
		namespace, name, err := namespacedName("--userlist", of)
		if err != nil {
			return nil, err
		}
		lists = append(lists, rotate.SecretKey{Namespace: namespace, Name: name, Key: key})
	}
	return lists, nil
}

func namespacedName(flag, text string) (namespace, name string, err error) {
	namespace, name, _ = strings.Cut(text, "/")
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%s must be namespace/name, not %q", flag, text)
	}
	return namespace, name, nil
}

// consoleLogins reads the Secret for each console: it may be the one that is rotated.
func (r *rotateOptions) consoleLogins(client kubernetes.Interface) (escort.Logins, error) {
	namespace, name, err := namespacedName("--console-secret", r.console)
	if err != nil {
		return nil, err
	}
	if len(r.consoleKeys) != 2 {
		return nil, errors.New("--console-keys must be two names, such as username,password")
	}
	source := &rotate.SecretApp{Client: client, Namespace: namespace, Name: name, UserKey: r.consoleKeys[0], PasswordKey: r.consoleKeys[1]}
	return func(ctx context.Context, _ string) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) { yield(source.Current(ctx)) }
	}, nil
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/postgres"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
)

// resumeTimeout bounds all of it but a login to AWS. A pooler that does not answer takes 20 seconds, and many are tried at once.
const resumeTimeout = 2 * time.Minute

// resumeSettings are for people without a quiesce.yaml: whatever was paused, some phase knows how it is resumed.
const resumeSettings = `{cluster: unknown, autoScalingGroups: [unknown], mode: drain, phases: [
	{name: databases, escort: {postgres: {}}}, {name: poolers, escort: {pgbouncer: {}}}, {name: workloads}]}`

// needsToResume is what a person must be allowed to do.
const needsToResume = "create, get, list, update and delete Leases in namespace quiesce, read pods and the Secret with the console's login, " +
	"and forward ports of poolers (pods/portforward)"

type resumeOptions struct {
	*options
	login
	config, via string
	force       bool
}

// resumed is the output.
type resumed struct {
	Status   termination.Status `json:"status"`   // resumed, held or failed
	Clusters []string           `json:"clusters"` // databases whose poolers were paused by a move, and are not any more
	Poolers  []string           `json:"poolers"`  // that drains had paused, and are as they were
	Held     []heldLease        `json:"held"`     // left alone
	Reason   string             `json:"reason"`   // what failed
}

// heldLease is a Lease that an invocation holds.
type heldLease struct {
	Lease   string    `json:"lease"`
	Holder  string    `json:"holder"`
	Renewed time.Time `json:"renewed"`
	Expires time.Time `json:"expires"` // unless it is renewed
}

func newResume(o *options) *cobra.Command {
	r := &resumeOptions{options: o}
	command := &cobra.Command{
		Use: "resume", Short: "Resume poolers that quiesce left paused; needs a kubeconfig only", Args: cobra.NoArgs,
		Long: "resume finds poolers that an interrupted switchover or drain left paused, by the marks on the Leases in namespace quiesce, and resumes\n" +
			"them. It needs no function and no AWS: it is for when the function is gone, or cannot reach the cluster. It is idempotent.\n\n" +
			"The login of the consoles is in the Secret of quiesce.yaml (--config) or of --console-secret, or is --user with --password-file\n" +
			"or --password-env. Consoles are reached through the API server, as kubectl port-forward does.\n\n" +
			"A Lease that an invocation holds is left alone and named: a switchover may be under way. A holder that has died loses it after\n" +
			"30 seconds. --force takes it at once. Use it only if you know that no function runs: clients would get into a switchover, and\n" +
			"transactions could fail.\n\n" +
			"With --function, that function is asked to resume what switchovers left paused. It does so each minute by itself. What a drain left\n" +
			"paused is resumed by the drain's next invocation.",
		Example: "  quiescectl resume --config quiesce.yaml\n" +
			"  quiescectl resume --console-secret db/pgbouncer-admin\n" +
			"  quiescectl resume --user pgbouncer --password-file password.txt",
		RunE: func(c *cobra.Command, _ []string) error { return r.run(c) },
	}
	o.addOutput(command)
	flags := command.Flags()
	r.login.addFlags(flags)
	flags.StringVar(&r.config, "config", "", "path of quiesce.yaml: how consoles are reached, and their Secret")
	flags.StringVar(&r.via, "connect-via", string(config.ViaPortForward), "how consoles are reached: portForward, or podIP where pods have a route")
	flags.BoolVar(&r.force, "force", false, "take Leases that an invocation holds; only if no function runs any more")
	command.MarkFlagsMutuallyExclusive("console-secret", "user")
	command.MarkFlagsMutuallyExclusive("password-file", "password-env")
	return command
}

func (r *resumeOptions) run(c *cobra.Command) error {
	if r.function != "" {
		for _, name := range []string{"force", "config", "connect-via", "console-secret", "console-keys", "user", "password-file", "password-env"} {
			if c.Flags().Changed(name) {
				return fmt.Errorf("--%s is for resume without a function: leave out --function or --%s", name, name)
			}
		}
		return resumeAction.run(c, r.options, termination.Request{Action: termination.ActionResume}, r.askFunction)
	}
	settings, err := r.settings()
	if err != nil {
		return err
	}
	limit := resumeTimeout
	if _, inAWS := loginsOf(settings); inAWS {
		limit += credentialsTimeout
	}
	ctx, cancel := context.WithTimeout(c.Context(), limit)
	defer cancel()
	client, err := r.kube()
	if err != nil {
		return err
	}
	if r.force {
		client = client.TakingOver()
	} else if err := checkClock(ctx, client, ", or use --force if you know that no function runs"); err != nil {
		return r.advised(err, needsToResume, "")
	}
	logins, err := r.login.logins(client)
	if err != nil {
		return err
	}
	done := r.progress(c, "looking for paused poolers ...")
	answer, err := r.resume(ctx, wire.Parts{Settings: settings, Connect: connector(client), Logins: logins}, slog.New(notes{out: c.ErrOrStderr(), errors: true}))
	done()
	if err != nil {
		return r.advised(err, needsToResume, "secretsmanager:GetSecretValue")
	}
	var b strings.Builder
	showResumed(&b, answer)
	if err := r.write(c.OutOrStdout(), answer, b.String()); err != nil {
		return err
	}
	if answer.Status != termination.StatusResumed {
		return errFindings
	}
	return nil
}

func (r *resumeOptions) settings() (settings config.Config, err error) {
	if r.config == "" {
		settings, err = parseSettings(resumeSettings)
	} else {
		settings, err = readSettings(r.config)
	}
	if err != nil {
		return settings, err
	}
	return settings, reachConsoles(settings, r.via)
}

// resume resumes what no invocation holds, as the function's sweep does.
func (r *resumeOptions) resume(ctx context.Context, parts wire.Parts, log *slog.Logger) (resumed, error) {
	answer := resumed{Status: termination.StatusResumed, Clusters: []string{}, Poolers: []string{}, Held: []heldLease{}}
	client, err := parts.Connect(ctx)
	if err != nil {
		return answer, err
	}
	leases, err := client.Unfinished(ctx)
	if err != nil {
		return answer, err
	}
	free := slices.DeleteFunc(slices.Clone(leases), func(u kube.Unfinished) bool { return u.Held })
	answer.setHeld(leases)
	if len(free) == 0 {
		return answer, nil
	}
	if parts.Logins == nil {
		if parts.SDK, err = r.accountOfLogins(ctx, parts.Settings); err != nil && !slices.ContainsFunc(free, isPaused) {
			return answer, nil
		} else if err != nil {
			return answer, err
		}
	}
	handler := parts.Handler(log)
	wire.AddPrimaries(handler, nil)
	if err := resumeFree(ctx, handler, free, &answer); err != nil {
		answer.Status, answer.Reason = termination.StatusFailed, drain.Short(err.Error())
		if apierrors.IsForbidden(err) {
			answer.Reason += ": you need permission in the cluster to " + needsToResume
		}
		return answer, nil
	}
	// A Lease may have been taken since it was listed. Then nothing was done about it.
	if leases, err = client.Unfinished(ctx); err != nil {
		return answer, err
	}
	answer.setHeld(leases)
	return answer, nil
}

// isPaused reports whether poolers may be paused. A mark whose poolers are resumed stays for a while, for a command that comes late.
func isPaused(u kube.Unfinished) bool {
	return len(u.Pods) > 0 || u.Mark != "" && !postgres.IsResumed(u.Mark)
}

// setHeld names the Leases that are held now, and says whether there are any.
func (r *resumed) setHeld(leases []kube.Unfinished) {
	r.Status, r.Held = termination.StatusResumed, []heldLease{}
	for _, u := range leases {
		if u.Held && isPaused(u) {
			r.Held = append(r.Held, heldLease{u.Name, u.Holder, u.Renewed, u.Expires()})
			r.Status = termination.StatusHeld
		}
	}
}

// maxSkew is how far this machine's clock may be off the API server's. A Lease expires 30 seconds after its renewal, and is renewed each ten:
// with a larger difference, one that is held could look free.
const maxSkew = 5 * time.Second

// checkClock returns an error if this machine's clock is wrong. Otherwise is what else a person can do than set it.
func checkClock(ctx context.Context, client *kube.Client, otherwise string) error {
	skew, err := client.ClockSkew(ctx)
	if err != nil {
		return err
	}
	if skew.Abs() > maxSkew {
		return fmt.Errorf("this machine's clock is %v off the API server's, so it cannot tell which Leases are held\n"+
			"set the clock%s", skew.Abs().Round(time.Second), otherwise)
	}
	return nil
}

// accountOfLogins returns the account if quiesce.yaml has a login in Secrets Manager: nothing else needs one. It fails if there is no login
// at all.
func (r *resumeOptions) accountOfLogins(ctx context.Context, settings config.Config) (aws.Config, error) {
	known, inAWS := loginsOf(settings)
	if !known {
		return aws.Config{}, errors.New("poolers are paused, and the login of their consoles is not known\n" +
			"name quiesce.yaml with --config, a Secret with --console-secret, or give --user with --password-file or --password-env")
	}
	if !inAWS {
		return aws.Config{}, nil
	}
	sdk, err := r.account(ctx, "")
	if err != nil {
		return sdk, fmt.Errorf("the login is in Secrets Manager (secretArn): %w", err)
	}
	return sdk, nil
}

// loginsOf reports whether quiesce.yaml has a login, and whether one is in Secrets Manager.
func loginsOf(settings config.Config) (known, inAWS bool) {
	for i := range settings.Phases {
		if console := settings.Phases[i].EscortConsole(); console != nil {
			known, inAWS = known || console.HasLogin(), inAWS || console.SecretARN != ""
		}
	}
	return known, inAWS
}

// resumeFree resumes what the marks of moves and the records of drains name.
func resumeFree(ctx context.Context, handler *termination.Handler, free []kube.Unfinished, answer *resumed) error {
	var errs []error
	marked := func(u kube.Unfinished) bool { return u.Mark != "" && strings.HasPrefix(u.Name, postgres.LeasePrefix) }
	if slices.ContainsFunc(free, marked) {
		if handler.Primaries == nil {
			errs = append(errs, errors.New("a switchover left poolers paused, and quiesce.yaml has no phase with the escort postgres: leave --config out, and name the login"))
		} else {
			clusters, err := handler.Primaries.Resume(ctx)
			answer.Clusters, errs = append(answer.Clusters, clusters...), append(errs, err)
		}
	}
	for _, u := range free {
		if len(u.Pods) == 0 {
			continue
		}
		pods, err := handler.UndoEscorts(ctx, u.LeaseInfo)
		answer.Poolers = append(answer.Poolers, pods...)
		if err != nil {
			errs = append(errs, fmt.Errorf("undo what the drain of %s changed: %w", u.Name, err))
		}
	}
	return errors.Join(errs...)
}

func showResumed(out io.Writer, r resumed) {
	if r.Status == termination.StatusResumed && len(r.Clusters)+len(r.Poolers) == 0 {
		fmt.Fprintln(out, "no pooler is paused by quiesce")
		return
	}
	columns(out, [][]string{
		{"STATUS", "CLUSTERS", "POOLERS"},
		{string(r.Status), orNone(strings.Join(r.Clusters, ", ")), orNone(strings.Join(r.Poolers, ", "))},
	})
	for _, h := range r.Held {
		fmt.Fprintf(out, "\nlease %s is held by %s, renewed %s: a switchover or a drain may be under way\n"+
			"run it again after %s, when it expires unless it is renewed; --force takes it at once, if you know that no function runs\n",
			line(h.Lease), line(cmp.Or(h.Holder, "nobody")), clock(h.Renewed), clock(h.Expires))
	}
	if r.Reason != "" {
		fmt.Fprintln(out, "\n"+line(r.Reason)+"\nwhat is left is still marked: see the warnings, name the function's quiesce.yaml with --config, and run it again "+
			"when the consoles answer")
	}
}

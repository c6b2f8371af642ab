package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"quiesce/internal/install"
)

// errDiffers ends install verify with exitFindings.
var errDiffers = errors.New("the cluster differs")

// needsToInstall is what a person must be allowed to do.
const needsToInstall = "read and change namespaces, roles, their bindings and admission policies, as cluster-admin may"

type installOptions struct {
	*options
	config           string
	poolerNamespaces []string
	patroni, cnpg    []string
	may              install.UpOptions
}

func newInstall(o *options) *cobra.Command {
	i := &installOptions{options: o}
	command := &cobra.Command{
		Use:   "install",
		Short: "Install what quiesce needs in a cluster: namespace, permissions, policies",
		Long: "install keeps what quiesce needs in a cluster: its namespace, its permissions, and the policies that confine them.\n" +
			"A second time changes nothing. No password is made or read: Secrets are named, and must exist.\n\n" +
			"quiesce.yaml says which consoles of poolers the function reaches. Clusters of PostgreSQL are named one by one.",
		Example: "  quiescectl install verify --config quiesce.yaml\n" +
			"  quiescectl install up --config quiesce.yaml --patroni db/orders=orders-0,orders-1\n" +
			"  quiescectl install render --config quiesce.yaml | kubectl apply -f -",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	up := &cobra.Command{
		Use: "up", Short: "Install, or bring up to date", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return i.change(c, i.up) },
	}
	up.Flags().BoolVar(&i.may.Force, "force-conflicts", false, "take over fields that another tool has set to other values")
	up.Flags().BoolVar(&i.may.RemoveExtra, "remove-extra", false, "remove permissions of quiesce that neither quiesce.yaml nor a flag asks for")
	render := &cobra.Command{
		Use: "render", Short: "Print the manifests", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return i.render(c) },
	}
	verify := &cobra.Command{
		Use: "verify", Short: "Compare with the cluster, and exit with status 1 if it differs; changes nothing", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return i.change(c, i.verify) },
	}
	down := &cobra.Command{
		Use: "down", Short: "Remove everything of quiesce from the cluster, unless a drain runs or a pooler is paused", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return i.change(c, (*installed).Down) },
	}
	for _, what := range []*cobra.Command{render, up, verify} {
		flags := what.Flags()
		flags.StringVar(&i.config, "config", "", "path of quiesce.yaml; without it, no access to consoles is installed")
		flags.StringSliceVar(&i.poolerNamespaces, "pooler-namespace", nil, "namespace of poolers that quiesce.yaml does not name")
		flags.StringArrayVar(&i.patroni, "patroni", nil, "cluster that Patroni runs, as namespace/scope=pod,pod; may be repeated")
		flags.StringArrayVar(&i.cnpg, "cnpg", nil, "cluster of CloudNativePG, as namespace/name=pod,pod; may be repeated")
	}
	command.AddCommand(render, up, verify, down)
	return command
}

// wanted returns what the flags and the configuration ask for.
func (i *installOptions) wanted() (install.Options, error) {
	var wanted install.Options
	for _, kind := range []struct {
		texts    []string
		clusters *[]install.Cluster
	}{{i.patroni, &wanted.Patroni}, {i.cnpg, &wanted.CloudNativePG}} {
		for _, text := range kind.texts {
			cluster, err := install.ParseCluster(text)
			if err != nil {
				return wanted, err
			}
			*kind.clusters = append(*kind.clusters, cluster)
		}
	}
	if i.config == "" {
		if len(i.poolerNamespaces) > 0 {
			return wanted, errors.New("--pooler-namespace needs --config: quiesce.yaml says how consoles are reached")
		}
		return wanted, nil
	}
	settings, err := readSettings(i.config)
	if err != nil {
		return wanted, err
	}
	wanted.Consoles, err = install.Consoles(settings, i.poolerNamespaces)
	return wanted, err
}

func (i *installOptions) render(c *cobra.Command) error {
	wanted, err := i.wanted()
	if err != nil {
		return err
	}
	text, err := install.Render(wanted)
	if err != nil {
		return err
	}
	_, err = c.OutOrStdout().Write(text)
	return err
}

// installed is a cluster, and what should be in it.
type installed struct {
	*install.Target
	objects install.Set
}

func (i *installOptions) up(t *installed, ctx context.Context) ([]install.Change, error) {
	return t.Up(ctx, t.objects, i.may)
}

func (i *installOptions) verify(t *installed, ctx context.Context) ([]install.Change, error) {
	changes, err := t.Verify(ctx, t.objects)
	if err == nil && slices.ContainsFunc(changes, func(c install.Change) bool { return c.Result != install.Unchanged }) {
		err = errDiffers
	}
	return changes, err
}

// change does something about each object, and prints what was done, also before an error.
func (i *installOptions) change(c *cobra.Command, do func(*installed, context.Context) ([]install.Change, error)) error {
	wanted, err := i.wanted()
	if err != nil {
		return err
	}
	objects, err := install.Objects(wanted)
	if err != nil {
		return err
	}
	access, _, err := i.connect()
	if err != nil {
		return err
	}
	target, err := install.Connect(access)
	if err != nil {
		return err
	}
	changes, err := do(&installed{target, objects}, c.Context())
	if !errors.Is(err, errDiffers) {
		err = i.advised(err, needsToInstall, "")
	}
	return errors.Join(i.write(c.OutOrStdout(), changes, changesTable(changes)), err)
}

func changesTable(changes []install.Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%-10s %s\n", c.Result, c.Object)
		for _, field := range c.Fields {
			fmt.Fprintf(&b, "           %s\n", field)
		}
	}
	if slices.ContainsFunc(changes, func(c install.Change) bool { return c.Result == install.Extra }) {
		b.WriteString("\nextra is what neither quiesce.yaml nor a flag asks for: add it there, or remove it with install up --remove-extra\n")
	}
	return b.String()
}

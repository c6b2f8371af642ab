package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Set by the build.
var (
	version = "unknown"
	commit  = "unknown"
)

// options are the flags that all commands share, with kubectl's names where kubectl has them.
type options struct {
	kubeconfig, context, namespace string
	region, profile                string
	cluster, function              string
	output                         string

	askCode     func() (string, error)  // of an MFA device; nil: no person is there to ask
	credentials aws.CredentialsProvider // that this command has found; nil: none yet
}

// The forms of output.
const (
	asTable = "table"
	asJSON  = "json"
	asYAML  = "yaml"
)

var outputs = []string{asTable, asJSON, asYAML}

func newRoot() *cobra.Command {
	o := &options{askCode: codeAsker(os.Stdin, os.Stderr)}
	root := &cobra.Command{
		Use:   "quiescectl",
		Short: "Check a cluster before a node leaves, and plan and follow drains",
		Long: "quiescectl finds what would go wrong when a node of an EKS cluster leaves, and asks the function quiesce to plan or to act.\n" +
			"It uses your kubeconfig and your AWS credentials, as kubectl and aws do.",
		Example:       "  quiescectl doctor\n  quiescectl plan ip-10-0-1-2.ec2.internal",
		Version:       version + " (commit " + commit + ")",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return o.check() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig; default $KUBECONFIG, or ~/.kube/config")
	flags.StringVar(&o.context, "context", "", "context of the kubeconfig")
	flags.StringVar(&o.region, "region", "", "AWS region; default that of the nodes, where they are read, that of the context, or of the environment")
	flags.StringVar(&o.profile, "profile", "", "profile of the AWS configuration")
	flags.StringVar(&o.cluster, "cluster", "", "name of the EKS cluster; default that of the context")
	flags.StringVar(&o.function, "function", "", "name of the Lambda function; default quiesce-<cluster>:live")
	install, rotation := newInstall(o), newRotate(o)
	for _, command := range append(install.Commands(), rotation) {
		if command.Name() != "render" { // which prints manifests
			o.addOutput(command)
		}
	}
	root.AddCommand(newDoctor(o), newPlan(o), newResume(o), newWatch(o), install, rotation, newTimeline(o))
	root.AddCommand(newActions(o)...)
	return root
}

// addOutput adds the flag --output to a command that has several forms of output.
func (o *options) addOutput(command *cobra.Command) {
	command.Flags().StringVarP(&o.output, "output", "o", asTable, "form of the output: "+strings.Join(outputs, ", "))
	_ = command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
}

func (o *options) check() error {
	if !slices.Contains(outputs, o.output) {
		return fmt.Errorf("--output must be one of %s, not %q", strings.Join(outputs, ", "), o.output)
	}
	return nil
}

// eksCluster is the cluster of a context, as its kubeconfig says; zero: it does not.
type eksCluster struct{ name, region string }

// connect returns how to reach the cluster, and which one of EKS it is.
func (o *options) connect() (config *rest.Config, cluster eksCluster, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context})
	if config, err = loader.ClientConfig(); err != nil && o.context != "" {
		return nil, eksCluster{}, fmt.Errorf("read the kubeconfig: %w\nname another with --context: kubectl config get-contexts lists them", err)
	} else if err != nil {
		return nil, eksCluster{}, fmt.Errorf("read the kubeconfig: %w\nname one with --kubeconfig, or make one: aws eks update-kubeconfig --name CLUSTER", err)
	}
	config.UserAgent = "quiescectl/" + version
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, eksCluster{}, fmt.Errorf("read the kubeconfig: %w", err)
	}
	current := raw.CurrentContext
	if o.context != "" {
		current = o.context
	}
	if found := raw.Contexts[current]; found != nil {
		cluster = readEntry(found.Cluster)
	}
	return config, cluster, nil
}

// readEntry returns the EKS cluster of an entry, as "aws eks update-kubeconfig" (an ARN) and eksctl (NAME.REGION.eksctl.io) write it into a
// kubeconfig; zero: it is neither's.
func readEntry(entry string) eksCluster {
	if parsed, err := arn.Parse(entry); err == nil {
		if name, is := strings.CutPrefix(parsed.Resource, "cluster/"); is {
			return eksCluster{name, parsed.Region}
		}
	}
	if entry, is := strings.CutSuffix(entry, ".eksctl.io"); is {
		name, region, _ := strings.Cut(entry, ".")
		return eksCluster{name, region}
	}
	return eksCluster{}
}

// isTerminal reports whether a person reads what is written.
func isTerminal(w io.Writer) bool {
	file, is := w.(*os.File)
	if !is {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"quiesce/internal/doctor"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/pgbouncer"
)

// settleTimeout bounds how long controllers may take until the cluster is as its manifests say.
const settleTimeout = time.Minute

// binary is the built command, and builtVersion its version.
var binary string

const builtVersion = "v1.3.0"

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "quiescectl")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(folder, "quiescectl")
	status := 1
	if output, err := exec.Command("go", "build", "-ldflags", "-X main.version="+builtVersion, "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build quiescectl: %v\n%s", err, output)
	} else {
		status = pgbouncer.Run(m) // and stops the PostgreSQL that tests share
	}
	_ = os.RemoveAll(folder)
	os.Exit(status)
}

// ended is how a command ended.
type ended struct {
	out, progress string
	status        int
}

// quiescectl runs the built command with only these variables.
func quiescectl(t *testing.T, env []string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*settleTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	command.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	var out, progress bytes.Buffer
	command.Stdout, command.Stderr = &out, &progress
	err := command.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return ended{out.String(), progress.String(), command.ProcessState.ExitCode()}
}

// world is a cluster and an account.
type world struct {
	*testing.T
	lab *lab.Lab
	aws *awstest.Server
	env []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	lab.Require(t)
	l, err := lab.Start(t.Context(), lab.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	server, err := awstest.Start()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	return &world{t, l, server, append(server.Environment(server.Session("person")), "KUBECONFIG="+l.Kubeconfig())}
}

func (w *world) apply(file string) {
	w.Helper()
	require.NoError(w, w.lab.Apply(w.Context(), file))
}

// addNode adds a node, and its instance to the group; empty: to none.
func (w *world) addNode(group string, n lab.Node) {
	w.Helper()
	if group != "" {
		w.aws.AddInstance(group, awstest.Instance{ID: n.InstanceID, Zone: n.Zone, PrivateDNS: n.Name, SecurityGroups: []string{"sg-node"}})
	}
	require.NoError(w, w.lab.AddNodes(w.Context(), n))
}

// golden runs the command until it prints the file, and compares what it printed last.
func (w *world) golden(file string, args ...string) ended {
	w.Helper()
	path := filepath.Join("testdata", file)
	want, err := os.ReadFile(path)
	if os.Getenv("UPDATE") == "" {
		require.NoError(w, err)
	}
	var got ended
	for deadline := time.Now().Add(settleTimeout); ; {
		got = quiescectl(w.T, w.env, args...)
		if got.out == string(want) || time.Now().After(deadline) {
			break
		}
	}
	if os.Getenv("UPDATE") != "" {
		require.NoError(w, os.WriteFile(path, []byte(got.out), 0o600))
	}
	require.Equal(w, string(want), got.out, got.progress)
	return got
}

// doctor runs doctor until its report has these texts: a slow lab may not have answered everything at first.
func (w *world) doctor(env, texts []string, args ...string) (got ended) {
	w.Helper()
	for deadline := time.Now().Add(settleTimeout); ; {
		got = quiescectl(w.T, env, append([]string{"doctor", "--timeout", "1m"}, args...)...)
		missing := slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return strings.Contains(got.out, text) })
		if len(missing) == 0 {
			return got
		}
		if time.Now().After(deadline) {
			require.Empty(w, missing, got.out+got.progress)
		}
	}
}

// addNetwork puts the function into the VPC of the cluster, whose API server has this rule.
func (w *world) addNetwork(ingress awstest.Rule) {
	w.aws.AddCluster("prod", "https://127.0.0.1:6443", nil)
	w.aws.AddSubnet("subnet-a", "10.0.0.0/24")
	w.aws.AddSecurityGroup(awstest.SecurityGroup{ID: "sg-cluster", Ingress: []awstest.Rule{ingress}})
	w.aws.AddSecurityGroup(awstest.SecurityGroup{ID: "sg-node", Ingress: []awstest.Rule{{Port: 443, Group: "sg-function"}}})
	w.aws.AddSecurityGroup(awstest.SecurityGroup{ID: "sg-function", Egress: []awstest.Rule{{CIDR: "0.0.0.0/0"}}})
	w.aws.SetClusterNetwork("prod", awstest.Network{VPC: "vpc-1", Subnets: []string{"subnet-a"}, SecurityGroups: []string{"sg-cluster"}})
	w.aws.SetFunctionNetwork("quiesce-prod", awstest.Network{VPC: "vpc-1", Subnets: []string{"subnet-a"}, SecurityGroups: []string{"sg-function"}})
}

var quiesceHook = awstest.Hook{Name: "quiesce", HeartbeatTimeout: 20 * time.Minute, DefaultResult: awstest.Continue}

func node(name, zone string) lab.Node {
	return lab.Node{Name: name, InstanceID: "i-" + strings.ReplaceAll(name, "-", ""), Zone: zone}
}

func TestDoctor_HealthyCluster_FindsNothing(t *testing.T) {
	w := newWorld(t)
	w.apply("../rbac.yaml")
	for _, zone := range []string{"a", "b"} {
		group := "workers-" + zone
		w.aws.AddGroup(group, quiesceHook)
		w.aws.SetGroup(group, awstest.GroupSettings{MinHealthy: 100})
		for _, n := range []string{"1", "2"} {
			w.addNode(group, node("node-"+zone+n, "eu-west-1"+zone))
		}
	}
	w.aws.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	w.addNetwork(awstest.Rule{Port: 443, Group: "sg-function"})
	w.aws.SetEnvironment("quiesce-prod", map[string]string{dlqVariable: w.aws.AddQueue(awstest.Queue{Name: "dlq"}), versionVariable: builtVersion})
	w.apply("testdata/healthy.yaml")

	got := w.golden("healthy.txt", "doctor", "--cluster", "prod", "--timeout", "1m")
	require.Zero(t, got.status)
	require.Empty(t, got.progress, "progress is for terminals")
}

// faulty returns a cluster and an account that have each fault once.
func faulty(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.aws.AddGroup("workers-a")
	w.aws.AddGroup("workers-b", awstest.Hook{Name: "quiesce", HeartbeatTimeout: 5 * time.Minute, DefaultResult: awstest.Continue}, awstest.Hook{Name: "legacy"})
	w.aws.SetGroup("workers-b", awstest.GroupSettings{Suspended: []string{"Launch"}, MinHealthy: 90})
	w.aws.TagGroup("workers-b", map[string]string{"k8s.io/cluster-autoscaler/enabled": "true"})
	w.aws.AddGroup("workers-c", awstest.Hook{Name: "Terminate-LC-Hook"})
	w.aws.AddGroup("removed")
	for _, n := range []string{"a1", "b1", "a2", "b2"} {
		group := map[byte]string{'1': "workers-a", '2': "workers-b"}[n[1]]
		w.addNode(group, node("node-"+n, "eu-west-1"+n[:1]))
	}
	shared, old := node("node-c1", "eu-west-1c"), node("node-old", "eu-west-1a")
	shared.Labels = map[string]string{"karpenter.sh/nodepool": "default"}
	old.Labels = map[string]string{"eks.amazonaws.com/nodegroup": "workers-2023"}
	w.addNode("workers-c", shared)
	w.addNode("removed", old)
	w.addNode("removed", node("node-loose", "eu-west-1a"))
	w.aws.DeleteGroup("removed")
	twin := node("node-twin", "eu-west-1a")
	twin.InstanceID = node("node-a1", "").InstanceID
	w.addNode("", twin)

	w.apply("testdata/faulty.yaml")
	_, err := w.lab.Kubectl(t.Context(), "label", "node", "node-b2", "node.kubernetes.io/exclude-from-external-load-balancers=quiesce")
	require.NoError(t, err)
	w.aws.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	w.addNetwork(awstest.Rule{Port: 443, Group: "sg-other"})
	dlq := w.aws.AddQueue(awstest.Queue{Name: "dlq"})
	w.aws.SetEnvironment("quiesce-prod", map[string]string{dlqVariable: dlq, versionVariable: "v1.2.0"})
	w.aws.SendMessage(dlq, "{}")
	return w
}

func TestDoctor_FaultyCluster_FindsEachFault(t *testing.T) {
	w := faulty(t)
	got := w.golden("faulty.txt", "doctor", "--cluster", "prod", "--timeout", "1m")
	require.Equal(t, exitFindings, got.status)

	t.Run("the examples of the page", func(t *testing.T) { runExamples(t, w.env, "doctor", "watch") })
	t.Run("JSON and YAML say the same", func(t *testing.T) {
		var fromJSON, fromYAML doctor.Report
		require.NoError(t, json.Unmarshal([]byte(w.doctor(w.env, nil, "--cluster", "prod", "-o", "json").out), &fromJSON))
		require.NoError(t, yaml.Unmarshal([]byte(w.doctor(w.env, nil, "--cluster", "prod", "-o", "yaml").out), &fromYAML))
		require.Equal(t, got.out, table(fromJSON, false))
		require.Equal(t, got.out, table(fromYAML, false))
		found := map[string]bool{}
		for _, f := range fromJSON.Findings {
			found[f.Check] = true
		}
		for _, name := range doctor.Names() {
			// This cluster can be read, its function runs, and a file of settings is another test's.
			unmade := []string{"reading", "group-config", "database-unknown", "quiesce-installed", "quiesce-function"}
			require.Equal(t, !slices.Contains(unmade, name), found[name], name)
		}
	})
	t.Run("a namespace", func(t *testing.T) {
		shop := w.doctor(w.env, []string{"deployment shop/files: its data is on disks of instances"}, "--cluster", "prod", "-n", "shop")
		require.NotContains(t, shop.out, " db/")
		require.NotContains(t, shop.out, "group workers-a")
	})
	t.Run("with permissions in one namespace", func(t *testing.T) {
		w.applyText(ownerManifest)
		w.awaitAllowed("owner", "list", "services", "-n", "shop")
		env := []string{"KUBECONFIG=" + impersonating(t, w.lab.Kubeconfig(), "owner")}
		shop := w.doctor(env, []string{"statefulset shop/batch: its grace period"}, "-n", "shop")
		require.NotEqual(t, exitError, shop.status, shop.progress)
		require.Contains(t, shop.out, "WARNING   nodes: could not be read: ")
		require.Contains(t, shop.out, "WARNING   pods of other namespaces: could not be read: ")
		require.Contains(t, shop.out, "WARNING   persistentvolumes: could not be read: ")
		for _, not := range []string{"AWS", "services:", "webhooks", "leases", "no room elsewhere", "may attach volume"} {
			require.NotContains(t, shop.out, not)
		}
		require.Equal(t, exitError, w.doctor(env, []string{"WARNING   pods: could not be read: "}, "-n", "db").status, "it may not read that one")
	})
	t.Run("a configuration", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "quiesce.yaml")
		require.NoError(t, os.WriteFile(file, []byte("{cluster: prod, autoScalingGroups: [workers-a], mode: drain, drain: {maxDuration: 3h}}"), 0o600))
		out := w.doctor(w.env, []string{"group workers-b: autoScalingGroups in quiesce.yaml does not match it"}, "--config", file).out
		require.NotContains(t, out, "statefulset shop/batch: its grace period")
	})
	t.Run("a public endpoint for some addresses", func(t *testing.T) {
		vpc := awstest.Network{VPC: "vpc-1", Subnets: []string{"subnet-a"}, SecurityGroups: []string{"sg-cluster"}}
		vpc.PublicCIDRs = []string{"203.0.113.0/24"}
		w.aws.SetClusterNetwork("prod", vpc)
		w.aws.SetFunctionNetwork("quiesce-prod", awstest.Network{})
		defer w.addNetwork(awstest.Rule{Port: 443, Group: "sg-other"})
		w.doctor(w.env, []string{"CRITICAL  function quiesce-prod: is in no VPC, so its addresses are not fixed, " +
			"and the cluster's public endpoint admits only 203.0.113.0/24\n"}, "--cluster", "prod")
	})
	t.Run("consoles at addresses of pods", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "quiesce.yaml")
		require.NoError(t, os.WriteFile(file, []byte(`{cluster: prod, autoScalingGroups: ["workers-*"], mode: drain, phases: [`+
			`{name: poolers, escort: {pgbouncer: {connectVia: podIP, secretRef: {namespace: db, name: admin}}}}, {name: workloads}]}`), 0o600))
		blocked := func(pooler string, port int) []string {
			return []string{
				fmt.Sprintf("WARNING   security group sg-node: does not admit function quiesce-prod (sg-function) to the consoles of deployment db/%s on port %d\n", pooler, port),
				fmt.Sprintf("run    aws --region eu-west-1 ec2 authorize-security-group-ingress --group-id sg-node --protocol tcp --port %d --source-group sg-function\n", port),
			}
		}
		w.doctor(w.env, append(blocked("pgbouncer", 5432), blocked("reports", 6432)...), "--config", file)
		w.aws.AddSecurityGroup(awstest.SecurityGroup{ID: "sg-node", Ingress: []awstest.Rule{{Port: 5432, Group: "sg-function"}, {Port: 6432, Group: "sg-function"}}})
		open := w.doctor(w.env, []string{"deployment db/pgbouncer: ", "security group sg-cluster: "}, "--config", file)
		require.NotContains(t, open.out, "security group sg-node")
		require.NotContains(t, open.out, "network of quiesce: could not be read")
	})
	t.Run("exit status", func(t *testing.T) {
		for severity, want := range map[string]int{"critical": exitFindings, "warning": exitFindings, never: 0} {
			require.Equal(t, want, w.doctor(w.env, []string{"CRITICAL"}, "--fail-on", severity).status, severity)
		}
	})
	t.Run("without credentials of AWS", func(t *testing.T) {
		env := append(slices.Clone(w.env), "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SESSION_TOKEN=")
		got := w.doctor(env, []string{"WARNING   AWS: could not be read", "deployment shop/files"}, "--cluster", "prod")
		require.Contains(t, got.out, "WARNING   AWS: could not be read: there are no usable AWS credentials: ")
		require.Contains(t, got.out, "fix    log in (aws sso login), or name a profile with --profile\n")
		require.Contains(t, got.out, "deployment shop/files: its data is on disks of instances", "the cluster is looked at all the same")
		require.NotContains(t, got.out, "group workers-a")
		require.NotContains(t, got.out, "EC2 does not know")
	})
	t.Run("without permissions", func(t *testing.T) {
		env := append(slices.Clone(w.env), "KUBECONFIG="+impersonating(t, w.lab.Kubeconfig(), "nobody"))
		got := w.doctor(env, []string{"WARNING   nodes: could not be read: ", "ask for the permission that the error names, or use another login\n"}, "--cluster", "prod")
		require.Equal(t, exitError, got.status, "nothing is known, so nothing is well")
		require.Contains(t, got.progress, "nodes or pods could not be read")
		for _, part := range []string{"nodes", "pods", "poddisruptionbudgets", "services", "persistentvolumes", "webhooks", "leases", "permissions of quiesce"} {
			require.Contains(t, got.out, "WARNING   "+part+": could not be read: ", got.out)
		}
		require.Contains(t, got.out, "fix    ask for the permission that the error names, or use another login\n")
		require.Equal(t, 1, strings.Count(got.out, "CRITICAL"), "what is not known is not claimed: %s", got.out)
		require.Contains(t, got.out, "CRITICAL  security group sg-cluster: ", "this is known from the account alone")

		got = quiescectl(t, env, "watch")
		require.Equal(t, exitError, got.status)
		require.Contains(t, got.progress, "you need permission in the cluster to list leases in namespace quiesce, and pods")
	})
}

// ownerManifest lets the user owner read the namespace shop, and nothing else.
const ownerManifest = `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: owner, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}]
`

// impersonating returns a copy of a kubeconfig whose user acts as another.
func impersonating(t *testing.T, kubeconfig, as string) string {
	t.Helper()
	text, err := os.ReadFile(kubeconfig)
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, yaml.Unmarshal(text, &file))
	user := file["users"].([]any)[0].(map[string]any)["user"].(map[string]any)
	user["as"] = as
	text, err = yaml.Marshal(file)
	require.NoError(t, err)
	copied := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(copied, text, 0o600))
	return copied
}

// kubeconfigOf returns a kubeconfig for a server.
func kubeconfigOf(t *testing.T, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, []byte("{clusters: [{name: c, cluster: {server: '"+server+"'}}], "+
		"contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}"), 0o600))
	return file
}

func TestDoctor_WrongUse_SaysWhatToDo(t *testing.T) {
	silent := httptest.NewServer(http.NotFoundHandler())
	silent.Close() // its address refuses connections
	file := kubeconfigOf(t, silent.URL)
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"doctor"}, []string{"read the kubeconfig", "aws eks update-kubeconfig --name CLUSTER"}},
		{[]string{"doctor", "--kubeconfig", file}, []string{"the cluster does not answer", "kubectl --kubeconfig " + file + " version"}},
		{[]string{"doctor", "--kubeconfig", file, "--context", "y"}, []string{"read the kubeconfig", `context "y" does not exist`, "kubectl config get-contexts"}},
		{[]string{"doctor", "-o", "xml"}, []string{"--output must be one of table, json, yaml, not \"xml\""}},
		{[]string{"doctor", "--fail-on", "info"}, []string{"--fail-on must be one of warning, critical, never, not \"info\""}},
		{[]string{"doctor", "--config", "missing.yaml"}, []string{"--config: open missing.yaml"}},
		{[]string{"watch", "--interval", "99ms"}, []string{"--interval must be at least 100ms, not 99ms"}},
		{[]string{"watch", "-n", "shop"}, []string{"unknown shorthand flag: 'n'"}},
		{[]string{"sweep", "-n", "shop"}, []string{"unknown shorthand flag: 'n'"}},
		{[]string{"timeline", "-", "-o", "json"}, []string{"unknown shorthand flag: 'o'"}},
		{[]string{"install", "render", "-o", "json"}, []string{"unknown shorthand flag: 'o'"}},
		{[]string{"drain", "ip-10-0-1-2.ec2.internal"}, []string{"drain needs the ID of an instance"}},
		{[]string{"doctor", "now"}, []string{"unknown command", "see: quiescectl doctor --help"}},
		{[]string{"doctor", "--now"}, []string{"unknown flag: --now\nsee: quiescectl doctor --help\n"}},
		{[]string{"install", "now"}, []string{"unknown command", "see: quiescectl install --help"}},
		{[]string{"watch", "--kubeconfig", file}, []string{"list leases", "check that this works: kubectl --kubeconfig " + file + " version"}},
		{[]string{"install", "verify", "--kubeconfig", file}, []string{"check that this works: kubectl --kubeconfig " + file + " version"}},
		{[]string{"resume", "--kubeconfig", file}, []string{"check that this works: kubectl --kubeconfig " + file + " version"}},
		{[]string{"plan", "a", "--local", "--kubeconfig", file}, []string{"check that this works: kubectl --kubeconfig " + file + " version"}},
		{[]string{"doctr"}, []string{"unknown command", "doctor"}},
	} {
		got := quiescectl(t, nil, c.args...)
		require.Equal(t, exitError, got.status, c.args)
		require.Empty(t, got.out, c.args)
		for _, text := range c.says {
			require.Contains(t, got.progress, text, c.args)
		}
	}
}

// client-go runs a credential plugin without a context.
func TestDoctor_CredentialPluginHangs_EndsWithItsTimeout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, []byte("{clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], "+
		"users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, "+
		"command: sh, args: ['-c', 'exec sleep 20 2>&-']}}}], "+ // it must not hold this test's pipe
		"contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}"), 0o600))
	began := time.Now()
	got := quiescectl(t, nil, "doctor", "--kubeconfig", file, "--timeout", "1s")
	require.Equal(t, exitError, got.status)
	require.Contains(t, got.progress, "the cluster does not answer: the kubeconfig's credential plugin may hang\n"+
		"check that this works: kubectl --kubeconfig "+file+" version\n")
	require.Less(t, time.Since(began), 10*time.Second)
}

// An API server that is silent is no fault of a plugin.
func TestDoctor_SilentServer_IsNotAPlugin(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	got := quiescectl(t, nil, "doctor", "--kubeconfig", kubeconfigOf(t, silent.URL), "--timeout", "1s")
	require.Equal(t, exitError, got.status)
	require.Contains(t, got.progress, "the cluster does not answer: Get ")
	require.NotContains(t, got.progress, "plugin")
}

func TestCompletion_Flags_HaveTheirValues(t *testing.T) {
	require.Contains(t, quiescectl(t, nil, "completion", "bash").out, "__start_quiescectl")
	require.Contains(t, quiescectl(t, nil, "__complete", "doctor", "-o", "").out, "table\njson\nyaml\n")
	require.Contains(t, quiescectl(t, nil, "__complete", "doctor", "--fail-on", "").out, "warning\ncritical\nnever\n")
}

func TestTable_Terminal_HasColors(t *testing.T) {
	report := doctor.Report{Findings: []doctor.Finding{{Severity: doctor.Critical, Where: "group a", What: "b", Cost: "c", Fix: "d"}}}
	require.Contains(t, table(report, true), "\033[1;31mCRITICAL\033[0m  group a: b\n")
	require.NotContains(t, table(report, false), "\033")
}

func TestReadEntry_AsToolsWriteIt_NameAndRegion(t *testing.T) {
	prod := eksCluster{"prod", "eu-west-1"}
	for entry, want := range map[string]eksCluster{
		"arn:aws:eks:eu-west-1:111122223333:cluster/prod": prod, "prod.eu-west-1.eksctl.io": prod, "kind-prod": {},
		"arn:aws:iam::111122223333:role/prod": {}, "arn:": {},
	} {
		require.Equal(t, want, readEntry(entry), entry)
	}
}

// The function does not pay for what only this tool needs.
func TestFunction_Imports_NothingOfThisTool(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "quiesce/lambda").Output()
	require.NoError(t, err)
	for _, not := range []string{"github.com/spf13/cobra", "quiesce/internal/doctor", "k8s.io/client-go/kubernetes\n", "k8s.io/client-go/tools/clientcmd\n"} {
		require.NotContains(t, string(output), not)
	}
}

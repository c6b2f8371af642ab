package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"quiesce/internal/metrics"
	"quiesce/internal/metrics/metricstest"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// lambdaPermissions are the permissions that Lambda itself uses with the function's role: it writes the log and receives messages
// from the queue.
var lambdaPermissions = []string{"logs:CreateLogStream", "logs:PutLogEvents", "sqs:ReceiveMessage", "sqs:DeleteMessage"}

// configuredPermissions are the permissions that the stack grants only if quiesce.yaml asks for the feature; policy.json belongs
// to a stack without it. No test here uses the permission for the secrets of consoles: internal/secrets tests it.
// Another function removes hooks: the tests of lambda run it.
var configuredPermissions = []string{
	"s3:PutObject", "ec2:DescribeSpotInstanceRequests", "ec2:DescribeInstanceStatus", "autoscaling:TerminateInstanceInAutoScalingGroup",
	"autoscaling:PutLifecycleHook",
}

// alwaysAllowed is allowed for every identity, and no policy can deny it
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html). The cluster sends this request.
const alwaysAllowed = "sts:GetCallerIdentity"

// auditor collects what all functions of all tests have done.
type auditor struct {
	used, refused map[string]bool
	errs          []error
}

// audit compares what the functions in these environments did with what they are allowed to do. Only a run of all tests can show
// that every permission is used.
func audit(envs ...*env.Env) error {
	a := auditor{used: map[string]bool{}, refused: map[string]bool{}}
	for _, on := range envs {
		a.collect(on)
	}
	must, err := grantedPermissions()
	if err != nil {
		return errors.Join(append(a.errs, err)...)
	}
	for _, refused := range slices.Sorted(maps.Keys(a.refused)) {
		a.fail("Kubernetes denies the function a request: %s", refused)
	}
	for _, used := range slices.Sorted(maps.Keys(a.used)) {
		if _, granted := must[used]; !granted && used != alwaysAllowed {
			a.fail("the function uses %s without permission", used)
		}
	}
	for _, permission := range slices.Sorted(maps.Keys(must)) {
		if everyTestRan() && must[permission] && !a.used[permission] {
			a.fail("the function has the permission %s, but does not use it", permission)
		}
	}
	return errors.Join(a.errs...)
}

// everyTestRan reports whether no test was excluded by a flag.
func everyTestRan() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}

func (a *auditor) fail(format string, args ...any) {
	a.errs = append(a.errs, fmt.Errorf(format, args...))
}

func (a *auditor) collect(on *env.Env) {
	for _, call := range on.AWS.Calls() {
		if env.IsFunction(call.Session) {
			a.used[call.Service+":"+call.Action] = true
		}
	}
	requests, err := on.Lab.Audit().Of(func(user string) bool { return env.IsFunction(strings.TrimPrefix(user, "quiesce:")) })
	if err != nil {
		a.errs = append(a.errs, err)
	}
	for _, r := range requests {
		if a.used[permissionOf(r)] = true; r.Denied {
			a.refused[permissionOf(r)] = true
		}
	}
	for _, function := range on.Functions() {
		a.checkMetrics(function)
	}
}

// checkMetrics checks that CloudWatch accepts the metrics that a function writes.
func (a *auditor) checkMetrics(f *env.Function) {
	values, err := metricstest.Of(f.Output())
	if err != nil {
		a.fail("%s: %w", f.Session.Name, err)
	}
	for _, v := range values {
		if v.Namespace != metrics.Namespace || v.Dimensions[metrics.Cluster] == "" {
			a.fail("%s: unexpected metric %+v", f.Session.Name, v)
		}
	}
}

func permissionOf(r lab.Request) string {
	return permissionName(r.Verb, r.Group, r.Resource, r.Subresource)
}

func permissionName(verb, group, resource, subresource string) string {
	text := resource
	if subresource != "" {
		text += "/" + subresource
	}
	if group != "" {
		text = group + "/" + text
	}
	return verb + " " + text
}

// grantedPermissions returns all permissions of the function, and whether some test must use each: for AWS those of
// infra/policy.json, which the tests of infra compare with the stack; for Kubernetes those of infra/rbac.yaml. The tests of
// internal/kube check the permissions of escorts.
func grantedPermissions() (must map[string]bool, err error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	must = map[string]bool{}
	for _, action := range configuredPermissions {
		must[action] = true
	}
	err = errors.Join(
		policyPermissions(filepath.Join(root, "infra", "policy.json"), must), rolePermissions(filepath.Join(root, "infra", "rbac.yaml"), must))
	for _, action := range lambdaPermissions {
		must[action] = false
	}
	for _, p := range fallbacks {
		must[permissionName(p.verb, p.group, p.resource, "")] = false
	}
	return must, err
}

func policyPermissions(path string, into map[string]bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var policy struct{ Statement []struct{ Action any } }
	if err := json.Unmarshal(text, &policy); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	for _, statement := range policy.Statement {
		actions, several := statement.Action.([]any)
		if !several {
			actions = []any{statement.Action}
		}
		for _, action := range actions {
			into[fmt.Sprint(action)] = true
		}
	}
	return nil
}

func rolePermissions(path string, into map[string]bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for decoder := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		var role rbacv1.ClusterRole // or a Role, which has the same fields; other kinds have no rules
		if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					name := permissionName(verb, rule.APIGroups[0], resource, "")
					into[name] = into[name] || role.Name == "quiesce"
				}
			}
		}
	}
}

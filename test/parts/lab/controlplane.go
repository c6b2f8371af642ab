package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed config/audit-policy.yaml
var auditPolicy []byte

// disabledAdmission returns plugins that only cost time here: every new node, though Ready, would wait for the removal of its taint,
// and the first pod of a new namespace for its service account. Only pods on machines can use that account's token.
func (l *Lab) disabledAdmission() string {
	if l.options.Machines {
		return "TaintNodesByCondition"
	}
	return "TaintNodesByCondition,ServiceAccount"
}

// disabledControllers write an annotation that only kubelets read to every node.
var disabledControllers = []string{"-ttl-controller"}

func (l *Lab) startEtcd(ctx context.Context) error {
	client, peer := url("http", l.ports.etcd), url("http", l.ports.etcdPeer)
	args := []string{
		"--name=lab",
		"--data-dir=" + l.Path("etcd"),
		"--unsafe-no-fsync", // nothing here needs to survive a crash of the machine
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=lab=" + peer,
		"--log-level=warn",
	}
	return l.run(ctx, "etcd", args, nil, l.answers(client+"/readyz"))
}

func (l *Lab) startAPIServer(ctx context.Context, flags ...string) error {
	if err := os.WriteFile(l.Path("audit-policy.yaml"), auditPolicy, 0o600); err != nil {
		return fmt.Errorf("write the audit policy: %w", err)
	}
	args := []string{
		"--etcd-servers=" + url("http", l.ports.etcd),
		"--advertise-address=" + l.host(),
		"--endpoint-reconciler-type=" + l.endpointReconciler(),
		"--service-cluster-ip-range=" + l.services(),
		"--client-ca-file=" + l.Path("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--kubelet-client-certificate=" + l.Path("kubelet-client.crt"),
		"--kubelet-client-key=" + l.Path("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--allow-privileged",
		"--disable-admission-plugins=" + l.disabledAdmission(),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + l.Path("server.key"),
		"--service-account-key-file=" + l.Path("server.key"),
		"--audit-policy-file=" + l.Path("audit-policy.yaml"),
		"--audit-log-path=" + l.auditLog(),
		"--audit-log-mode=blocking", // a request is in the log before its answer is sent
		"--audit-log-maxsize=0",     // one file of any size
	}
	if l.options.Machines {
		args = append(args, "--enable-aggregator-routing") // webhooks of operators are called at their pods' addresses
	}
	args = append(args, l.serving(l.host(), l.ports.apiServer)...)
	args = append(args, l.tokenWebhook()...)
	args = append(args, flags...)
	return l.run(ctx, "kube-apiserver", args, nil, l.answers(l.Endpoint()+"/readyz"))
}

// endpointReconciler returns what keeps the endpoints of the Service "kubernetes", over which pods reach the API server. A loopback
// address is not a valid endpoint.
func (l *Lab) endpointReconciler() string {
	if l.options.Machines {
		return "lease"
	}
	return "none"
}

// services returns the network of the Services' addresses. Without machines nothing listens on them.
func (l *Lab) services() string {
	if l.network != nil {
		return l.network.services()
	}
	return "10.32.0.0/16"
}

func (l *Lab) auditLog() string {
	return filepath.Join(l.logDir, "audit.log")
}

// startControllers waits for what every pod needs first: the default service account of the namespace.
func (l *Lab) startControllers(ctx context.Context) error {
	args := []string{
		"--kubeconfig=" + l.kubeconfig(controllersUser),
		"--leader-elect=false",
		"--controllers=*," + strings.Join(disabledControllers, ","),
		"--concurrent-deployment-syncs=16",
		"--concurrent-replicaset-syncs=16",
		"--concurrent-statefulset-syncs=16",
		"--concurrent-job-syncs=16",
	}
	if l.options.Machines {
		args = append(args, "--root-ca-file="+l.Path("ca.crt")) // for pods, beside their tokens
	} else { // kubelets of machines report as often as by default
		args = append(args, "--node-monitor-grace-period="+nodeGrace.String())
	}
	args = append(args, l.serving(loopback, l.ports.controllers)...)
	args = append(args, unthrottled...)
	healthy := l.answers(url("https", l.ports.controllers) + "/healthz")
	return l.run(ctx, "kube-controller-manager", args, nil, func(ctx context.Context) error {
		return errors.Join(healthy(ctx), l.hasServiceAccount(ctx))
	})
}

func (l *Lab) hasServiceAccount(ctx context.Context) error {
	_, err := l.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errors.New("the controllers have not made the default service account yet")
	}
	return err
}

func (l *Lab) startScheduler(ctx context.Context) error {
	args := []string{"--kubeconfig=" + l.kubeconfig(schedulerUser), "--leader-elect=false"}
	args = append(args, l.serving(loopback, l.ports.scheduler)...)
	args = append(args, unthrottled...)
	return l.run(ctx, "kube-scheduler", args, nil, l.answers(url("https", l.ports.scheduler)+"/healthz"))
}

// unthrottled raises the components' limits on their own requests. With the defaults a benchmark would measure those limits.
var unthrottled = []string{"--kube-api-qps=1000", "--kube-api-burst=2000"}

// serving returns the flags that all Kubernetes servers have.
func (l *Lab) serving(host string, port int) []string {
	return []string{
		"--bind-address=" + host,
		"--secure-port=" + strconv.Itoa(port),
		"--tls-cert-file=" + l.Path("server.crt"),
		"--tls-private-key-file=" + l.Path("server.key"),
	}
}

func url(scheme string, port int) string {
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
}

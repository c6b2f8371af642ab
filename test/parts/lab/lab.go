// Package lab runs a real Kubernetes control plane on this machine, for tests, the demo and benchmarks: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler, the real aws-iam-authenticator as the API server's token webhook, and kwok
// (https://kwok.sigs.k8s.io) in place of the kubelets.
//
// So the behavior of Kubernetes, such as eviction, PDBs, graceful deletion, RBAC and tokens, is real. Pods run nothing: kwok
// makes them Ready at once and takes [Options].StopDelay to stop them. Annotations change that for a pod (kwok.go).
//
// With [Options].Machines, nodes run real pods, each with a kubelet, containerd and kube-proxy (machine.go). These pods reach the API
// server as in every cluster: with the token of their service account, over the Service "kubernetes".
//
// Everything listens on 127.0.0.1 or in network namespaces of the lab, and its files are in one temporary folder. Several labs
// can run at once, and nothing outlives the process that started them, however that process ends (reaper.go).
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"quiesce/test/parts/csi"
)

const (
	// startTimeout bounds the start. A lab starts in seconds; a minute more allows for several labs that start at once on two
	// cores. A start that hangs still ends before the test's own timeout hides the cause.
	startTimeout = 90 * time.Second

	defaultStopDelay = time.Second

	loopback = "127.0.0.1"
	// tokenCacheTTL is how long the API server caches answers of the authenticator. It caches accepted tokens for 10 s in any
	// case. With this value a test that takes a role away waits no longer than that.
	tokenCacheTTL = 2 * time.Second
)

// Options configures a lab. The zero value is a lab without IAM.
type Options struct {
	ClusterName string // the cluster that tokens must name; default "lab"

	STSProxy  string // URL of an HTTP CONNECT proxy that answers for sts.<region>.amazonaws.com; empty: no IAM authenticator
	STSCAFile string // PEM file of the CA that signed the proxy's certificate
	Region    string // AWS region of the authenticator; default us-east-1
	Roles     []Role // IAM roles that the authenticator maps

	// Machines makes nodes run containers: AddNodes starts a machine for each, with its own kubelet, containerd and kube-proxy.
	// It needs Linux and root; see MissingForMachines.
	Machines bool
	Images   []string          // archives of the images that pods on machines may use (test/parts/images); nothing is ever pulled
	Programs map[string]string // Go programs to make into images, localhost/<name>:lab: package by name
	Storage  bool              // machines can mount volumes of a storage driver (test/parts/csi), and external-attacher runs

	StopDelay time.Duration // how long a pod of a simulated node takes to stop; default 1s
	LogDir    string        // folder that keeps the logs of the components and the audit log; empty: the logs are removed with the lab
}

// Role maps an IAM role to a Kubernetes user, as aws-iam-authenticator's mapRoles does.
type Role struct {
	ARN      string
	Username string // may contain {{SessionName}}, {{AccountID}} and similar placeholders
	Groups   []string
}

// Lab is a running control plane.
type Lab struct {
	options   Options
	reaper    *reaper
	logDir    string
	ports     componentPorts
	network   *network // of the machines
	dns       io.Closer
	unwatch   context.CancelFunc // ends repeatMissed; nil: it does not run
	pki       *pki
	probes    *http.Client // trusts the lab's own CA
	admin     *rest.Config
	client    kubernetes.Interface
	metadata  metadata.Interface
	mutex     sync.Mutex // guards processes, machines and stopStorage
	applying  sync.Mutex
	processes []*process
	machines  []*machine
	storage   *csi.Driver // nil: there is none
	// stopStorage ends what the storage driver serves.
	stopStorage []func()
	stop        func() error
}

// Start starts a lab and returns when all parts are ready and the first pod can be created. ctx bounds only the start: a lab runs
// until Stop, or until this process ends.
func Start(ctx context.Context, o Options) (l *Lab, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for range starts {
		if l, err = startOnce(ctx, o.withDefaults()); err == nil || !strings.Contains(err.Error(), portTaken) {
			break
		}
	}
	return l, err
}

const (
	// starts bounds how often a lab is started. A component listens seconds after its port was found free, and another process may be faster.
	starts = 3
	// portTaken is in the log of a component whose port was taken.
	portTaken = "address already in use"
)

func startOnce(ctx context.Context, o Options) (*Lab, error) {
	l, err := prepare(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("prepare the lab: %w", err)
	}
	if err := l.start(ctx); err != nil {
		return nil, fmt.Errorf("start the lab: %w", errors.Join(err, l.Stop())) // the next start may need the address of its DNS server
	}
	return l, nil
}

func (o Options) withDefaults() Options {
	if o.ClusterName == "" {
		o.ClusterName = "lab"
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.StopDelay == 0 {
		o.StopDelay = defaultStopDelay
	}
	return o
}

// prepare makes what the processes need: a folder that is removed in any case, certificates and ports.
func prepare(ctx context.Context, o Options) (*Lab, error) {
	reaper, err := startReaper(ctx)
	if err != nil {
		return nil, err
	}
	l := &Lab{options: o, reaper: reaper, logDir: reaper.dir}
	l.stop = sync.OnceValue(l.end)
	if err := l.prepareFiles(ctx); err != nil {
		return nil, errors.Join(err, reaper.end())
	}
	return l, nil
}

func (l *Lab) prepareFiles(ctx context.Context) (err error) {
	if l.options.LogDir != "" {
		l.logDir = l.options.LogDir
		if err := os.MkdirAll(l.logDir, 0o755); err != nil {
			return fmt.Errorf("make the folder for logs: %w", err)
		}
	}
	if l.ports, err = choosePorts(); err != nil {
		return err
	}
	if err := l.prepareMachines(ctx); err != nil {
		return fmt.Errorf("prepare for machines: %w", err)
	}
	if l.pki, err = newPKI(l.addresses()...); err != nil {
		return err
	}
	if err := l.writeCertificates(); err != nil {
		return err
	}
	return l.connect()
}

// connect makes the clients of the API server, before it runs.
func (l *Lab) connect() (err error) {
	l.probes = l.pki.httpClient()
	if l.admin, err = l.restConfig(adminUser); err != nil {
		return err
	}
	if l.client, err = kubernetes.NewForConfig(l.admin); err != nil {
		return fmt.Errorf("make the admin's client: %w", err)
	}
	if l.metadata, err = metadata.NewForConfig(l.admin); err != nil {
		return fmt.Errorf("make the admin's client of metadata: %w", err)
	}
	return nil
}

// start starts the components in the order of their dependencies.
func (l *Lab) start(ctx context.Context) error {
	if err := inParallel(ctx, l.startEtcd, l.startAuthenticator); err != nil {
		return err
	}
	if err := l.startAPIServer(ctx); err != nil {
		return err
	}
	if l.options.Machines {
		if err := l.serveDNS(); err != nil {
			return err
		}
	}
	if err := inParallel(ctx, l.startControllers, l.startScheduler, l.startKwok, l.startStorage); err != nil || l.options.Machines {
		return err
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	l.unwatch = end
	go l.repeatMissed(running)
	return nil
}

// Stop kills all processes of the lab and removes its folder. It may be called more than once. It fails if a component died
// before, with the end of that component's log.
func (l *Lab) Stop() error {
	return l.stop()
}

func (l *Lab) end() error {
	died := l.died() // before all of them are killed
	if l.unwatch != nil {
		l.unwatch()
	}
	if l.dns != nil {
		_ = l.dns.Close() // nobody asks any more
	}
	return errors.Join(died, l.reaper.end(), l.endStorage())
}

// Endpoint returns the API server's URL.
func (l *Lab) Endpoint() string {
	return fmt.Sprintf("https://%s:%d", l.host(), l.ports.apiServer)
}

// host returns the address of the API server only: one that the machines can reach, if there are any.
func (l *Lab) host() string {
	if l.network != nil {
		return l.network.host()
	}
	return loopback
}

// addresses returns the addresses of the API server: its own and, for pods, that of the Service "kubernetes", which is the first of
// the Services' addresses.
func (l *Lab) addresses() []string {
	if l.network != nil {
		return []string{l.network.host(), l.network.kubernetes()}
	}
	return []string{loopback}
}

// CA returns the certificate of the authority that signed the API server's certificate, as PEM.
func (l *Lab) CA() []byte {
	return l.pki.authority.certificatePEM
}

// Kubeconfig returns the path of a cluster admin's kubeconfig file.
func (l *Lab) Kubeconfig() string {
	return l.kubeconfig(adminUser)
}

// Admin returns the configuration of a cluster admin's client, without client-side throttling. The caller may change it.
func (l *Lab) Admin() *rest.Config {
	return rest.CopyConfig(l.admin)
}

// Client returns a cluster admin's client.
func (l *Lab) Client() kubernetes.Interface {
	return l.client
}

// Path returns the path of a file in the lab's folder, which is removed with the lab.
func (l *Lab) Path(name string) string {
	return filepath.Join(l.reaper.dir, name)
}

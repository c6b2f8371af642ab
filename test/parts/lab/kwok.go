package lab

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"text/template"
	"time"
)

// Annotations of a pod that tell kwok how to simulate it. Durations are seconds or milliseconds, such as 3s, 0.5s or 250ms;
// ReadyAfter and CompleteAfter accept all Go durations.
const (
	StopAfter     = "lab/stop-after"     // time to stop, instead of Options.StopDelay; limited by the grace period
	ReadyAfter    = "lab/ready-after"    // time from binding to Ready; default 0
	CompleteAfter = "lab/complete-after" // time until a pod of a Job succeeds; default 0
	// TerminationMessage is what the pod's containers write to their termination log when they are told to stop. A kubelet reports it
	// in the pod's status before the pod is gone.
	TerminationMessage = "lab/termination-message"
	PodIP              = "lab/pod-ip" // address of the pod, where a real server may listen; default a made-up one
)

// kubeletAnnotation on a node whose kubelet was stopped, and on its pods, makes kwok ignore them.
const kubeletAnnotation = "lab/kubelet"

const (
	// nodeLease is the duration of a node's Lease. kwok renews it after a quarter of that. It is long, because renewals for 3,000
	// nodes would otherwise use the CPU that is to be measured.
	nodeLease = 10 * time.Minute
	// nodeGrace is the time without a heartbeat after which the node controller sets a node's state to Unknown. StopKubelet does
	// so at once.
	nodeGrace = nodeLease + 5*time.Minute
)

//go:embed config/kwok.yaml
var kwokYAML string

var kwokTemplate = template.Must(template.New("kwok").Delims("[[", "]]").Parse(kwokYAML))

func (l *Lab) startKwok(ctx context.Context) error {
	if err := l.writeKwokConfig(); err != nil {
		return fmt.Errorf("write kwok's configuration: %w", err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", l.ports.kwok)
	args := []string{
		"--kubeconfig=" + l.kubeconfig(kwokUser),
		"--config=" + l.Path("kwok.yaml"),
		"--server-address=" + address,
		"--v=WARN",
	}
	return l.run(ctx, "kwok", args, nil, l.answers("http://"+address+"/healthz"))
}

func (l *Lab) writeKwokConfig() error {
	var config bytes.Buffer
	err := kwokTemplate.Execute(&config, map[string]any{
		"NodeLeaseSeconds":        int(nodeLease.Seconds()),
		"StopDelay":               l.options.StopDelay,
		"StopAfterAnnotation":     StopAfter,
		"ReadyAfterAnnotation":    ReadyAfter,
		"CompleteAfterAnnotation": CompleteAfter,
		"MessageAnnotation":       TerminationMessage,
		"PodIPAnnotation":         PodIP,
		"KubeletAnnotation":       kubeletAnnotation,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(l.Path("kwok.yaml"), config.Bytes(), 0o600)
}

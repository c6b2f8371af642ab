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

// Annotations of a pod say how kwok plays it. Durations are seconds or milliseconds, such as 3s, 0.5s or 250ms;
// ReadyAfter and CompleteAfter take every Go duration.
const (
	StopAfter     = "lab/stop-after"     // it takes this long to stop, not Options.StopDelay; its grace still bounds it
	ReadyAfter    = "lab/ready-after"    // it becomes Ready this long after it was bound; default at once
	CompleteAfter = "lab/complete-after" // as a pod of a Job it succeeds after this time; default at once
	PodIP         = "lab/pod-ip"         // its address, where something real may listen; default a made-up one
)

// kubeletAnnotation is set on a node whose kubelet was stopped, and on its pods, to keep kwok's hands off them.
const kubeletAnnotation = "lab/kubelet"

const (
	// nodeLease is how long a node's heartbeat is good for. kwok renews it after a quarter of that: long, because the
	// renewals of 3,000 nodes would otherwise take the CPU that is to be measured.
	nodeLease = 10 * time.Minute
	// nodeGrace is after which time without a heartbeat the node controller calls a node's state Unknown. See
	// StopKubelet for how to have that at once.
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
		"PodIPAnnotation":         PodIP,
		"KubeletAnnotation":       kubeletAnnotation,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(l.Path("kwok.yaml"), config.Bytes(), 0o600)
}

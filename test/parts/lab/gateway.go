package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"quiesce/test/parts/tools"
)

// gateway is the number of the host's gateway to the Services: a network namespace with only a kube-proxy. The host's own packet
// filter stays unchanged, and Services stay reachable whichever machine dies.
const gateway = maxMachines + 1

// gatewayScript becomes kube-proxy ($1, with the configuration $2) once the host has connected it.
const gatewayScript = `
echo 1 >/proc/sys/net/ipv4/ip_forward
until ip route show default | grep -q .; do sleep 0.05; done
exec "$1" --config "$2"`

// startGateway runs the gateway's kube-proxy as that of the first machine's node. Without a node kube-proxy waits for half a
// minute; it can lose the node later.
func (l *Lab) startGateway(ctx context.Context, node Node) error {
	proxy, err := tools.Path("kube-proxy")
	if err != nil {
		return err
	}
	m := &machine{node: node, number: gateway, dir: l.Path("gateway")}
	if err := l.writeGatewayFiles(m); err != nil {
		return fmt.Errorf("write the gateway's files: %w", err)
	}
	m.process, err = l.spawn("gateway", l.program(context.Background(), "unshare", "--net", "sh", "-c", gatewayScript, "gateway",
		proxy, m.path("kube-proxy.yaml")))
	if err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	if err := l.await(ctx, m.process, isolated(m.process.pid)); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	if err := l.network.connect(ctx, gateway, m.process.pid); err != nil {
		return fmt.Errorf("connect the gateway: %w", err)
	}
	return nil
}

func (l *Lab) writeGatewayFiles(m *machine) error {
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return err
	}
	if err := l.writeKubeconfigTo(m.path("kube-proxy.kubeconfig"), user{Name: kubeProxyUser}); err != nil {
		return err
	}
	var config bytes.Buffer
	if err := machineTemplates.ExecuteTemplate(&config, "kube-proxy.yaml", l.settings(m)); err != nil {
		return err
	}
	return os.WriteFile(m.path("kube-proxy.yaml"), config.Bytes(), 0o600)
}

package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// clusterDomain is the usual domain of a cluster.
	clusterDomain = "cluster.local"
	// dnsTimeout bounds one answer: a resolver asks again after five seconds.
	dnsTimeout = 3 * time.Second
	// dnsTTL is how long, in seconds, a client may keep an answer.
	dnsTTL = 5
	// dnsPacket is the largest packet over UDP (RFC 1035, section 2.3.4).
	dnsPacket = 512
)

// serveDNS answers the pods' questions for Services with the Services' addresses, and knows no other names
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md). It ends with this process.
func (l *Lab) serveDNS() error {
	socket, err := net.ListenPacket("udp4", net.JoinHostPort(l.host(), "53"))
	if err != nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	l.dns = socket
	go func() {
		packet := make([]byte, dnsPacket)
		for {
			n, client, err := socket.ReadFrom(packet)
			if err != nil {
				return // it is closed
			}
			question := append([]byte(nil), packet[:n]...)
			go func() {
				if answer, err := l.answerDNS(question); err == nil {
					_, _ = socket.WriteTo(answer, client) // a client whose answer is lost asks again
				}
			}()
		}
	}()
	return nil
}

func (l *Lab) answerDNS(packet []byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(packet); err != nil {
		return nil, err
	}
	message.Response, message.Authoritative, message.Additionals = true, true, nil
	for _, q := range message.Questions {
		addresses, err := l.resolve(q.Name.String())
		switch {
		case err != nil:
			message.RCode = dnsmessage.RCodeServerFailure
		case len(addresses) == 0:
			message.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			for _, address := range addresses {
				message.Answers = append(message.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: dnsTTL},
					Body:   &dnsmessage.AResource{A: [4]byte(address)},
				})
			}
		}
	}
	return message.Pack()
}

// resolve returns the address of the Service with this name, or those of the pods of a headless one; none if there is no such Service.
func (l *Lab) resolve(name string) (addresses []net.IP, err error) {
	service, is := strings.CutSuffix(strings.TrimSuffix(name, "."), ".svc."+clusterDomain)
	parts := strings.Split(service, ".")
	if !is || len(parts) != 2 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dnsTimeout)
	defer cancel()
	found, err := l.client.CoreV1().Services(parts[1]).Get(ctx, parts[0], metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case found.Spec.ClusterIP == corev1.ClusterIPNone:
		return l.resolvePods(ctx, parts[1], parts[0])
	}
	return []net.IP{net.ParseIP(found.Spec.ClusterIP).To4()}, nil
}

// resolvePods returns the addresses of the pods of a headless Service that are ready, or that it publishes in any state.
func (l *Lab) resolvePods(ctx context.Context, namespace, service string) (addresses []net.IP, err error) {
	slices, err := l.client.DiscoveryV1().EndpointSlices(namespace).List(ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				addresses = append(addresses, net.ParseIP(endpoint.Addresses[0]).To4())
			}
		}
	}
	return addresses, nil
}

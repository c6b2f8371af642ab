package install

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"quiesce/internal/config"
)

// Options say what is installed beside the permissions that every cluster needs.
type Options struct {
	Consoles      []Console
	Patroni       []Cluster
	CloudNativePG []Cluster
}

// check refuses a cluster that is named twice. Its permissions have one name, and only those of the first would be installed.
func (o Options) check() error {
	seen := map[string]bool{}
	for _, c := range slices.Concat(o.Patroni, o.CloudNativePG) {
		identity := c.Namespace + "/" + c.Name
		if seen[identity] {
			return fmt.Errorf("cluster %s is named twice: name it once, with all its pods", identity)
		}
		seen[identity] = true
	}
	return nil
}

// Console is the access to consoles of poolers in one namespace.
type Console struct {
	Namespace string
	Secrets   []string // whose logins may be read
	Forward   bool     // connections may go through the API server
}

// Cluster is a cluster of PostgreSQL whose primary may be moved.
type Cluster struct {
	Namespace, Name string
	Members         []string // its pods
}

// ParseCluster reads namespace/name=member,member.
func ParseCluster(text string) (Cluster, error) {
	identity, members, _ := strings.Cut(text, "=")
	namespace, name, _ := strings.Cut(identity, "/")
	c := Cluster{Namespace: namespace, Name: name}
	if members != "" {
		c.Members = strings.Split(members, ",")
	}
	if err := c.check(); err != nil {
		return Cluster{}, fmt.Errorf("cluster %q: %w; write namespace/name=pod,pod, such as db/orders=orders-0,orders-1", text, err)
	}
	return c, nil
}

func (c Cluster) check() error {
	if len(c.Members) == 0 {
		return errors.New("it has no members")
	}
	for what, name := range map[string]string{"namespace": c.Namespace, "name": c.Name} {
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			return fmt.Errorf("the %s %q is not a valid name: %s", what, name, problems[0])
		}
	}
	for _, name := range c.Members {
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			return fmt.Errorf("the member %q is not a valid name: %s", name, problems[0])
		}
	}
	return nil
}

// Consoles returns the access to consoles that a configuration needs. A console without a login is never reached, and needs none. A login in a
// Secret serves the Secret's namespace. Poolers in namespaces that the file does not name by their whole names are in more; those cannot be known
// from the file. The namespaces of databases get no access but to the Secret of Patroni's HTTP interface: their poolers are elsewhere, or named.
func Consoles(c config.Config, more []string) ([]Console, error) {
	var consoles []Console
	at := func(namespace string) *Console {
		i := slices.IndexFunc(consoles, func(c Console) bool { return c.Namespace == namespace })
		if i < 0 {
			i, consoles = len(consoles), append(consoles, Console{Namespace: namespace})
		}
		return &consoles[i]
	}
	mayRead := func(secret *config.SecretRef) {
		if secret == nil {
			return
		}
		if own := at(secret.Namespace); !slices.Contains(own.Secrets, secret.Name) {
			own.Secrets = append(own.Secrets, secret.Name)
		}
	}
	for _, phase := range c.Phases {
		if phase.Postgres != nil {
			mayRead(phase.Postgres.RESTSecret)
		}
		console := phase.EscortConsole()
		if console == nil || !console.HasLogin() {
			continue
		}
		mayRead(console.Secret)
		if console.ConnectVia != config.ViaPortForward {
			continue
		}
		namespaces := slices.Clone(more)
		if console.Secret != nil {
			namespaces = append(namespaces, console.Secret.Namespace)
		}
		for _, poolers := range c.Phases { // of a phase for databases, the login in a Secret goes nowhere else
			if poolers.PGBouncer != nil && (poolers.Name == phase.Name || phase.Postgres != nil && console.Secret == nil) {
				namespaces = append(namespaces, poolers.Match.Namespaces.Exact()...)
			}
		}
		if len(namespaces) == 0 {
			return nil, fmt.Errorf("phase %s names no namespace of its poolers: name them with --pooler-namespace, or in match.namespaces of the phase with the escort pgbouncer", phase.Name)
		}
		for _, namespace := range namespaces {
			at(namespace).Forward = true
		}
	}
	for _, c := range consoles {
		if problems := validation.IsDNS1123Label(c.Namespace); len(problems) > 0 {
			return nil, fmt.Errorf("namespace %q is not a valid name: %s", c.Namespace, problems[0])
		}
	}
	return consoles, nil
}

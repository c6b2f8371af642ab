package main

import (
	"context"
	"slices"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/config"
	"quiesce/internal/doctor"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
	"quiesce/internal/postgres"
)

// dependentParts are the parts that depend on nodes and pods. Groups, nodes and quiesce itself concern no namespace alone.
func (r *reader) dependentParts(cluster string) []part {
	parts := []part{{"configmaps", r.readConfigMaps}, {"databases", r.readDatabases}}
	if r.namespace != "" {
		return parts
	}
	return append(parts, []part{
		{"permissions of quiesce", r.readPermissions},
		{"admission policies", r.readPolicies},
		{"leases", r.readLeases},
		{"AWS", func(ctx context.Context) error { return r.readAWS(ctx, cluster) }},
	}...)
}

// readPermissions asks what the group quiesce may do. It is asked only if quiesce is installed.
func (r *reader) readPermissions(ctx context.Context) error {
	_, err := r.client.CoreV1().Namespaces().Get(ctx, doctor.Group, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.snapshot.Install.Namespace = true
	wanted, namespaces := doctor.Permissions(), r.escortNamespaces()
	missing, errs := make([]bool, len(wanted)), make([]error, len(wanted))
	var asking sync.WaitGroup
	for i, p := range wanted {
		asking.Go(func() { missing[i], errs[i] = r.lacksIn(ctx, p, namespaces) })
	}
	asking.Wait()
	for i, p := range wanted {
		if errs[i] != nil {
			return errs[i]
		}
		if missing[i] {
			r.snapshot.Install.Missing = append(r.snapshot.Install.Missing, p)
		}
	}
	return nil
}

// escortNamespaces returns the namespaces with poolers that a drain escorts, as quiesce.yaml says. Without the file they are those with poolers.
func (r *reader) escortNamespaces() []string {
	if !r.snapshot.Configured {
		return r.poolerNamespaces()
	}
	var matches []func(drain.Pod) bool
	for _, phase := range r.snapshot.Config.Phases {
		if phase.PGBouncer != nil {
			matches = append(matches, pooler.Match(phase))
		}
	}
	return r.namespacesOf(func(p drain.Pod) bool {
		return slices.ContainsFunc(matches, func(match func(drain.Pod) bool) bool { return match(p) })
	})
}

// lacksIn reports whether the group lacks the permission: in the cluster and, if it is for poolers, in one of their namespaces. Where there is no
// pooler, nothing needs it.
func (r *reader) lacksIn(ctx context.Context, p doctor.Permission, namespaces []string) (lacks bool, err error) {
	if lacks, err = r.lacks(ctx, p); err != nil || !lacks || !p.ForPoolers() {
		return lacks, err
	}
	for _, namespace := range namespaces {
		p.Namespace = namespace
		if lacks, err = r.lacks(ctx, p); err != nil || lacks {
			return lacks, err
		}
	}
	return false, nil
}

func (r *reader) lacks(ctx context.Context, p doctor.Permission) (bool, error) {
	review, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "quiescectl-doctor", Groups: []string{doctor.Group},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: p.Verb, Group: p.Group, Resource: p.Resource, Subresource: p.Subresource, Namespace: p.Namespace,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return !review.Status.Allowed, nil
}

// readPolicies finds which admission policies are missing.
func (r *reader) readPolicies(ctx context.Context) error {
	list, err := r.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) { // before Kubernetes 1.30
		r.snapshot.Install.Policies = doctor.Policies()
		return nil
	}
	if err != nil {
		return err
	}
	missing := doctor.Policies()
	for _, binding := range list.Items {
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == binding.Spec.PolicyName })
	}
	r.snapshot.Install.Policies = missing
	return nil
}

func (r *reader) readLeases(ctx context.Context) (err error) {
	if r.snapshot.Install.Leases, err = r.kube.Leases(ctx); err == nil {
		r.snapshot.Install.Unfinished, err = r.kube.Unfinished(ctx)
	}
	return err
}

// readDatabases looks at each database cluster whose members are recognized. One that cannot be looked at is named.
func (r *reader) readDatabases(ctx context.Context) error {
	settings := databaseSettings(r.snapshot.Config)
	found := map[string]postgres.Identity{}
	for i := range r.snapshot.Pods {
		if identity, is := settings.Recognize(kube.ToEscortPod(&r.snapshot.Pods[i]).Pod); is {
			found[identity.String()] = identity
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	all := make([]doctor.Database, len(names))
	var looking sync.WaitGroup
	for n, name := range names {
		looking.Go(func() {
			all[n].Identity = found[name]
			facts, err := postgres.Observe(ctx, &postgres.Observer{Settings: settings, Cluster: r.kube}, found[name])
			if err != nil {
				all[n].Failure = escort.Printable(err.Error())
				return
			}
			all[n].Facts = facts
		})
	}
	looking.Wait()
	r.snapshot.Databases = all
	return nil
}

// defaultScope is the label with which Patroni names a cluster (https://patroni.readthedocs.io/en/latest/kubernetes.html).
const defaultScope = "cluster-name"

func databaseSettings(c config.Config) postgres.Settings {
	for _, phase := range c.Phases {
		if phase.Postgres != nil {
			return postgres.Settings{Postgres: *phase.Postgres, PhaseTimeout: phase.Timeout}
		}
	}
	return postgres.Settings{Postgres: config.Postgres{Strategy: config.StrategySwitchover, ScopeLabel: defaultScope}}
}

package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
)

// requestTimeout bounds one request to the API server.
const requestTimeout = 15 * time.Second

// SecretKey is a key of a Secret.
type SecretKey struct{ Namespace, Name, Key string }

func (s SecretKey) String() string { return "Secret " + s.Namespace + "/" + s.Name }

// SecretLists are the Userlists in Secrets. The first one has the record.
type SecretLists struct {
	Client   kubernetes.Interface
	Lists    []SecretKey
	Logins   [2]string
	Selector labels.Selector // of the poolers; nil: those that mount a list, or look like poolers

	records []string // what was last read or written, and what later writes without an answer may have written
}

var _ Userlists = (*SecretLists)(nil)

// change changes a Secret, again if another did so meanwhile.
func change(ctx context.Context, client kubernetes.Interface, namespace, name string, do func(*corev1.Secret) error) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		secret, err := client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := do(secret); err != nil {
			return err
		}
		_, err = client.CoreV1().Secrets(namespace).Update(ctx, secret, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("change secret %s/%s: %w", namespace, name, err)
	}
	return nil
}

func get(ctx context.Context, client kubernetes.Interface, namespace, name string) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	secret, err := client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get secret %s/%s: %w", namespace, name, err)
	}
	return secret, nil
}

// Record implements Userlists.
func (s *SecretLists) Record(ctx context.Context) (Record, error) {
	secret, err := get(ctx, s.Client, s.Lists[0].Namespace, s.Lists[0].Name)
	if err != nil {
		return Record{}, err
	}
	text := secret.Annotations[Annotation]
	s.records = []string{text}
	r, err := ParseRecord(text, s.Logins, time.Now())
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", s.Lists[0], err)
	}
	return r, nil
}

// SetRecord implements Userlists. A write whose answer was lost is repeated, or replaced by a later one. Its record may be there by then.
func (s *SecretLists) SetRecord(ctx context.Context, r Record) error {
	text := r.Text()
	s.records = append(s.records, text)
	err := change(ctx, s.Client, s.Lists[0].Namespace, s.Lists[0].Name, func(secret *corev1.Secret) error {
		if !slices.Contains(s.records, secret.Annotations[Annotation]) {
			return errAnotherRun
		}
		if secret.Annotations == nil {
			secret.Annotations = map[string]string{}
		}
		secret.Annotations[Annotation] = text
		return nil
	})
	if err == nil {
		s.records = []string{text}
	}
	return err
}

// Check implements Userlists.
func (s *SecretLists) Check(ctx context.Context, listed, other string) error {
	for _, l := range s.Lists {
		secret, err := get(ctx, s.Client, l.Namespace, l.Name)
		if err != nil {
			return err
		}
		if why := keptByOther(secret); why != "" {
			return fmt.Errorf("%s is refused: %s", l, why)
		}
		err = checkLines(string(secret.Data[l.Key]), listed, other)
		switch {
		case errors.Is(err, errUnlisted):
			return fmt.Errorf("%s, key %s: %w (%s): %s", l, l.Key, err, listed, unlistedAdvice)
		case err != nil:
			return fmt.Errorf("%s, key %s, user %s or %s: %w", l, l.Key, listed, other, err)
		}
	}
	pods, err := s.Pods(ctx)
	if err == nil && len(pods) == 0 {
		err = fmt.Errorf("no pod mounts %s as a folder: name the one that the poolers mount with --userlist", s.Lists[0])
	}
	return err
}

// unlistedAdvice is what to do about a userlist that lacks the login.
const unlistedAdvice = "name the Secret and the key that have it. Poolers that ask PostgreSQL for passwords (auth_query) are refused, because there is no " +
	"line to change: enable the other role with ALTER ROLE, move the clients, and close this role yourself"

// checkLines returns why the userlist cannot be of these logins. The other one may have no line.
func checkLines(list, listed, other string) error {
	if _, err := lineOf(list, listed); err != nil {
		return err
	}
	if _, err := lineOf(list, other); !errors.Is(err, errUnlisted) {
		return err
	}
	return nil
}

// keptByOther returns why a change of the Secret would not last, or is not possible.
func keptByOther(secret *corev1.Secret) string {
	if secret.Immutable != nil && *secret.Immutable {
		return "it is marked immutable, so pods see no change: replace it by one that is not"
	}
	if owner := metav1.GetControllerOf(secret); owner != nil {
		return fmt.Sprintf("%s %s owns it and would write its own content again: rotate there%s",
			escort.Printable(owner.Kind), escort.Printable(owner.Name), operatorsWay(owner.Kind))
	}
	for label, kind := range map[string]string{escort.CloudNativePGCluster: "Cluster", escort.CrunchyCluster: "PostgresCluster"} {
		if secret.Labels[label] != "" {
			return kind + " " + escort.Printable(secret.Labels[label]) + " keeps it: rotate there" + operatorsWay(kind)
		}
	}
	if strings.HasSuffix(secret.Name, ".credentials.postgresql.acid.zalan.do") {
		return "Zalando's operator keeps it: rotate there" + operatorsWay("postgresql")
	}
	return ""
}

func operatorsWay(kind string) string {
	switch kind {
	case "Cluster":
		return " (CloudNativePG: managed.roles[].passwordSecret, or the Secret of bootstrap.initdb.secret)"
	case "postgresql":
		return " (Zalando: usersWithSecretRotation in the postgresql resource)"
	case "PostgresCluster":
		return " (Crunchy: remove the password from the user's Secret, and it makes a new one)"
	default:
		return ""
	}
}

// SetPassword implements Userlists. Nothing changes if another run has changed the record, which is in the same Secret as the first list.
func (s *SecretLists) SetPassword(ctx context.Context, user, like, password, verifier string) error {
	for i, l := range s.Lists {
		err := change(ctx, s.Client, l.Namespace, l.Name, func(secret *corev1.Secret) error {
			if i == 0 && !slices.Contains(s.records, secret.Annotations[Annotation]) {
				return errAnotherRun
			}
			list, err := withPassword(string(secret.Data[l.Key]), s.Logins, user, like, password, verifier)
			if err == nil {
				secret.Data[l.Key] = []byte(list)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Pods returns the poolers of all lists. A pooler that would not see its list change is an error.
func (s *SecretLists) Pods(ctx context.Context) (found []Pod, err error) {
	namespaces := map[string][]SecretKey{}
	for _, l := range s.Lists {
		namespaces[l.Namespace] = append(namespaces[l.Namespace], l)
	}
	for namespace, lists := range namespaces {
		pods, err := s.podsIn(ctx, namespace)
		if err != nil {
			return nil, err
		}
		for i := range pods {
			p, err := s.poolerOf(&pods[i], lists)
			if err != nil {
				return nil, err
			}
			if p != nil {
				found = append(found, *p)
			}
		}
	}
	slices.SortFunc(found, func(a, b Pod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return found, nil
}

// podPage bounds how many pods one request lists.
const podPage = 500

func (s *SecretLists) podsIn(ctx context.Context, namespace string) (all []corev1.Pod, err error) {
	options := metav1.ListOptions{Limit: podPage}
	if s.Selector != nil {
		options.LabelSelector = s.Selector.String()
	}
	for {
		page, err := func() (*corev1.PodList, error) {
			ctx, cancel := context.WithTimeout(ctx, requestTimeout)
			defer cancel()
			return s.Client.CoreV1().Pods(namespace).List(ctx, options)
		}()
		if err != nil {
			return nil, fmt.Errorf("list pods of namespace %s: %w", namespace, err)
		}
		all = append(all, page.Items...)
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// poolerOf returns the pod if it is a pooler; nil: it is none, or has finished.
func (s *SecretLists) poolerOf(p *corev1.Pod, lists []SecretKey) (*Pod, error) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	for _, l := range lists {
		file, why := fileOf(p, l.Name, l.Key)
		if why != "" {
			return nil, fmt.Errorf("pod %s/%s is refused: %s", p.Namespace, p.Name, why)
		}
		if file != "" {
			return &Pod{Pod: *kube.ToEscortPod(p), Running: p.Status.Phase == corev1.PodRunning, File: file}, nil
		}
	}
	if s.Selector != nil || pooler.Recognize(p.Labels, p.Annotations) {
		return nil, fmt.Errorf("pod %s/%s is a pooler and mounts no --userlist: name its Secret too, or choose the poolers with --poolers SELECTOR",
			p.Namespace, p.Name)
	}
	return nil, nil
}

// SecretApp is the App in a Secret.
type SecretApp struct {
	Client                                kubernetes.Interface
	Namespace, Name, UserKey, PasswordKey string
}

var _ App = (*SecretApp)(nil)

// previousSuffix is of the keys that keep the login before, for --back.
const previousSuffix = ".previous"

// Login implements App.
func (a *SecretApp) Login(ctx context.Context) (current, previous escort.Login, err error) {
	secret, err := get(ctx, a.Client, a.Namespace, a.Name)
	if err != nil {
		return current, previous, err
	}
	if why := keptByOther(secret); why != "" {
		return current, previous, fmt.Errorf("secret %s/%s is refused: %s", a.Namespace, a.Name, why)
	}
	previous = escort.Login{User: string(secret.Data[a.UserKey+previousSuffix]), Password: string(secret.Data[a.PasswordKey+previousSuffix])}
	current, err = a.loginIn(secret)
	return current, previous, err
}

// Move implements App. A write that is repeated, because its answer was lost, must not take the new login for the one before.
func (a *SecretApp) Move(ctx context.Context, from, to escort.Login) error {
	return change(ctx, a.Client, a.Namespace, a.Name, func(secret *corev1.Secret) error {
		switch current, err := a.loginIn(secret); {
		case err != nil:
			return err
		case current == to:
			return nil
		case current != from:
			return errors.New("its login has changed meanwhile: see that nothing else writes it, and run the same command again")
		}
		secret.Data[a.UserKey+previousSuffix], secret.Data[a.PasswordKey+previousSuffix] = secret.Data[a.UserKey], secret.Data[a.PasswordKey]
		secret.Data[a.UserKey], secret.Data[a.PasswordKey] = []byte(to.User), []byte(to.Password)
		return nil
	})
}

// Settle implements App.
func (a *SecretApp) Settle(ctx context.Context) error {
	return change(ctx, a.Client, a.Namespace, a.Name, func(secret *corev1.Secret) error {
		delete(secret.Data, a.UserKey+previousSuffix)
		delete(secret.Data, a.PasswordKey+previousSuffix)
		return nil
	})
}

// Current returns the login that the Secret has, whoever keeps the Secret.
func (a *SecretApp) Current(ctx context.Context) (escort.Login, error) {
	secret, err := get(ctx, a.Client, a.Namespace, a.Name)
	if err != nil {
		return escort.Login{}, err
	}
	return a.loginIn(secret)
}

func (a *SecretApp) loginIn(secret *corev1.Secret) (escort.Login, error) {
	login := escort.Login{User: string(secret.Data[a.UserKey]), Password: string(secret.Data[a.PasswordKey])}
	if login.User == "" || login.Password == "" {
		return login, fmt.Errorf("secret %s/%s has no keys %s and %s", a.Namespace, a.Name, a.UserKey, a.PasswordKey)
	}
	return login, nil
}

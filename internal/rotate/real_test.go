package rotate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/internal/scram"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

// TestMain stops the PostgreSQL that the tests share.
func TestMain(m *testing.M) { os.Exit(parts.Run(m)) }

const (
	group     = "app_group"
	workers   = 20
	realQuiet = 2 * time.Second
	realLag   = time.Second // of the kubelets
	realWait  = time.Minute
	namespace = "db"
	listName  = "pgbouncer-userlist"
	appName   = "app-login"
)

// real is a PostgreSQL with two poolers, one of each generation, and Secrets that come to them late.
type real struct {
	*testing.T
	database *postgres.Database
	poolers  map[string]*parts.Pooler // by pod
	client   *fake.Clientset
	failures atomic.Int64
	commits  atomic.Int64
}

func newReal(t *testing.T, hashed bool, admins ...string) *real {
	parts.Require(t)
	r := &real{T: t, database: postgres.Shared(t), poolers: map[string]*parts.Pooler{}}
	verifier, err := scram.New(firstWord, scram.Iterations)
	require.NoError(t, err)
	for _, sql := range []string{
		"DROP ROLE IF EXISTS " + blue, "DROP ROLE IF EXISTS " + green, "DROP ROLE IF EXISTS " + group, "CREATE ROLE " + group + " NOLOGIN",
		"CREATE ROLE " + blue + " LOGIN PASSWORD '" + verifier.Stored() + "' IN ROLE " + group, "CREATE ROLE " + green + " NOLOGIN IN ROLE " + group,
		"ALTER ROLE " + blue + " SET role TO " + group, "ALTER ROLE " + green + " SET role TO " + group,
	} {
		r.database.Query(t, sql)
	}
	stored := firstWord
	if hashed {
		stored = verifier.Stored()
	}
	pods := []*corev1.Pod{}
	list := ""
	for _, v := range []string{parts.Older, parts.Newer} {
		p := parts.Start(t, v, parts.Options{
			Settings: map[string]string{"admin_users": strings.Join(append(admins, parts.Admin.Name), ",")}, Users: []parts.User{{Name: blue, Password: stored}},
		})
		name := "pgbouncer-" + strings.ReplaceAll(v, ".", "-")
		r.poolers[name] = p
		var path string
		path, list = p.Userlist(t)
		pods = append(pods, poolerPod(name, path))
	}
	list = "; the list\n" + list
	r.client = fake.NewClientset(pods[0], pods[1],
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: listName}, Data: map[string][]byte{"userlist.txt": []byte(list)}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: appName}, Data: map[string][]byte{
			"username": []byte(blue), "password": []byte(firstWord),
		}},
	)
	r.startKubelets(list)
	return r
}

// poolerPod is a pod that has its userlist where the pooler of this test has it.
func poolerPod(name, path string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid", Labels: map[string]string{"app.kubernetes.io/name": "pgbouncer"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "pgbouncer", VolumeMounts: []corev1.VolumeMount{{Name: "list", MountPath: filepath.Dir(path)}}}},
			Volumes: []corev1.Volume{{Name: "list", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: listName, Items: []corev1.KeyToPath{{Key: "userlist.txt", Path: filepath.Base(path)}},
			}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// startKubelets bring a changed Secret to the pods, late.
func (r *real) startKubelets(first string) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	r.Cleanup(func() { cancel(); done.Wait() })
	done.Go(func() {
		for last := first; escort.Sleep(ctx, realLag) == nil; {
			secret, err := get(ctx, r.client, namespace, listName)
			if err != nil || string(secret.Data["userlist.txt"]) == last {
				continue
			}
			last = string(secret.Data["userlist.txt"])
			for _, p := range r.poolers {
				if err := p.ReplaceUserlist(last); err != nil {
					r.Error(err)
				}
			}
		}
	})
}

// Forward implements escort.Forwarder.
func (r *real) Forward(ctx context.Context, _, name string, _ int) (net.Conn, error) {
	return r.poolers[name].Dial(ctx)
}

// rotation is one with everything as quiescectl has it, but for what Forward does.
func (r *real) rotation(kill func() error) *Rotation {
	r.Helper()
	primary, err := Connection(fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", r.database.Addr), true)
	require.NoError(r, err)
	lists := &SecretLists{Client: r.client, Lists: []SecretKey{{namespace, listName, "userlist.txt"}}, Logins: [2]string{blue, green}}
	consoles := &Consoles{List: lists.Pods, Consoles: escort.Consoles{
		Forwarder: r, Logins: only(escort.Login{User: parts.Admin.Name, Password: parts.Admin.Password}), TLS: pgbouncer.TLSDisable,
		Port: func(escort.Pod) int { return 0 },
	}, Database: parts.App.Name}
	app := &SecretApp{Client: r.client, Namespace: namespace, Name: appName, UserKey: "username", PasswordKey: "password"}
	return &Rotation{
		Logins: [2]string{blue, green}, To: green, QuietFor: realQuiet, Tell: func(text string) { r.Log(text) },
		Database: dyingDatabase{&Postgres{Primary: primary, Group: group}, kill}, Poolers: dyingPoolers{consoles, kill},
		Userlists: dyingLists{lists, kill}, App: dyingApp{app, kill}, haste: 20,
	}
}

// startWorkers works as an application does: it reads its login now and then, and connects again.
func (r *real) startWorkers() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	names := []string{}
	for name := range maps.Keys(r.poolers) {
		names = append(names, name)
	}
	for i := range workers {
		done.Go(func() {
			for ctx.Err() == nil {
				r.work(ctx, r.poolers[names[i%len(names)]].Addr)
			}
		})
	}
	return func() { cancel(); done.Wait() }
}

// work runs transactions over one connection for a while. Whatever fails is counted.
func (r *real) work(ctx context.Context, addr string) {
	secret, err := get(ctx, r.client, namespace, appName)
	if err != nil {
		return
	}
	user := postgres.User{Name: string(secret.Data["username"]), Password: string(secret.Data["password"])}
	bounded, cancel := context.WithTimeout(context.Background(), realWait)
	defer cancel()
	conn, err := postgres.Connect(bounded, addr, user, parts.App.Name)
	if err == nil {
		defer conn.Close(bounded)
		for end := time.Now().Add(time.Second); err == nil && time.Now().Before(end) && ctx.Err() == nil; {
			if _, err = conn.Exec(bounded, "BEGIN; SELECT pg_sleep(0.01); COMMIT").ReadAll(); err == nil {
				r.commits.Add(1)
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	if err != nil {
		r.failures.Add(1)
		r.Errorf("a client failed as %s: %s", user.Name, err)
	}
}

func (r *real) requireRotated() {
	r.Helper()
	require.Zero(r, r.failures.Load())
	require.Positive(r, r.commits.Load())
	secret, err := get(r.Context(), r.client, namespace, appName)
	require.NoError(r, err)
	require.Equal(r, green, string(secret.Data["username"]))
	require.Len(r, secret.Data, 2)
	list, err := get(r.Context(), r.client, namespace, listName)
	require.NoError(r, err)
	require.Contains(r, list.Annotations[Annotation], string(Closed))
	require.True(r, strings.HasPrefix(string(list.Data["userlist.txt"]), "; the list\n"))
	for name, p := range r.poolers {
		_, err := postgres.Connect(r.Context(), p.Addr, postgres.User{Name: blue, Password: firstWord}, parts.App.Name)
		require.Error(r, err, name)
		conn, err := postgres.Connect(r.Context(), p.Addr, postgres.User{Name: green, Password: string(secret.Data["password"])}, parts.App.Name)
		require.NoError(r, err, name)
		require.NoError(r, conn.Close(r.Context()))
	}
	_, err = postgres.Connect(r.Context(), r.database.Addr, postgres.User{Name: blue, Password: firstWord}, "postgres")
	require.Error(r, err)
}

func TestRotation_TwentyWorkersTwoPoolers_NoFailure(t *testing.T) {
	r := newReal(t, false)
	stop := r.startWorkers()
	_, err := r.rotation(func() error { return nil }).Run(t.Context())
	stop()
	require.NoError(t, err)
	r.requireRotated()
}

// Each run is killed after its first effects; the next one goes on.
func TestRotation_TwentyWorkersKilledAtEachStep_NoFailure(t *testing.T) {
	r := newReal(t, true)
	stop := r.startWorkers()
	defer stop()
	// The first effect of a run that continues is its record. Until the clients have the new login, each run generates another password. From
	// the sixth run on, each begins where the last ended: the quiet time, its end, NOLOGIN, what follows it, no password, the userlist, the
	// application's Secret.
	deaths := []int{1, 3, 4, 5, 6, 2, 2, 2, 3, 2, 3, 4}
	const never = 1000
	for _, effects := range append(deaths, never) {
		_, err := r.rotation(func() error {
			if effects--; effects <= 0 {
				return errKilled
			}
			return nil
		}).Run(t.Context())
		if effects > 0 { // the last run
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, errKilled)
		}
	}
	stop()
	r.requireRotated()
}

// A list with passwords: what pgbouncer keeps of a login with a verifier must not be in the way of the next rotation.
func TestRotation_ForthAndBackAtOnce_Moves(t *testing.T) {
	r := newReal(t, false)
	_, err := r.rotation(func() error { return nil }).Run(t.Context())
	require.NoError(t, err)
	back := r.rotation(func() error { return nil })
	back.To = blue
	_, err = back.Run(t.Context())
	require.NoError(t, err)
}

// pgbouncer still shows a client that has gone while it waited for a server. If it was ours, nobody uses the login.
func TestConsoles_AttemptThatWaited_IsNoUse(t *testing.T) {
	r := newReal(t, true)
	consoles := r.rotation(nil).Poolers.(dyingPoolers).Consoles
	for name, p := range r.poolers {
		client, err := postgres.Connect(t.Context(), p.Addr, postgres.User{Name: blue, Password: firstWord}, parts.App.Name)
		require.NoError(t, err, name)
		defer client.Close(t.Context())
		_, err = client.Exec(t.Context(), "SELECT 1").ReadAll()
		require.NoError(t, err, name)
	}
	require.NoError(t, consoles.each(t.Context(), func(_ Pod, console *pgbouncer.Console) error {
		_, err := console.Pause(t.Context())
		return err
	}))
	refusing, err := consoles.Unread(t.Context(), escort.Login{User: blue, Password: firstWord})
	require.NoError(t, err)
	require.Empty(t, refusing, "each attempt has waited until its time was over")
	require.NoError(t, consoles.each(t.Context(), func(p Pod, console *pgbouncer.Console) error {
		shown, err := console.ClientsOf(t.Context(), blue)
		require.Len(t, shown, 2, "%s: the client, and the attempt", name(p))
		return err
	}))
	used, err := consoles.Sessions(t.Context(), blue)
	require.NoError(t, err)
	require.Len(t, used, 2)
	for _, text := range used {
		require.Contains(t, text, ": 1 clients")
	}
}

// quiesce's own logins: a console shows whether the userlist has been read.
func TestRotation_LoginsOfConsoles_OldOneIsRefused(t *testing.T) {
	r := newReal(t, true, blue, green)
	rotation := r.rotation(func() error { return nil })
	consoles := rotation.Poolers.(dyingPoolers).Consoles
	rotation.Database, consoles.Admin = nil, true
	_, err := rotation.Run(t.Context())
	require.NoError(t, err)
	current, _, err := rotation.App.Login(t.Context())
	require.NoError(t, err)
	require.Equal(t, green, current.User)
	pods, err := consoles.List(t.Context())
	require.NoError(t, err)
	require.Len(t, pods, 2)
	for _, p := range pods {
		as := consoles.Consoles
		as.Logins = only(current)
		console, err := as.Open(t.Context(), p.Pod)
		require.NoError(t, err)
		found, err := consoles.Sessions(t.Context(), green)
		require.NoError(t, err)
		require.Len(t, found, 1, "a console is a session")
		console.Close()
		as.Logins = only(escort.Login{User: blue, Password: firstWord})
		_, err = as.Open(t.Context(), p.Pod)
		require.ErrorIs(t, err, pgbouncer.ErrRefused)
	}
}

// A console that hangs says nothing of the userlist that it has read.
func TestConsoles_ConsoleHangs_HasNotReadTheList(t *testing.T) {
	r := newReal(t, true, blue)
	consoles := r.rotation(nil).Poolers.(dyingPoolers).Consoles
	consoles.Admin = true
	list := consoles.List
	consoles.List = func(ctx context.Context) ([]Pod, error) {
		pods, err := list(ctx)
		return pods[:1], err
	}
	unread, err := consoles.Unread(t.Context(), escort.Login{User: blue, Password: firstWord})
	require.NoError(t, err)
	require.Empty(t, unread)
	consoles.Consoles.Forwarder = &hangs{real: r}
	unread, err = consoles.Unread(t.Context(), escort.Login{User: blue, Password: firstWord})
	require.NoError(t, err)
	require.Len(t, unread, 1)
	require.Contains(t, unread[0], "deadline exceeded")
}

// hangs answers the first console, and no later one.
type hangs struct {
	*real
	opened bool
}

func (h *hangs) Forward(ctx context.Context, namespace, name string, port int) (net.Conn, error) {
	if !h.opened {
		h.opened = true
		return h.real.Forward(ctx, namespace, name, port)
	}
	here, there := net.Pipe()
	h.Cleanup(func() { _ = there.Close() })
	go func() { _, _ = io.Copy(io.Discard, there) }()
	return here, nil
}

// turns are held by a drain, or not.
type turns struct {
	held     bool
	taken    []string
	released int
}

func (t *turns) AcquireGroupLease(_ context.Context, name string) (release func() error, acquired bool, err error) {
	t.taken = append(t.taken, name)
	return func() error { t.released++; return nil }, !t.held, nil
}

// A drain may have set query_wait_timeout, and a RELOAD would undo that.
func TestConsoles_GroupIsBeingDrained_NoReload(t *testing.T) {
	r := newReal(t, true)
	consoles := r.rotation(nil).Poolers.(dyingPoolers).Consoles
	busy := &turns{held: true}
	consoles.Turns = busy
	login := escort.Login{User: green, Password: "not known yet"}
	refusing, err := consoles.Refusing(t.Context(), login)
	require.NoError(t, err)
	require.Len(t, refusing, 2)
	require.Contains(t, refusing[0], "is being drained")
	require.Equal(t, escort.GroupLease("pooler", namespace, "uid"), busy.taken[0])
	for _, p := range r.poolers {
		require.NotContains(t, p.Log(t), "RELOAD")
	}
	free := &turns{}
	consoles.Turns = free
	refusing, err = consoles.Refusing(t.Context(), login)
	require.NoError(t, err)
	require.Contains(t, refusing[0], "has no app_green yet")
	require.Equal(t, 2, free.released)
	for _, p := range r.poolers {
		require.Contains(t, p.Log(t), "RELOAD")
	}
}

// A pooler that reads another file would never accept the login.
func TestConsoles_AnotherAuthFile_Refused(t *testing.T) {
	r := newReal(t, true)
	consoles := r.rotation(nil).Poolers.(dyingPoolers).Consoles
	require.NoError(t, consoles.Check(t.Context()))
	list := consoles.List
	consoles.List = func(ctx context.Context) ([]Pod, error) {
		pods, err := list(ctx)
		pods[1].File = "/etc/other"
		return pods, err
	}
	require.ErrorContains(t, consoles.Check(t.Context()), "the Secret is mounted as /etc/other")
}

func TestConsoles_OneDatabaseKeepsConnectionsTooShort_Refused(t *testing.T) {
	for own, says := range map[string]string{"server_lifetime=300": "server_lifetime of database app is 300 seconds", "server_lifetime=301": ""} {
		p := parts.Start(t, parts.Newer, parts.Options{Own: own})
		console, err := pgbouncer.Open(t.Context(), pgbouncer.Target{
			Dial: p.Dial, User: parts.Admin.Name, Password: parts.Admin.Password, TLS: pgbouncer.TLSDisable,
		})
		require.NoError(t, err)
		err = keepsLongEnough(t.Context(), console)
		console.Close()
		if says == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, says)
		}
	}
}

// A pooler that soon ends the connection of a client that has gone hides that the login was used.
func TestConsoles_ConnectionsAreNotKept_Refused(t *testing.T) {
	r := newReal(t, true)
	consoles := r.rotation(nil).Poolers.(dyingPoolers).Consoles
	require.NoError(t, consoles.Check(t.Context()))
	for _, c := range []struct{ setting, value, says string }{
		{"server_idle_timeout", "30", "server_idle_timeout is 30 seconds"},
		{"server_idle_timeout", "300", "server_idle_timeout is 300 seconds"},
		{"server_idle_timeout", "301", ""},
		{"server_idle_timeout", "0", ""}, // for ever
		{"server_lifetime", "0", "server_lifetime is 0 seconds"},
		{"server_lifetime", "301", ""},
	} {
		for _, p := range r.poolers {
			console, err := postgres.Connect(t.Context(), p.Addr, postgres.User(parts.Admin), "pgbouncer")
			require.NoError(t, err)
			_, err = console.Exec(t.Context(), "SET "+c.setting+" = "+c.value).ReadAll()
			require.NoError(t, err)
			require.NoError(t, console.Close(t.Context()))
		}
		err := consoles.Check(t.Context())
		if c.says == "" {
			require.NoError(t, err, c)
		} else {
			require.ErrorContains(t, err, c.says)
		}
	}
}

func TestConsoles_PodLeaves_NoReasonToRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Pod)
		says   string
	}{
		"leaves": {func(p *Pod) { p.Deleted = time.Now().Add(-2 * leaveTime) }, ""},
		"stays":  {func(*Pod) {}, "pgbouncer-0: "},
	} {
		t.Run(name, func(t *testing.T) {
			consoles := &Consoles{
				Consoles: escort.Consoles{Forwarder: nowhere{}, Logins: only(escort.Login{}), TLS: pgbouncer.TLSDisable, Port: func(escort.Pod) int { return 0 }},
				List: func(context.Context) ([]Pod, error) {
					p := Pod{Running: true}
					p.Name = "pgbouncer-0"
					c.change(&p)
					return []Pod{p}, nil
				},
			}
			err := consoles.Check(t.Context())
			require.Equal(t, c.says == "", err == nil)
			if err != nil {
				require.ErrorContains(t, err, c.says)
				require.ErrorIs(t, err, pgbouncer.ErrUnreachable)
			}
			refusing, err := consoles.Refusing(t.Context(), escort.Login{User: green})
			require.NoError(t, err)
			require.Equal(t, c.says == "", len(refusing) == 0)
		})
	}
}

// Services still lead to a pod that has just been deleted.
func TestConsoles_PodHasJustBeenDeleted_MustAcceptTheLogin(t *testing.T) {
	var p Pod
	p.Deleted = time.Now()
	consoles := &Consoles{List: func(context.Context) ([]Pod, error) { return []Pod{p}, nil }}
	refusing, err := consoles.Refusing(t.Context(), escort.Login{User: green})
	require.NoError(t, err)
	require.Len(t, refusing, 1)
}

// nowhere is an API server that reaches no pod.
type nowhere struct{}

func (nowhere) Forward(context.Context, string, string, int) (net.Conn, error) {
	return nil, errors.New("connection refused")
}

// dyingDatabase dies after an effect.
type dyingDatabase struct {
	*Postgres
	kill func() error
}

func (d dyingDatabase) Enable(ctx context.Context, name, verifier string) error {
	return errors.Join(d.Postgres.Enable(ctx, name, verifier), d.kill())
}

func (d dyingDatabase) Forbid(ctx context.Context, name string) error {
	return errors.Join(d.Postgres.Forbid(ctx, name), d.kill())
}

// Allow undoes Forbid, unless the process is dead.
func (d dyingDatabase) Allow(ctx context.Context, name string) error {
	if err := d.kill(); err != nil {
		return err
	}
	return d.Postgres.Allow(ctx, name)
}

func (d dyingDatabase) Forget(ctx context.Context, name string) error {
	return errors.Join(d.Postgres.Forget(ctx, name), d.kill())
}

type dyingPoolers struct {
	*Consoles
	kill func() error
}

type dyingLists struct {
	*SecretLists
	kill func() error
}

func (d dyingLists) SetRecord(ctx context.Context, r Record) error {
	return errors.Join(d.SecretLists.SetRecord(ctx, r), d.kill())
}

func (d dyingLists) SetPassword(ctx context.Context, user, like, password, verifier string) error {
	return errors.Join(d.SecretLists.SetPassword(ctx, user, like, password, verifier), d.kill())
}

type dyingApp struct {
	*SecretApp
	kill func() error
}

func (d dyingApp) Move(ctx context.Context, from, to escort.Login) error {
	return errors.Join(d.SecretApp.Move(ctx, from, to), d.kill())
}

func (d dyingApp) Settle(ctx context.Context) error {
	return errors.Join(d.SecretApp.Settle(ctx), d.kill())
}

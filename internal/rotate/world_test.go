package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/internal/scram"
)

const (
	blue, green  = "app_blue", "app_green"
	firstWord    = "the password of old"
	connectEvery = 4 * time.Second
	kubeletDelay = 70 * time.Second // until a changed Secret is in a pod
	quietFor     = 15 * time.Minute
)

var errKilled = errors.New("killed")

// world is a database, two poolers, the Secrets and the clients of an application. It fails the test when a client cannot connect.
type world struct {
	*testing.T
	mutex sync.Mutex

	roles   map[string]*fakeRole
	poolers []*fakePooler
	list    string // the userlist in its Secret
	listed  []version
	record  Record
	app     []escort.Login // current, previous
	moved   []move
	clients []*client
	kept    map[string]bool // users whose connections the poolers keep

	lastUse  map[string]time.Time
	log      []string
	effects  int
	killAt   int  // the effect after which the process is dead; zero: none
	before   bool // it dies before it
	dead     bool
	blind    bool // nobody can look
	told     []string
	verified map[string]bool
}

type version struct {
	text string
	at   time.Time // when kubelets have it
}

type move struct {
	login escort.Login
	at    time.Time
}

type fakeRole struct {
	login    bool
	verifier string
	unfit    string
}

type fakePooler struct {
	name   string
	loaded string
	proofs map[string]string // of the last login with a verifier, by user: pgbouncer shows it to the server, whatever the line has become
}

// client is a process of the application: it reads its login some time after it changed, and connects all the time.
type client struct {
	delay time.Duration
	login escort.Login
	fixed bool // it never reads its login again
	away  bool // it is not running
}

func newWorld(t *testing.T, hashed bool) *world {
	v, err := scram.New(firstWord, scram.Iterations)
	require.NoError(t, err)
	stored := firstWord
	if hashed {
		stored = v.Stored()
	}
	w := &world{
		T: t, roles: map[string]*fakeRole{blue: {login: true, verifier: v.Stored()}, green: {}},
		list:    "; kept as it is\n" + `"admin" "of ""admins"""` + "\n" + formatLine(blue, stored),
		app:     []escort.Login{{User: blue, Password: firstWord}},
		kept:    map[string]bool{},
		poolers: []*fakePooler{{name: "db/pgbouncer-0"}, {name: "db/pgbouncer-1"}},
		lastUse: map[string]time.Time{}, verified: map[string]bool{},
	}
	w.listed = []version{{text: w.list}}
	w.moved = []move{{login: w.app[0]}}
	for _, p := range w.poolers {
		p.loaded, p.proofs = w.list, map[string]string{}
	}
	for i := range 6 {
		w.clients = append(w.clients, &client{delay: time.Duration(i) * 20 * time.Second, login: w.app[0]})
	}
	return w
}

// live lets the clients connect until ctx ends.
func (w *world) live(ctx context.Context) {
	for ctx.Err() == nil {
		w.mutex.Lock()
		w.connectAll()
		w.mutex.Unlock()
		_ = escort.Sleep(ctx, connectEvery)
	}
}

func (w *world) connectAll() {
	for i, c := range w.clients {
		for _, m := range w.moved {
			if !c.fixed && time.Since(m.at) >= c.delay {
				c.login = m.login
			}
		}
		if c.away {
			continue
		}
		for _, p := range w.poolers {
			if why := w.fails(p, c.login, true); why != "" {
				w.Errorf("client %d cannot connect as %s through %s: %s\n%s", i, c.login.User, p.name, why, strings.Join(w.log, "\n"))
			}
		}
		w.kept[c.login.User] = true
		w.lastUse[c.login.User] = time.Now()
	}
}

// fails returns why a client cannot work with a login. A pooler with a verifier has only the client's proof for the server.
func (w *world) fails(p *fakePooler, login escort.Login, server bool) string {
	stored, err := lineOf(p.loaded, login.User)
	if err != nil {
		return err.Error()
	}
	if stored != login.Password && !w.matches(stored, login.Password) {
		return "the pooler refuses the password"
	}
	if isHashed(stored) {
		p.proofs[login.User] = login.Password
	}
	role := w.roles[login.User]
	if !server || role == nil {
		return ""
	}
	switch {
	case !role.login:
		return "the role may not log in"
	case !w.matches(role.verifier, cmp.Or(p.proofs[login.User], login.Password)):
		return "the server refuses the password"
	case isHashed(stored) && stored != role.verifier:
		return "the verifier of the pooler is not that of the server"
	}
	return ""
}

func (w *world) matches(stored, password string) bool {
	key := stored + "\n" + password
	matches, known := w.verified[key]
	if !known {
		v, ok := scram.Parse(stored)
		matches = ok && v.Matches(password)
		w.verified[key] = matches
	}
	return matches
}

func (w *world) locked(do func()) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	do()
}

// effect does something that lasts, unless the process dies before.
func (w *world) effect(name string, do func()) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.dead {
		return errKilled
	}
	w.effects++
	w.dead = w.effects == w.killAt
	if !w.dead || !w.before {
		w.log = append(w.log, fmt.Sprintf("%s %s", time.Now().Format(time.TimeOnly), name))
		do()
	}
	if w.dead {
		return errKilled
	}
	return nil
}

func (w *world) look(do func()) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.dead {
		return errKilled
	}
	if w.blind {
		return errors.New("console unreachable")
	}
	do()
	return nil
}

// The Database.
type fakeDatabase struct{ *world }

func (d fakeDatabase) Check(context.Context) error { return d.look(func() {}) }

func (d fakeDatabase) Role(_ context.Context, name string) (role Role, err error) {
	err = d.look(func() { role = Role{CanLogin: d.roles[name].login, Unfit: d.roles[name].unfit} })
	return role, err
}

func (d fakeDatabase) Enable(_ context.Context, name, verifier string) error {
	return d.effect("enable "+name, func() { d.roles[name].login, d.roles[name].verifier = true, verifier })
}

func (d fakeDatabase) Allow(_ context.Context, name string) error {
	return d.effect("allow "+name, func() { d.roles[name].login = true })
}

func (d fakeDatabase) Forbid(_ context.Context, name string) error {
	return d.effect("forbid "+name, func() {
		if quiet := time.Since(d.lastUse[name]); quiet < quietFor {
			d.Errorf("%s is closed %s after its last use", name, quiet)
		}
		d.roles[name].login = false
	})
}

func (d fakeDatabase) Forget(_ context.Context, name string) error {
	return d.effect("forget "+name, func() { d.roles[name].login, d.roles[name].verifier = false, "" })
}

func (d fakeDatabase) Position(context.Context) (position string, err error) {
	err = d.look(func() { position = "0/0" })
	return position, err
}

func (d fakeDatabase) Behind(context.Context, string) ([]string, error) {
	return nil, d.look(func() {})
}

func (d fakeDatabase) Sessions(_ context.Context, name string) (found []string, err error) {
	err = d.look(func() {
		if d.kept[name] {
			found = []string{"a connection of a pooler"}
		}
	})
	return found, err
}

func (d fakeDatabase) Processes(_ context.Context, name string) (found []Process, err error) {
	err = d.look(func() {
		if d.kept[name] {
			found = []Process{{ID: 1}}
		}
	})
	return found, err
}

func (d fakeDatabase) End(_ context.Context, name string, processes []Process) error {
	require.Equal(d, []Process{{ID: 1}}, processes)
	return d.effect("end", func() {
		for _, c := range d.clients {
			if !c.away && c.login.User == name {
				d.Errorf("a session of %s is ended, which has clients", name)
			}
		}
		delete(d.kept, name)
	})
}

// The Poolers.
type fakePoolers struct{ *world }

func (p fakePoolers) Check(context.Context) error { return p.look(func() {}) }

func (p fakePoolers) Refusing(_ context.Context, login escort.Login) ([]string, error) {
	return p.refusing(login, true)
}

func (p fakePoolers) Unread(_ context.Context, login escort.Login) ([]string, error) {
	return p.refusing(login, false)
}

func (p fakePoolers) refusing(login escort.Login, server bool) (refusing []string, err error) {
	err = p.look(func() {
		for i, pooler := range p.poolers {
			for _, v := range p.listed {
				if time.Since(v.at) >= time.Duration(i)*kubeletDelay { // each kubelet at its own time
					pooler.loaded = v.text
				}
			}
			if why := p.fails(pooler, login, server); why != "" {
				refusing = append(refusing, pooler.name+": "+why)
			} else if server {
				p.kept[login.User] = true
			}
		}
	})
	return refusing, err
}

func (p fakePoolers) Sessions(_ context.Context, user string) (found []string, err error) {
	err = p.look(func() {
		for i, c := range p.clients {
			if !c.away && c.login.User == user {
				found = append(found, fmt.Sprintf("client %d", i))
			}
		}
	})
	return found, err
}

func (p fakePoolers) Kept(_ context.Context, user string) (kept []int, err error) {
	err = p.look(func() {
		if p.kept[user] {
			kept = []int{1}
		}
	})
	return kept, err
}

// The Userlists.
type fakeUserlists struct {
	*world
	known *Record // what was last read or written
}

func (w *world) userlists() fakeUserlists { return fakeUserlists{w, new(Record)} }

func (u fakeUserlists) Record(context.Context) (r Record, err error) {
	failed := u.look(func() {
		if *u.known = u.record; u.record != (Record{}) {
			r, err = ParseRecord(u.record.Text(), [2]string{blue, green}, time.Now())
		}
	})
	return r, errors.Join(failed, err)
}

func (u fakeUserlists) SetRecord(_ context.Context, r Record) error {
	if u.isOfAnotherRun() {
		return errAnotherRun
	}
	return u.effect("record "+string(r.Step), func() { u.record, *u.known = r, r })
}

func (u fakeUserlists) isOfAnotherRun() (other bool) {
	u.locked(func() { other = u.record.Text() != u.known.Text() })
	return other
}

func (u fakeUserlists) Check(_ context.Context, listed, other string) error {
	return checkLines(u.list, listed, other)
}

func (u fakeUserlists) SetPassword(_ context.Context, user, like, password, verifier string) error {
	if u.isOfAnotherRun() {
		return errAnotherRun
	}
	var err error
	return errors.Join(u.effect("userlist "+user, func() {
		var changed string
		if changed, err = withPassword(u.list, [2]string{blue, green}, user, like, password, verifier); err == nil {
			u.list = changed
			u.listed = append(u.listed, version{u.list, time.Now()})
		}
	}), err)
}

// The App.
type fakeApp struct{ *world }

func (a fakeApp) Login(context.Context) (current, previous escort.Login, err error) {
	err = a.look(func() {
		current = a.app[0]
		if len(a.app) > 1 {
			previous = a.app[1]
		}
	})
	return current, previous, err
}

func (a fakeApp) Move(_ context.Context, from, to escort.Login) error {
	return a.effect("app "+to.User, func() {
		if a.app[0] != from && a.app[0] != to {
			panic("the login has changed between two requests of one run")
		}
		a.app = []escort.Login{to, a.app[0]}
		a.moved = append(a.moved, move{to, time.Now()})
	})
}

func (a fakeApp) Settle(context.Context) error {
	return a.effect("settle", func() { a.app = a.app[:1] })
}

func (w *world) rotation() *Rotation {
	return &Rotation{
		Logins: [2]string{blue, green}, To: green, QuietFor: quietFor, Database: fakeDatabase{w}, Poolers: fakePoolers{w},
		Userlists: w.userlists(), App: fakeApp{w}, Tell: func(text string) { w.told = append(w.told, text) },
	}
}

// requireRotated checks the end: one login works, with its own password everywhere, and nothing is left of the other.
func (w *world) requireRotated(from, to string) {
	w.Helper()
	require.Equal(w, Closed, w.record.Step)
	require.Equal(w, to, w.record.To)
	require.Equal(w, &fakeRole{}, w.roles[from])
	require.True(w, w.roles[to].login)
	require.Len(w, w.app, 1)
	require.Equal(w, to, w.app[0].User)
	for _, p := range w.poolers {
		require.Empty(w, w.fails(p, w.app[0], true))
		require.NotEmpty(w, w.fails(p, escort.Login{User: from, Password: firstWord}, false))
		require.True(w, strings.HasPrefix(p.loaded, "; kept as it is\n"+`"admin" "of ""admins"""`+"\n"), p.loaded)
	}
	for _, c := range w.clients {
		require.Equal(w, to, c.login.User)
	}
	text := strings.Join(append(slices.Clone(w.log), w.told...), "\n")
	require.NotContains(w, text, w.app[0].Password)
	require.NotContains(w, text, "SCRAM-SHA-256")
}

// order returns the effects that are neither records nor repeated, in their order.
func (w *world) order() []string {
	var order []string
	for _, line := range w.log {
		if _, name, _ := strings.Cut(line, " "); !strings.HasPrefix(name, "record") && name != "end" {
			order = append(order, name)
		}
	}
	return slices.Compact(order)
}

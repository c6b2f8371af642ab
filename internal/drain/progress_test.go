package drain

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestIsStopping_EachEnding_OnlyWhileAContainerMayRun(t *testing.T) {
	for name, c := range map[string]struct {
		ending   ending
		signaled bool
		want     bool
	}{
		"runs":                                     {running, false, false},
		"runs, and its eviction was accepted":      {running, true, true},
		"is terminating":                           {stopping, false, true},
		"is terminating, and is not waited for":    {abandoned, false, true},
		"nothing can stop it":                      {pointless, false, false},
		"nothing can stop it, though it was asked": {pointless, true, true},
		"only finalizers keep it":                  {ended, true, false},
		"only finalizers keep it, for too long":    {stuck, true, false},
	} {
		p := progress{ending: c.ending}
		if c.signaled {
			p.line.EvictedAt = time.Now()
		}
		require.Equal(t, c.want, p.isStopping(), name)
	}
}

func TestNoteDeleted_AcceptedBefore_IsNotNew(t *testing.T) {
	now := time.Now()
	got := response{deletedWith: 5 * time.Second}
	var p progress
	require.True(t, p.noteDeleted(got, now))
	require.False(t, p.noteDeleted(got, now.Add(time.Second)))
	require.Equal(t, now, p.line.ForcedAt)
	p.reasons.unconfirmed = "deleted, perhaps"
	require.True(t, p.noteDeleted(got, now.Add(time.Second)), "the first was only assumed")
	require.Empty(t, p.reasons.unconfirmed)
}

func TestNoteBlocked_ManyPDBs_FewAreNamed(t *testing.T) {
	var p progress
	var names []string
	for i := range maxNames + 5 {
		names = append(names, fmt.Sprint("app/", i))
	}
	p.noteBlocked(&Blocked{PDBs: names}, time.Now())
	p.noteBlocked(&Blocked{PDBs: names}, time.Now())
	require.Equal(t, names[:maxNames], p.line.BlockedBy)
}

// The answer to a deletion was lost. Whether it counts depends on what is seen of the pod.
func TestNoteFailure_Deletion_CountsIfThePodStops(t *testing.T) {
	for name, c := range map[string]struct {
		ending  ending
		gone    bool
		got     response
		deleted bool
	}{
		"it runs":                       {running, false, response{deletedWith: time.Second}, false},
		"it is terminating":             {stopping, false, response{deletedWith: time.Second}, true},
		"it is not waited for":          {abandoned, false, response{deletedWith: time.Second}, true},
		"it is gone":                    {running, true, response{deletedWith: time.Second}, true},
		"its eviction failed":           {stopping, false, response{}, false},
		"a webhook refused":             {stopping, false, response{deletedWith: time.Second, err: &Refused{}}, false},
		"its grace was to be shortened": {stopping, false, response{deletedWith: time.Second, shortens: true}, false},
	} {
		now := time.Now()
		p := progress{ending: c.ending, grace: time.Minute}
		if c.gone {
			p.line.GoneAt = now
		}
		if c.got.err == nil {
			c.got.err = errors.New("connection reset")
		}
		p.noteFailure(c.got, now)
		require.Equal(t, c.deleted, !p.line.ForcedAt.IsZero(), name)
	}
}

func TestIsUnsignaled_DeletionsFailed_TriedTwice(t *testing.T) {
	r := newRequests()
	r.due.Store(true)
	r.sentAt, r.latest = time.Now(), failed
	for tries, want := range []bool{true, true, false} {
		r.lastTries = tries
		require.Equal(t, want, r.isUnsignaled(), tries)
	}
}

func TestInTurn_DuePods_First(t *testing.T) {
	now := time.Now()
	r := &run{state: State{}.resume(nil)}
	var pods []Planned
	for name, due := range []int{0, 9, 0, 5, 0, 7} {
		pod := Planned{Pod: Pod{Ref: Ref{Name: fmt.Sprint(name)}}, Open: true, Due: due > 0, ForceAt: now.Add(time.Duration(due) * time.Second)}
		pods = append(pods, pod)
		r.state.pods[pod.Ref] = newProgress(pod)
	}
	var order []string
	for _, pod := range r.inTurn(pods) {
		order = append(order, pod.Name)
	}
	require.Equal(t, []string{"3", "5", "1", "0", "2", "4"}, order)
}

func TestLogOnce_ProblemStays_LoggedOnce(t *testing.T) {
	var log bytes.Buffer
	r := &run{Drainer: Drainer{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	var p progress
	for _, problem := range []string{"no room", "no room", "etcd is away", "no room"} {
		r.logOnce(&p, "eviction failed", response{err: errors.New(problem)})
	}
	require.Equal(t, 3, strings.Count(log.String(), "eviction failed"))
	require.Equal(t, 2, strings.Count(log.String(), "no room"))
}

func TestCloseRemaining_DeletedPod_ForcedUnlessItCameBack(t *testing.T) {
	state := State{}.resume(nil)
	report := Report{}
	for name, known := range map[string]*progress{
		"unknown": nil, "known": {}, "back": {cameBack: true},
	} {
		line := PodReport{Name: name, Outcome: Waiting, ForcedAt: time.Now()}
		report.Pods = append(report.Pods, line)
		if known != nil {
			state.pods[line.Ref()] = known
		}
	}
	report.CloseRemaining(state, "the deadline is over")
	for _, p := range report.Pods {
		want := Forced
		if p.Name == "back" {
			want = Remained
		}
		require.Equal(t, want, p.Outcome, p.Name)
	}
}

func TestShortAll_ManyLongTexts_FewAndShort(t *testing.T) {
	require.Nil(t, shortAll(nil))
	var texts []string
	for range maxNames + 5 {
		texts = append(texts, strings.Repeat("x", 2*MaxText))
	}
	short := shortAll(texts)
	require.Len(t, short, maxNames)
	for _, text := range short {
		require.LessOrEqual(t, len(text), MaxText)
	}
}

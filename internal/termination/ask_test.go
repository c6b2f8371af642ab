package termination

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// asking records what is asked, in order.
type asking struct {
	*testEnv
	asked chan string
}

func (a asking) Describe(ctx context.Context, group, hook string) (Hook, error) {
	a.asked <- "hook"
	return fakeHooks{a.testEnv}.Describe(ctx, group, hook)
}

func (a asking) EC2Instances(ctx context.Context, ids ...string) (map[string]EC2Instance, error) {
	a.asked <- "ec2"
	return a.testEnv.EC2Instances(ctx, ids...)
}

func (a asking) ActivityStarts(ctx context.Context, group string) (map[string]time.Time, error) {
	a.asked <- "activities"
	return a.testEnv.ActivityStarts(ctx, group)
}

// hooksOf asks for hooks through asking.
type hooksOf struct {
	fakeHooks
	asking
}

func (h hooksOf) Describe(ctx context.Context, group, hook string) (Hook, error) {
	return h.asking.Describe(ctx, group, hook)
}

func (h hooksOf) Put(ctx context.Context, group, hook string, settings Hook) error {
	return h.fakeHooks.Put(ctx, group, hook, settings)
}

func (h hooksOf) Delete(ctx context.Context, group, hook string) error {
	return h.fakeHooks.Delete(ctx, group, hook)
}

func (h hooksOf) Heartbeat(ctx context.Context, t Termination) error {
	return h.fakeHooks.Heartbeat(ctx, t)
}

func (h hooksOf) Complete(ctx context.Context, t Termination, result Result) error {
	return h.fakeHooks.Complete(ctx, t, result)
}

func (a asking) handler() *Handler {
	h := a.testEnv.handler()
	h.Groups, h.Hooks = a, hooksOf{fakeHooks{a.testEnv}, a}
	h.Queue = &fakeQueue{testEnv: a.testEnv}
	return h
}

// all returns what was asked so far.
func (a asking) all() (names []string) {
	synctest.Wait()
	for len(a.asked) > 0 {
		names = append(names, <-a.asked)
	}
	return names
}

func newAsking() asking { return asking{newTestEnv(), make(chan string, 100)} }

// A message of a held instance comes again every few seconds. AWS limits the requests of the whole account.
func TestAsk_LeaseHeld_MessageThatComesAgainAsksNoClock(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newAsking()
		env.heldElsewhere = true
		first := messageOf(event, "m-1")
		require.NotEmpty(t, deliverBatch(t, env.handler(), first))
		require.ElementsMatch(t, []string{"ec2", "hook", "activities"}, env.all())
		first.Receives = 2
		require.NotEmpty(t, deliverBatch(t, env.handler(), first))
		require.ElementsMatch(t, []string{"ec2"}, env.all())
	})
}

// Where the Lease is free, a message that comes again asks afterwards.
func TestAsk_MessageComesAgain_ClockIsAskedAfterLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newAsking()
		env.node.Add(web("a"), time.Second)
		again := messageOf(event, "m-1")
		again.Receives = 2
		require.Empty(t, deliverBatch(t, env.handler(), again))
		require.Subset(t, env.all(), []string{"ec2", "hook", "activities"})
	})
}

// What EC2 said before an event was verified for seconds may be wrong by then.
func TestAsk_VerifiedLate_EC2IsAskedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newAsking()
		env.setState(inService)
		env.node.Add(web("a"), time.Second)
		time.AfterFunc(3*time.Second, func() { env.setState("Terminating:Wait") })
		require.Empty(t, deliverBatch(t, env.handler(), messageOf(event, "m-1")))
		count := 0
		for _, name := range env.all() {
			if name == "ec2" {
				count++
			}
		}
		require.Equal(t, 2, count)
	})
}

// Questions run beside the drain, and a rejected event must not wait for one of them, nor write.
func TestAsk_EventRejected_NothingIsAwaitedOrWritten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.setState("")
		env.hangs = map[string]bool{"connect": true, "ec2": true}
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Equal(t, began, time.Now())
		require.Empty(t, env.effects())
	})
}

// lostCluster panics when nodes are searched.
type lostCluster struct{ Kubernetes }

func (lostCluster) FindNodes(context.Context, string, EC2Instance) (FoundNodes, error) {
	panic("a node without a name")
}

// A panic beside the drain would end the process, and with it the drains of other records.
func TestAsk_QuestionPanics_RecordFailsAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h := env.handler()
		h.Connect = func(context.Context) (Kubernetes, error) { return lostCluster{env}, nil }
		h.Parse = func([]byte) Delivery {
			return Delivery{Source: SQS, Records: []Record{messageOf(event, "m-1")}}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		answer, err := h.Invoke(ctx, nil)
		require.NoError(t, err)
		require.Len(t, answer.(batchResponse).Failures, 1)
	})
}

// The search beside the Lease must not outlast the time in which the node is looked for.
func TestAsk_SearchHangs_EndsWithItsTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := &job{Handler: &Handler{}}
		j.asked.instance = func() answeredInstance { return answeredInstance{} }
		j.askNodes(t.Context(), hangingSearch{})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errDeadlineReached)
		defer cancel()
		_, err := j.findNodes(ctx, hangingSearch{}, EC2Instance{})
		require.ErrorIs(t, err, errDeadlineReached)
	})
}

// hangingSearch never finds a node.
type hangingSearch struct{ Kubernetes }

func (hangingSearch) FindNodes(ctx context.Context, _ string, _ EC2Instance) (FoundNodes, error) {
	<-ctx.Done()
	return FoundNodes{}, context.Cause(ctx)
}

// An event that is believed at the second look was verified for long enough.
func TestForgetOld_VerifiedForOnePace_AsksAgain(t *testing.T) {
	for waited, asksAgain := range map[time.Duration]bool{verifyPace - 1: false, verifyPace: true} {
		bubble.Test(t, func(t *testing.T) {
			j := newTestEnv().handler().newJob(event)
			j.askInstance(t.Context())
			j.asked.instance()
			time.Sleep(waited)
			j.forgetOld()
			require.Equal(t, asksAgain, j.asked.instance == nil, waited)
		})
	}
}

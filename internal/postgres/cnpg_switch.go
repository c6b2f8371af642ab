package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/escort"
)

const (
	// statusTries and statusInterval are how often the request is tried while the Cluster changes under it. Its operator writes the status
	// at each turn of its own, several times a second at most.
	statusTries    = 5
	statusInterval = 200 * time.Millisecond
	// quietTime is for how long the log must stand still while all poolers are paused, to show that no client writes past them. It is the price
	// that clients pay. Less would miss those who write a few times a second.
	quietTime = 500 * time.Millisecond
	// quietLimit bounds the wait for such a time: a checkpoint or an autovacuum may end meanwhile.
	quietLimit = 2 * time.Second
	// quietBytes is by how much the log may grow all the same: the notes of a server at rest, such as on running transactions. The
	// smallest transaction of a client is not much longer, but the candidate must have received all of this too.
	quietBytes LSN = 256
	// cnpgMinHold is the least that a switchover gets: more than twice what one took, the change of labels included (6.7 to 7.9 s).
	cnpgMinHold = 18 * time.Second
	// cnpgFollowTime bounds the wait until the Service leads to the new primary. The operator labels it seconds after its promotion, and
	// later if it is busy. The limit of the hold ends the wait before that.
	cnpgFollowTime = 25 * time.Second
)

// byStatus writes the target primary into the status of the Cluster. It cannot be withdrawn: the old primary stops as soon as it reads it.
type byStatus struct{}

func (byStatus) wait(Facts, time.Time, time.Duration) time.Duration { return 0 }

// request writes the request only while the Cluster is at rest with the expected primary, so that it is never written twice, nor over
// somebody else's.
func (byStatus) request(ctx context.Context, m *move, _ time.Time) (*asked, error) {
	for try := 1; ; try++ {
		c, err := m.readCluster(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot read the Cluster again: %w", err)
		}
		if why := c.whyNotAtRest(m.facts.Leader); why != "" {
			return nil, errors.New(why)
		}
		version, err := m.cluster.RequestPrimary(ctx, escort.NewPrimary{
			Namespace: m.facts.Namespace, Cluster: m.facts.Cluster, Version: c.Metadata.ResourceVersion, Candidate: m.candidate.Name, At: time.Now(),
		})
		switch {
		case err == nil:
			return &asked{version: version}, nil
		case errors.Is(err, escort.ErrForbidden), errors.Is(err, escort.ErrConflict) && try == statusTries:
			return nil, err
		case !errors.Is(err, escort.ErrConflict):
			return m.afterLostAnswer(ctx, err)
		}
		if err := escort.Sleep(ctx, statusInterval); err != nil {
			return nil, err
		}
	}
}

// afterLostAnswer finds out whether a request without an answer was accepted. It counts as not accepted only if the Cluster stays at rest.
// What cannot be found out counts as accepted: clients wait then, instead of meeting a primary that stops.
func (m *move) afterLostAnswer(ctx context.Context, failure error) (*asked, error) {
	known, accepted := false, false
	_ = escort.Poll(ctx, time.Now().Add(answerGrace), pollInterval, func() (bool, error) {
		c, err := m.readCluster(ctx)
		known = err == nil
		accepted = known && c.whyNotAtRest(m.facts.Leader) != ""
		return accepted, nil
	})
	if known && !accepted {
		return nil, failure
	}
	return &asked{}, nil
}

func (m *move) readCluster(ctx context.Context) (*cnpgCluster, error) {
	var c cnpgCluster
	found, err := m.cluster.Custom(ctx, cnpgGroup, cnpgClusters, m.facts.Namespace, m.facts.Cluster, &c)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, fmt.Errorf("there is no Cluster %s", m.facts.Cluster)
	}
	return &c, nil
}

// isMoving reports whether a switchover has been accepted and is not over.
func (c *cnpgCluster) isMoving() bool { return c.Status.TargetPrimary != c.Status.CurrentPrimary }

// whyNotAtRest returns why a request must not be written now; empty: it may.
func (c *cnpgCluster) whyNotAtRest(leader string) string {
	var f Facts
	c.read(&f)
	switch {
	case f.Pending != "":
		return f.Pending + " has been requested"
	case f.Leader != leader:
		return fmt.Sprintf("the leader changed to %q meanwhile", f.Leader)
	case len(f.Holds) > 0:
		return f.Holds[0]
	}
	return ""
}

// clusterLeader returns the primary that the Cluster names; empty: it changes. It reports false if the Cluster could not be read.
func (m *move) clusterLeader(ctx context.Context) (name string, ok bool) {
	c, err := m.readCluster(ctx)
	if err != nil {
		return "", false
	}
	if c.isMoving() || !escort.IsName(c.Status.CurrentPrimary) {
		return "", true
	}
	return c.Status.CurrentPrimary, true
}

// checkBegun holds a primary whose switchover has begun and is late: nothing withdraws it.
func (m *move) checkBegun(ctx context.Context) error {
	if m.facts.Operator.UsesPatroni() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	leader, ok := m.leader(ctx)
	if ok && leader != "" {
		return nil
	}
	m.begun = true
	return hold("the switchover from %s to %s has begun and cannot be withdrawn, but did not end within %v", m.facts.Leader, m.candidateName(), m.limit-resumeReserve)
}

// awaitQuiet waits until the log of the leader stands still, and returns what the leader says then. Though all poolers are paused, clients
// that connect past them may write.
func (m *move) awaitQuiet(ctx context.Context, leader LiveState) (LiveState, error) {
	if m.last || m.facts.Operator.UsesPatroni() {
		return leader, nil
	}
	grown, failure := LSN(0), error(nil)
	look := func() (bool, error) {
		now, err := m.clusters.Live(ctx, m.facts.Identity, *m.facts.LeaderMember())
		switch {
		case err == nil && (!now.Live || now.Role != Primary):
			err = errors.New("it does not lead any more")
		case err == nil && now.LSN == 0:
			err = errors.New("it does not know its position in the log")
		}
		if failure = err; err != nil {
			return false, nil
		}
		grown, leader = leader.LSN.Behind(now.LSN), now
		return grown <= quietBytes, nil
	}
	if err := escort.Sleep(ctx, quietTime); err != nil {
		return leader, err
	}
	switch err := escort.Poll(ctx, time.Now().Add(quietLimit-quietTime), quietTime, look); {
	case err == nil:
		return leader, nil
	case failure != nil:
		return leader, hold("the leader does not say how far it has written: %v", failure)
	}
	return leader, hold("something writes past the poolers: the log grew by %s in %v while all of them were paused", grown.Size(), quietTime)
}

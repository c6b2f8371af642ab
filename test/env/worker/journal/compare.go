package journal

// Comparison compares what workers recorded with the rows of the database.
type Comparison struct {
	Committed          int // recorded as committed
	Aborted            int // recorded as aborted, except failures at BEGIN
	Ambiguous          int // failed at COMMIT
	AmbiguousCommitted int // failed at COMMIT, but in the database
	InFlight           int // in progress: not counted in the fields below

	Lost       int // recorded as committed, but not in the database
	Repeated   int // in the database more than once
	Unexpected int // in the database, but recorded as aborted, failed at BEGIN, or never tried
}

// Compare compares workers with rows: the numbers in the database of each worker, in any order, with repeats. It is exact for
// stopped workers; for others, take their snapshot before the rows.
func Compare(workers []Worker, rows map[int][]int64) Comparison {
	var b Comparison
	known := map[int]bool{}
	for _, w := range workers {
		known[w.Worker] = true
		b.addWorker(w, tally(rows[w.Worker]))
	}
	for worker, numbers := range rows {
		if !known[worker] {
			b.Unexpected += len(tally(numbers))
		}
	}
	return b
}

// addWorker adds one worker, given how many rows the database has of each of its numbers.
func (b *Comparison) addWorker(w Worker, rows map[int64]int) {
	beliefs := w.beliefs()
	for n := int64(1); n <= w.Last; n++ {
		b.add(beliefs[n], rows[n] > 0)
	}
	for n, times := range rows {
		if times > 1 {
			b.Repeated++
		}
		if n < 1 || n > w.Last {
			b.Unexpected++
		}
	}
}

type belief int

const (
	committed belief = iota // every number without another record
	aborted
	ambiguous
	skipped
	inFlight
)

func (w Worker) beliefs() map[int64]belief {
	beliefs := map[int64]belief{}
	for b, numbers := range map[belief][]int64{aborted: w.Aborted, ambiguous: w.Ambiguous, skipped: w.Skipped, inFlight: {w.InFlight}} {
		for _, n := range numbers {
			beliefs[n] = b
		}
	}
	return beliefs
}

func (b *Comparison) add(believed belief, there bool) {
	switch believed {
	case committed:
		b.Committed++
		b.Lost += count(!there)
	case aborted:
		b.Aborted++
		b.Unexpected += count(there)
	case ambiguous:
		b.Ambiguous++
		b.AmbiguousCommitted += count(there)
	case skipped:
		b.Unexpected += count(there)
	case inFlight:
		b.InFlight++
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func tally(numbers []int64) map[int64]int {
	times := map[int64]int{}
	for _, n := range numbers {
		times[n]++
	}
	return times
}

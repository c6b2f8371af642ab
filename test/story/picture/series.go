package picture

import (
	"slices"
	"time"
)

const (
	// leastBin smooths the commits: short enough to show a stall of two seconds, long enough to hide the noise of single
	// transactions.
	leastBin = time.Second
	// mostBins keeps the curve of a long run as small as its pixels.
	mostBins = 250
)

// rate is the commits per second in the middle of a bin.
type rate struct {
	at        time.Duration
	perSecond float64
}

func binFor(span time.Duration) time.Duration {
	return max(leastBin, span/mostBins)
}

// rates spreads each sample's commits evenly over its time and counts them in bins. The last bin may be short.
func (h Panel) rates(bin time.Duration) []rate {
	commits := make([]float64, (h.end()+bin-1)/bin)
	from := time.Duration(0)
	for _, s := range h.Samples {
		for i := from / bin; i*bin < s.At && s.At > from; i++ {
			overlap := min(s.At, (i+1)*bin) - max(from, i*bin)
			commits[i] += float64(s.Commits) * overlap.Seconds() / (s.At - from).Seconds()
		}
		from = max(from, s.At)
	}
	rates := make([]rate, len(commits))
	for i, n := range commits {
		begin := time.Duration(i) * bin
		length := min(bin, h.end()-begin)
		rates[i] = rate{at: begin + length/2, perSecond: n / length.Seconds()}
	}
	return rates
}

// period is a time in which a worker hung.
type period struct{ from, to time.Duration }

// hangs returns the periods in which a worker hung, with adjacent samples joined.
func (h Panel) hangs(worker int) []period {
	var periods []period
	from, before := time.Duration(0), false
	for _, s := range h.Samples {
		hangs := slices.Contains(s.Hanging, worker)
		switch {
		case hangs && before:
			periods[len(periods)-1].to = s.At
		case hangs:
			periods = append(periods, period{from, s.At})
		}
		from, before = s.At, hangs
	}
	return periods
}

// outcome counts the workers that hang at the end, and those that ever hung.
func (h Panel) outcome() (atEnd, ever int) {
	seen := map[int]bool{}
	for _, s := range h.Samples {
		for _, worker := range s.Hanging {
			seen[worker] = true
		}
	}
	return len(h.Samples[len(h.Samples)-1].Hanging), len(seen)
}

package termination

import (
	"encoding/json"
	"fmt"
	"slices"

	"quiesce/internal/drain"
)

// maxCutText is how long the texts of a pod stay in a report that is too long, in bytes. The beginning says most.
const maxCutText = 100

// maxCutList is how many PDBs and warnings of a pod stay in such a report.
const maxCutList = 3

// Within returns the report as it fits into so many bytes of JSON. If it is too long, texts of pods are cut first. If that is not
// enough, pods are left out, those that went as they should before the others. Omitted says what was cut.
func (r Report) Within(bytes int) Report {
	if r.size() <= bytes {
		return r
	}
	r.Pods = slices.Clone(r.Pods)
	for i := range r.Pods {
		r.Pods[i] = cutPod(r.Pods[i])
	}
	r.Omitted = "texts of pods"
	if r.size() <= bytes {
		return r
	}
	if r.Plan != nil {
		r.Plan, r.Omitted = nil, "texts of pods, the plan"
	}
	return r.withoutPods(bytes, r.Omitted)
}

// withoutPods leaves out as many pods as needed.
func (r Report) withoutPods(bytes int, cut string) Report {
	all := len(r.Pods)
	slices.SortStableFunc(r.Pods, func(a, b drain.PodReport) int { return rank(a) - rank(b) })
	for len(r.Pods) > 0 && r.size() > bytes {
		r.Pods = r.Pods[:len(r.Pods)/2]
		r.Omitted = fmt.Sprintf("%s, %d of %d pods", cut, all-len(r.Pods), all)
	}
	return r
}

// rank orders pods by how much their lines are missed.
func rank(p drain.PodReport) int {
	switch p.Outcome {
	case drain.Skipped:
		return 2
	case drain.Evicted:
		return 1
	}
	return 0
}

func cutPod(p drain.PodReport) drain.PodReport {
	p.Reason = drain.Cut(p.Reason, maxCutText)
	p.BlockedBy, p.Warnings = cutTexts(p.BlockedBy), cutTexts(p.Warnings)
	if p.Escort != nil {
		escort := *p.Escort
		escort.Reason, escort.AbortedDetail = drain.Cut(escort.Reason, maxCutText), drain.Cut(escort.AbortedDetail, maxCutText)
		escort.Version = drain.Cut(escort.Version, maxCutText)
		p.Escort = &escort
	}
	return p
}

func cutTexts(texts []string) []string {
	texts = slices.Clone(texts[:min(maxCutList, len(texts))])
	for i, text := range texts {
		texts[i] = drain.Cut(text, maxCutText)
	}
	return texts
}

func (r Report) size() int {
	text, _ := json.Marshal(r) // cannot fail: texts, numbers and times
	return len(text)
}

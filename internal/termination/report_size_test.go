package termination

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// longReport returns a report of so many pods, each with a reason of this length. The last pod was forced.
func longReport(pods, reason int) Report {
	r := Report{Status: StatusForced, InstanceID: "i-0abc", Plan: &PlanReport{}}
	for n := range pods {
		r.Pods = append(r.Pods, drain.PodReport{
			Namespace: "db", Name: fmt.Sprint("pod-", n), Outcome: drain.Evicted, Reason: strings.Repeat("x", reason),
			Escort: &drain.EscortResult{AbortedDetail: strings.Repeat("y", reason)}, Warnings: []string{strings.Repeat("z", reason)},
		})
	}
	r.Pods[pods-1].Outcome = drain.Forced
	return r
}

func TestWithin_ShortReport_IsUnchanged(t *testing.T) {
	r := longReport(3, 1000)
	require.Equal(t, r, r.Within(200_000))
}

// A report that just fits stays as it is. One that fits once it is cut is cut no further.
func TestWithin_ExactSize_NotCutFurther(t *testing.T) {
	for name, c := range map[string]struct {
		report  Report
		bytes   int
		omitted string
	}{
		"whole":         {longReport(3, 1000), 200_000, ""},
		"texts cut":     {longReport(3, 1000), 5_000, "texts of pods"},
		"pods left out": {longReport(100, 10), 10_000, "texts of pods, the plan, 50 of 100 pods"},
	} {
		want := c.report.Within(c.bytes)
		require.Equal(t, c.omitted, want.Omitted, name)
		require.Equal(t, want, c.report.Within(want.size()), name)
	}
}

func TestWithin_TooLongWithoutPods_Returned(t *testing.T) {
	r := longReport(3, 10).Within(1)
	require.Empty(t, r.Pods)
	require.Equal(t, "texts of pods, the plan, 3 of 3 pods", r.Omitted)
}

func TestWithin_LongTexts_AreCut(t *testing.T) {
	r := longReport(10, 90_000)
	cut := r.Within(200_000)
	require.LessOrEqual(t, cut.size(), 200_000)
	require.Len(t, cut.Pods, 10)
	require.Equal(t, "texts of pods", cut.Omitted)
	require.NotNil(t, cut.Plan)
	require.Len(t, r.Pods[0].Reason, 90_000, "the report itself stays as it is")
	require.Len(t, r.Pods[0].Escort.AbortedDetail, 90_000)
	require.Len(t, r.Pods[0].Warnings[0], 90_000)
}

func TestWithin_ManyPods_KeepsTheOnesThatWentWrong(t *testing.T) {
	r := longReport(10_000, 10)
	cut := r.Within(200_000)
	require.LessOrEqual(t, cut.size(), 200_000)
	require.Equal(t, "pod-9999", cut.Pods[0].Name)
	require.Equal(t, fmt.Sprintf("texts of pods, the plan, %d of 10000 pods", 10_000-len(cut.Pods)), cut.Omitted)
	require.Equal(t, "pod-0", r.Pods[0].Name)
}

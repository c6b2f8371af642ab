package rotate

import (
	"context"
	"fmt"
	"slices"
)

// Plan returns what Run would do, in words. It changes nothing.
func (r *Rotation) Plan(ctx context.Context) (Record, []string, error) {
	record, err := r.Look(ctx)
	if err != nil {
		return record, nil, err
	}
	texts := []struct {
		step Step
		text string
	}{
		{Opening, fmt.Sprintf("enable %s: a new password on the server and in every userlist", record.To)},
		{Moving, r.moveText(record)},
		{Quiet, fmt.Sprintf("look every %s until %s has been unused for %s", pollInterval, record.From, r.QuietFor)},
		{Closing, fmt.Sprintf("let %s not log in, and look once more", record.From)},
		{Ending, fmt.Sprintf("remove the password of %s; change its line in every userlist", record.From)},
	}
	at := max(0, slices.Index(steps, record.Step))
	var plan []string
	for _, t := range texts {
		if slices.Index(steps, t.step) >= at {
			plan = append(plan, fmt.Sprintf("%-8s %s", t.step, t.text))
		}
	}
	return record, plan, nil
}

func (r *Rotation) moveText(record Record) string {
	if r.App == nil {
		return fmt.Sprintf("wait until every pooler accepts %s; you move the clients; wait until none has %s", record.To, record.From)
	}
	return fmt.Sprintf("wait until every pooler accepts %s; write it into the Secret of --app-secret; wait until no client has %s", record.To, record.From)
}

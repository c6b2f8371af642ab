package pooler

import (
	"encoding/json"
	"slices"
	"strings"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// maxRecord is the longest record that is read, in bytes. What escorts write has less than a tenth.
const maxRecord = 4096

// ownLabels is the prefix of quiesce's labels. A surge removes none of them.
const ownLabels = "quiesce/"

// strategies are the ones that are recorded.
var strategies = []config.Strategy{config.StrategyEvict, config.StrategySurge, shutdown}

// recordOf returns what an earlier run recorded; nil: nothing. A record that cannot be read stands for everything that can be rolled
// back without it. The record decides what is written to the pod and to its console. So only what an escort writes is taken from it,
// whoever wrote it. Ignored names the parts that were not taken.
func recordOf(request drain.EscortRequest) (rec *record, ignored []string) {
	if !request.Recorded {
		return nil, nil
	}
	rec = &record{}
	if len(request.Record) > maxRecord || json.Unmarshal(request.Record, rec) != nil {
		return &record{Paused: true}, []string{"all"}
	}
	return rec, rec.dropInvalid()
}

// dropInvalid removes what no escort writes, and returns the names of those parts.
func (rec *record) dropInvalid() (dropped []string) {
	drop := func(part string, invalid bool) bool {
		if invalid {
			dropped = append(dropped, part)
		}
		return invalid
	}
	if drop("owner", rec.Owner != escort.Owner{} && !rec.Owner.Valid()) {
		rec.Owner = escort.Owner{}
	}
	for name, value := range rec.Settings {
		if pgbouncer.CheckSetting(name, value) != nil {
			drop("settings", !slices.Contains(dropped, "settings"))
			delete(rec.Settings, name)
		}
	}
	if drop("labels", !removable(rec.Labels)) {
		rec.Labels = nil
	}
	// Without its label a surge has nothing to finish. Strategy evict rolls back all that the record names.
	surgeWithoutLabel := rec.Strategy == config.StrategySurge && len(rec.Labels) == 0
	if drop("strategy", !slices.Contains(strategies, rec.Strategy) || surgeWithoutLabel) {
		rec.Strategy = config.StrategyEvict
	}
	return dropped
}

// removable reports whether these are the labels that a surge removes: at most one, and a valid one.
func removable(labels map[string]string) bool {
	for key, value := range labels {
		if strings.HasPrefix(key, ownLabels) || !escort.IsLabel(key, value) {
			return false
		}
	}
	return len(labels) <= 1
}

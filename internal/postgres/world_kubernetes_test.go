package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

func (i *incarnation) PodsByLabel(context.Context, string, map[string]string) ([]escort.Pod, error) {
	return nil, errors.New("not used")
}

func (i *incarnation) PodsMatching(ctx context.Context, _ string, match func(drain.Pod) bool) (pods []escort.Pod, err error) {
	if err := i.ask(ctx, "pods"); err != nil {
		return nil, err
	}
	defer i.enter()()
	for _, name := range slices.Sorted(maps.Keys(i.members)) {
		pods = append(pods, memberPod(name, i.members[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(i.poolers)) {
		if !i.poolers[name].gone {
			pods = append(pods, poolerPod(name))
		}
	}
	return slices.DeleteFunc(pods, func(p escort.Pod) bool { return !match(p.Pod) }), nil
}

func (i *incarnation) Inspect(ctx context.Context, ref drain.Ref) (*escort.Pod, error) {
	if err := i.ask(ctx, "inspect"); err != nil {
		return nil, err
	}
	defer i.enter()()
	if name, is := strings.CutPrefix(ref.Name, "pooler-"); is {
		if i.poolers[name] == nil || i.poolers[name].gone {
			return nil, nil
		}
		pod := poolerPod(name)
		return &pod, nil
	}
	pod := memberPod(ref.Name, i.members[ref.Name])
	if slices.Contains(i.evicted, ref.Name) {
		pod.Deleted = time.Now()
	}
	return &pod, nil
}

func (i *incarnation) NodeFate(context.Context, string) (escort.NodeFate, error) {
	return escort.NodeFate{}, nil
}

func (i *incarnation) GetFromPod(context.Context, drain.Ref, int, bool, string) ([]byte, error) {
	return nil, errors.New("not used")
}

func (i *incarnation) VolumeZones(context.Context, string, string, string) ([]string, error) {
	return nil, nil
}

func (i *incarnation) OtherNodeStays(context.Context, []string, string) (bool, error) {
	return true, nil
}

func (i *incarnation) Disk(context.Context, Member) string { return i.disk }

func (i *incarnation) Unattachable(context.Context, Member) (string, error) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	i.volumeLooks++
	return i.unattachable, nil
}

func (i *incarnation) VolumeFollows(context.Context, string, string) (bool, error) { return true, nil }

func (i *incarnation) Custom(context.Context, string, string, string, string, any) (bool, error) {
	return false, nil
}

func (i *incarnation) Services(ctx context.Context, _ string) ([]escort.Service, error) {
	if err := i.ask(ctx, "services"); err != nil {
		return nil, err
	}
	defer i.enter()()
	if i.unreadable {
		return nil, errors.New("forbidden")
	}
	return []escort.Service{
		{Namespace: "db", Name: "pg", Addresses: []string{"10.98.0.10"}, Ready: []string{i.members[i.serviceTo]}},
		{Namespace: "db", Name: "pg-replicas", Ready: slices.Sorted(maps.Values(i.members))},
	}, nil
}

// RecordPodEvent keeps one event of each pod, reason and pause, as the API server does.
func (i *incarnation) RecordPodEvent(ctx context.Context, e drain.PodEvent) error {
	if err := i.ask(ctx, "tell "+e.Pod.Name); err != nil {
		return err
	}
	leave := i.enter()
	i.asked++
	deny := i.deny
	leave()
	if deny != nil {
		return deny(ctx)
	}
	defer i.enter()()
	key := fmt.Sprintf("%s %s %d", e.Reason, e.Pod.Name, e.Began.UnixNano())
	if i.events[key] == "" {
		i.events[key] = e.Message
	}
	return nil
}

// told returns the reasons and pods of the events.
func (w *world) told() (told []string) {
	for key := range w.events {
		told = append(told, key[:strings.LastIndex(key, " ")])
	}
	slices.Sort(told)
	return told
}

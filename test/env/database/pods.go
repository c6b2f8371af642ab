package database

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/parts/lab"
)

// Apply applies a manifest that one of the templates makes of these values.
func Apply(ctx context.Context, l *lab.Lab, templates *template.Template, name string, values any) error {
	var manifest bytes.Buffer
	if err := templates.ExecuteTemplate(&manifest, name, values); err != nil {
		return err
	}
	file, err := os.CreateTemp(l.Path(""), "*-"+name)
	if err != nil {
		return err
	}
	_, err = file.Write(manifest.Bytes())
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return l.Apply(ctx, file.Name())
}

// AwaitReady waits until exactly n pods of the namespace with these labels are ready, and returns them.
func AwaitReady(ctx context.Context, l *lab.Lab, namespace string, of labels.Set, n int) (pods []corev1.Pod, err error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if pods, err = podsOf(ctx, l, namespace, of); err == nil && len(readyOf(pods)) == n {
			return readyOf(pods), nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%d of %d pods %s are ready (%s): %w",
				len(readyOf(pods)), n, of, Describe(pods), context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
}

func podsOf(ctx context.Context, l *lab.Lab, namespace string, of labels.Set) ([]corev1.Pod, error) {
	list, err := l.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: of.String()})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func readyOf(pods []corev1.Pod) (ready []corev1.Pod) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil && IsReady(p) {
			ready = append(ready, p)
		}
	}
	return ready
}

// Describe returns the pods' states and, as far as their kubelets report it, why they are not ready.
func Describe(pods []corev1.Pod) string {
	var text strings.Builder
	for _, p := range pods {
		fmt.Fprintf(&text, "%s on %q: %s %s", p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Message)
		for _, c := range p.Status.Conditions {
			if c.Status != corev1.ConditionTrue {
				fmt.Fprintf(&text, ", not %s %s %s", c.Type, c.Reason, c.Message)
			}
		}
		for _, c := range p.Status.ContainerStatuses {
			fmt.Fprintf(&text, ", restarted %d times, %s, before that %s", c.RestartCount, describeState(c.State), describeState(c.LastTerminationState))
		}
		text.WriteString("; ")
	}
	return strings.TrimSuffix(text.String(), "; ")
}

func describeState(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return fmt.Sprintf("waiting: %s %s", s.Waiting.Reason, s.Waiting.Message)
	case s.Terminated != nil:
		return fmt.Sprintf("ended with %d: %s %s", s.Terminated.ExitCode, s.Terminated.Reason, s.Terminated.Message)
	case s.Running != nil:
		return "running"
	}
	return "nothing"
}

// IsReady reports whether a pod has the condition Ready.
func IsReady(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// sample is the instance in the payloads of events/.
var sample = env.Instance{
	ID: "i-0123456789abcdef0", Node: "ip-10-0-1-2.eu-west-1.compute.internal", Zone: awstest.Region + "a",
}

// headerTimeout bounds how long a client of the lab may take to send a request header.
const headerTimeout = 5 * time.Second

// address returns the path of the file that has the address of the running lab.
func address(dist string) string { return filepath.Join(dist, "lab-address") }

// environment returns the path of the file with the environment of a person's tools in the running lab.
func environment(dist string) string { return filepath.Join(dist, "lab-env") }

// keepLab keeps the environment up until ctx ends, and passes what `make invoke` and quiescectl send to the function.
func keepLab(ctx context.Context, s *env.Env, dist string) error {
	if _, err := createCluster(ctx, s, nodes-1, sample); err != nil {
		return err
	}
	s.Logs = os.Stdout
	function, err := s.Function(ctx, "autoScalingGroups: ["+group+"]\nmode: drain\n")
	if err != nil {
		return err
	}
	defer function.Close()
	if err := serveTools(s, function, environment(dist)); err != nil {
		return err
	}
	defer os.Remove(environment(dist))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := os.WriteFile(address(dist), []byte("http://"+listener.Addr().String()), 0o644); err != nil {
		return err
	}
	defer os.Remove(address(dist))
	logf("the lab is up until Ctrl-C; in another terminal:")
	fmt.Printf("\n  export KUBECONFIG=%s\n  make invoke EVENT=events/plan.json\n  make invoke EVENT=events/terminate.json\n\n"+
		"  . %s   # for quiescectl: the same, and the simulated AWS\n  make quiescectl && dist/quiescectl doctor --cluster lab\n\n", s.Lab.Kubeconfig(), environment(dist))
	server := &http.Server{Handler: invocations(s, function), ReadHeaderTimeout: headerTimeout}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveTools lets a person's tools invoke the function through the simulated Lambda, and writes their environment to a file.
func serveTools(s *env.Env, function *env.Function, file string) error {
	s.AWS.AddFunction("quiesce-"+env.Cluster, func(ctx context.Context, payload []byte) ([]byte, string, error) {
		result, err := function.Invoke(ctx, payload)
		if err == nil && result.ErrorType != "" {
			failure, err := json.Marshal(map[string]string{"errorType": result.ErrorType, "errorMessage": result.ErrorMessage})
			return failure, "Unhandled", err
		}
		return result.Payload, "", err
	})
	text := "export KUBECONFIG=" + s.Lab.Kubeconfig() + "\n"
	for _, variable := range s.AWS.Environment(s.AWS.Session("person")) {
		text += "export " + variable + "\n"
	}
	return os.WriteFile(file, []byte(text), 0o600)
}

// invocations answers each POST with the function's answer.
func invocations(s *env.Env, function *env.Function) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		payload, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result, err := function.Invoke(r.Context(), replaceSample(s, payload))
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadGateway)
		case result.ErrorType != "":
			http.Error(w, result.ErrorType+": "+result.ErrorMessage, http.StatusUnprocessableEntity)
		default:
			_, _ = w.Write(result.Payload)
		}
	}
}

// replaceSample makes a sample event true. If it says that the sample instance terminates, Auto Scaling terminates the instance,
// and the real event replaces the sample.
func replaceSample(s *env.Env, payload []byte) []byte {
	var event struct {
		DetailType string `json:"detail-type"`
		Detail     struct{ AutoScalingGroupName, LifecycleHookName, EC2InstanceID string }
	}
	claims := json.Unmarshal(payload, &event) == nil && event.DetailType == "EC2 Instance-terminate Lifecycle Action"
	if !claims || event.Detail.AutoScalingGroupName != group || event.Detail.LifecycleHookName != env.Hook {
		return payload
	}
	for _, real := range s.AWS.Terminate(event.Detail.EC2InstanceID) {
		return real.Body
	}
	return payload
}

// send sends a payload to the running lab and prints the answer.
func send(ctx context.Context, dist, path string) error {
	payload, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	url, err := os.ReadFile(address(dist))
	if err != nil {
		return errors.New("no lab is up: run `make lab` in another terminal")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, string(url), bytes.NewReader(payload))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the function ended in error %s", answer)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, answer, "", "  "); err != nil {
		return err
	}
	fmt.Println(pretty.String())
	return nil
}

// Command bootstrap is a Lambda function that does what its event says, for the tests of package runtimeapi.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

type event struct{ Do, Text string }

type answer struct {
	Text     string
	PID      int
	Deadline time.Time
	Env      map[string]string
}

// Refusal is an error whose type Lambda reports.
type Refusal struct{ text string }

func (r *Refusal) Error() string { return r.text }

func handle(ctx context.Context, e event) (answer, error) {
	fmt.Println("handling " + e.Do)
	switch e.Do {
	case "refuse":
		return answer{}, &Refusal{e.Text}
	case "fail":
		return answer{}, errors.New(e.Text)
	case "panic":
		panic(e.Text)
	case "exit":
		os.Exit(3)
	case "hang":
		select {}
	case "tick":
		go tick()
	}
	deadline, _ := ctx.Deadline()
	return answer{e.Text, os.Getpid(), deadline, environment()}, nil
}

// tick writes to stdout until the process ends.
func tick() {
	for {
		fmt.Println("tick")
		time.Sleep(time.Millisecond)
	}
}

func environment() map[string]string {
	env := map[string]string{}
	for _, name := range []string{"AWS_LAMBDA_FUNCTION_NAME", "LAMBDA_TASK_ROOT", "COLOR", "HOME"} {
		env[name] = os.Getenv(name)
	}
	env["PWD"], _ = os.Getwd()
	return env
}

func main() {
	switch os.Getenv("INIT") {
	case "exit":
		fmt.Fprintln(os.Stderr, `{"level":"ERROR","message":"no configuration"}`)
		os.Exit(1)
	case "report":
		url := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/init/error"
		_, _ = http.Post(url, "application/json", bytes.NewBufferString(`{"errorType":"Init","errorMessage":"no cluster"}`))
		select {}
	case "hang":
		select {}
	}
	lambda.Start(handle)
}

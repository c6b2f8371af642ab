package awstest

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// Invoker runs a function: it returns the answer, or the error in the form that callers get, with its kind (Unhandled). Its error
// is for a function that could not be reached.
type Invoker func(ctx context.Context, payload []byte) (answer []byte, functionError string, err error)

// AddFunction makes a Lambda function. It has every alias. A nil invoker removes it.
func (s *Server) AddFunction(name string, invoke Invoker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.functions[name] = invoke
}

// SetEnvironment gives a function these environment variables, and no others.
func (s *Server) SetEnvironment(name string, variables map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.variables[name] = variables
}

// Reserve gives a function this reserved concurrency.
func (s *Server) Reserve(name string, concurrency int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.reserved[name] = concurrency
}

// SetMapping gives a function, with its alias, an event source mapping in this state, such as Enabled. Nothing is delivered: see Map.
func (s *Server) SetMapping(function, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.mappings[function] = state
}

var functionActions = map[string]action{
	"Invoke": invokeFunction, "GetFunctionConfiguration": describeFunction, "GetFunctionConcurrency": getConcurrency,
	"ListEventSourceMappings": listMappings,
}

// invocationAnswer is what Invoke answers: the payload as the body, and a header if the function has failed.
type invocationAnswer struct {
	payload []byte
	failure string
}

// functionARN returns the ARN of a function in the account.
func functionARN(name string) string {
	return "arn:aws:lambda:" + Region + ":" + Account + ":function:" + name
}

// function finds a function by its name or its ARN. A name is always one of the caller's account; functions of other accounts allow nobody
// (https://docs.aws.amazon.com/lambda/latest/dg/access-control-resource-based.html).
func (a *account) function(r request, permission string) (name string, invoke Invoker, failure *apiError) {
	given := r.params.Get("FunctionName")
	if inAccount, is := strings.CutPrefix(given, functionARN("")); is {
		given = inAccount
	} else if strings.HasPrefix(given, "arn:") {
		return "", nil, refused(http.StatusForbidden, "AccessDeniedException",
			"User: "+r.sess.assumedRoleARN()+" is not authorized to perform: lambda:"+permission+" on resource: "+given)
	}
	name, alias, _ := strings.Cut(given, ":")
	if invoke = a.functions[name]; invoke == nil {
		arn := functionARN(name)
		if alias != "" {
			arn += ":" + alias
		}
		return "", nil, refused(http.StatusNotFound, "ResourceNotFoundException", "Function not found: "+arn)
	}
	return name, invoke, nil
}

// invokeFunction invokes a function and waits for its answer (Invoke, Lambda API reference).
func invokeFunction(a *account, r request) (any, *apiError) {
	_, invoke, failure := a.function(r, "InvokeFunction")
	if failure != nil {
		return nil, failure
	}
	if kind := r.params.Get("InvocationType"); kind != "" && kind != "RequestResponse" {
		return nil, refused(http.StatusBadRequest, "InvalidParameterValueException", kind+" is not modeled by awstest")
	}
	return unlocked(func(ctx context.Context) (any, *apiError) {
		answer, functionError, err := invoke(ctx, r.body)
		if err != nil {
			return nil, refused(http.StatusInternalServerError, "ServiceException", err.Error())
		}
		return invocationAnswer{answer, functionError}, nil
	}), nil
}

func describeFunction(a *account, r request) (any, *apiError) {
	name, _, failure := a.function(r, "GetFunctionConfiguration")
	if failure != nil {
		return nil, failure
	}
	n := a.networks[name]
	return map[string]any{
		"FunctionName": name, "State": "Active", "LastUpdateStatus": "Successful", "Environment": map[string]any{"Variables": a.variables[name]},
		"VpcConfig": map[string]any{"VpcId": n.VPC, "SubnetIds": n.Subnets, "SecurityGroupIds": n.SecurityGroups},
	}, nil
}

// getConcurrency answers without a number if there is none (GetFunctionConcurrency, Lambda API reference).
func getConcurrency(a *account, r request) (any, *apiError) {
	name, _, failure := a.function(r, "GetFunctionConcurrency")
	if failure != nil {
		return nil, failure
	}
	answer := map[string]any{}
	if n, has := a.reserved[name]; has {
		answer["ReservedConcurrentExecutions"] = n
	}
	return answer, nil
}

// listMappings lists the mappings of exactly this function, with its alias (ListEventSourceMappings, Lambda API reference).
func listMappings(a *account, r request) (any, *apiError) {
	function, found := r.params.Get("FunctionName"), []map[string]string{}
	if state, has := a.mappings[function]; has {
		found = append(found, map[string]string{"FunctionArn": functionARN(function), "State": state})
	}
	return map[string]any{"EventSourceMappings": found}, nil
}

// restFunctions is the protocol of Lambda: method and path select the action (smithy.io, "AWS restJson1 protocol").
type restFunctions struct{ restJSON }

func (restFunctions) read(r *http.Request, _ []byte) (string, url.Values) {
	if name, ok := strings.CutPrefix(r.URL.Path, "/2019-09-30/functions/"); ok && r.Method == http.MethodGet {
		if name, ok = strings.CutSuffix(name, "/concurrency"); ok {
			return "GetFunctionConcurrency", url.Values{"FunctionName": {name}}
		}
	}
	if strings.TrimSuffix(r.URL.Path, "/") == "/2015-03-31/event-source-mappings" && r.Method == http.MethodGet {
		return "ListEventSourceMappings", r.URL.Query()
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/2015-03-31/functions/")
	name, part, _ := strings.Cut(rest, "/")
	params := url.Values{"FunctionName": {name}, "InvocationType": {r.Header.Get("X-Amz-Invocation-Type")}}
	switch {
	case ok && r.Method == http.MethodPost && part == "invocations":
		return "Invoke", params
	case ok && r.Method == http.MethodGet && part == "configuration":
		return "GetFunctionConfiguration", params
	}
	return r.Method + " " + r.URL.Path, nil
}

func (p restFunctions) answer(name string, result any) reply {
	invoked, ok := result.(invocationAnswer)
	if !ok {
		return p.restJSON.answer(name, result)
	}
	out := reply{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}, body: invoked.payload}
	if invoked.failure != "" {
		out.header.Set("X-Amz-Function-Error", invoked.failure)
	}
	return out
}

package runtimeapi

const (
	functionName = "quiesce"
	functionARN  = "arn:aws:lambda:eu-west-1:111122223333:function:" + functionName
)

// environment returns the variables that Lambda sets (developer guide, "Defined runtime environment variables"), overridden by
// those of the options, except the address of the runtime API.
func (o Options) environment(address string) []string {
	env := []string{
		"AWS_LAMBDA_FUNCTION_NAME=" + functionName,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_FORMAT=JSON",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + functionName,
		"AWS_LAMBDA_LOG_STREAM_NAME=[$LATEST]" + functionName,
		"LAMBDA_TASK_ROOT=" + o.TaskRoot,
		"_HANDLER=bootstrap",
		"TZ=:UTC",
	}
	return append(append(env, o.Env...), "AWS_LAMBDA_RUNTIME_API="+address)
}

package config

// What the stack and the function that puts and removes hooks must agree on.
const (
	// HooksHandler is the handler of that function. It has the same zip as the function that drains, and Lambda's variable _HANDLER says
	// which of the two it is.
	HooksHandler = "hooks"
	// HookProperty is the property of the custom resource with the name of the hook. After an update, CloudFormation repeats the former one.
	HookProperty = "Hook"
)

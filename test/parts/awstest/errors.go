package awstest

import (
	"fmt"
	"net/http"
)

// apiError is an error response. Each protocol encodes it in its own way.
type apiError struct {
	status        int
	code, message string
}

var errUnknownToken = refused(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")

func refused(status int, code, message string) *apiError { return &apiError{status, code, message} }

// invalid returns the error code that Auto Scaling uses for nearly everything. Only the message tells the cases apart.
func invalid(format string, args ...any) *apiError {
	return refused(http.StatusBadRequest, "ValidationError", fmt.Sprintf(format, args...))
}

// fault returns who caused the error, for the Query protocol.
func (e *apiError) fault() string {
	if e.status >= http.StatusInternalServerError {
		return "Receiver"
	}
	return "Sender"
}

package awstest

import (
	"fmt"
	"net/http"
)

// apiError is a refusal: each protocol spells it in its own way.
type apiError struct {
	status        int
	code, message string
}

var errUnknownToken = refused(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")

func refused(status int, code, message string) *apiError { return &apiError{status, code, message} }

// invalid is the error that Auto Scaling gives for nearly everything; only its words tell the cases apart.
func invalid(format string, args ...any) *apiError {
	return refused(http.StatusBadRequest, "ValidationError", fmt.Sprintf(format, args...))
}

// fault tells whose mistake the error is, as the Query protocol wants to know.
func (e *apiError) fault() string {
	if e.status >= http.StatusInternalServerError {
		return "Receiver"
	}
	return "Sender"
}

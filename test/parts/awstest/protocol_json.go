package awstest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// jsonRPC is the protocol of services that take JSON at one address and name the action in a header (smithy.io, "AWS JSON 1.0
// protocol" and "1.1").
type jsonRPC struct{ version string }

// read returns the top-level members as parameters. Members other than strings stay JSON.
func (jsonRPC) read(r *http.Request, body []byte) (string, url.Values) {
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	members, params := map[string]json.RawMessage{}, url.Values{}
	_ = json.Unmarshal(body, &members) // an invalid body has no parameters, and is rejected for that
	for name, value := range members {
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		params.Set(name, text)
	}
	return action, params
}

func (p jsonRPC) answer(_ string, result any) reply { return p.reply(http.StatusOK, result) }

func (p jsonRPC) refuse(e *apiError) reply {
	return p.reply(e.status, map[string]string{"__type": e.code, "message": e.message})
}

func (p jsonRPC) reply(status int, v any) reply {
	out := jsonReply(status, v)
	out.header.Set("Content-Type", "application/x-amz-json-"+p.version)
	return out
}

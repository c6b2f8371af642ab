package awstest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
)

// queryXML is the AWS Query protocol: form in, XML out (smithy.io, "AWS Query protocol").
type queryXML struct{ namespace string }

func (queryXML) read(r *http.Request, body []byte) (string, url.Values) { return readForm(r, body) }

func (p queryXML) answer(action string, result any) reply {
	return xmlReply(http.StatusOK, element(action+"Response", p.namespace), queryResult{action, result})
}

func (p queryXML) refuse(e *apiError) reply {
	return xmlReply(e.status, element("ErrorResponse", p.namespace), struct {
		Error     errorBody
		RequestID string `xml:"RequestId"`
	}{e.body(), newUUID()})
}

// queryResult wraps a result in elements named after its action.
type queryResult struct {
	action string
	result any
}

// MarshalXML writes the result, followed by the metadata.
func (q queryResult) MarshalXML(e *xml.Encoder, root xml.StartElement) error {
	if err := e.EncodeToken(root); err != nil {
		return err
	}
	if err := e.EncodeElement(q.result, element(q.action+"Result", "")); err != nil {
		return err
	}
	if err := e.EncodeElement(requestID{newUUID()}, element("ResponseMetadata", "")); err != nil {
		return err
	}
	return e.EncodeToken(root.End())
}

// ec2XML is EC2's variant of the Query protocol: without a result element, and with another envelope for errors.
type ec2XML struct{ namespace string }

func (ec2XML) read(r *http.Request, body []byte) (string, url.Values) { return readForm(r, body) }

func (p ec2XML) answer(action string, result any) reply {
	return xmlReply(http.StatusOK, element(action+"Response", p.namespace), result)
}

func (ec2XML) refuse(e *apiError) reply {
	return xmlReply(e.status, element("Response", ""), struct {
		Error     errorBody `xml:"Errors>Error"`
		RequestID string
	}{e.body(), newUUID()})
}

// queryJSON is the Query protocol with answers in JSON, for clients of STS that accept only JSON.
type queryJSON struct{}

func (queryJSON) read(r *http.Request, body []byte) (string, url.Values) { return readForm(r, body) }

func (queryJSON) answer(action string, result any) reply {
	return jsonReply(http.StatusOK, map[string]any{action + "Response": map[string]any{
		action + "Result":  result,
		"ResponseMetadata": requestID{newUUID()},
	}})
}

func (queryJSON) refuse(e *apiError) reply {
	return jsonReply(e.status, map[string]any{
		"Error":     e.body(),
		"RequestId": newUUID(),
	})
}

type requestID struct {
	RequestID string `xml:"RequestId" json:"RequestId"`
}

// errorBody is an error in all variants of the Query protocol.
type errorBody struct{ Type, Code, Message string }

func (e *apiError) body() errorBody { return errorBody{e.fault(), e.code, e.message} }

// readForm reads parameters from the URL and the body.
func readForm(r *http.Request, body []byte) (string, url.Values) {
	params := r.URL.Query()
	form, _ := url.ParseQuery(string(body)) // an invalid body has no action, and is rejected for that
	for name, values := range form {
		params[name] = append(params[name], values...)
	}
	return params.Get("Action"), params
}

// members reads a list of the Query protocol: Names.member.1, Names.member.2.
func members(params url.Values, list string) []string {
	var values []string
	for i := 1; params.Has(fmt.Sprintf("%s.%d", list, i)); i++ {
		values = append(values, params.Get(fmt.Sprintf("%s.%d", list, i)))
	}
	return values
}

func element(name, namespace string) xml.StartElement {
	return xml.StartElement{Name: xml.Name{Space: namespace, Local: name}}
}

// xmlReply panics if a result cannot be encoded: all result types belong to this package.
func xmlReply(status int, root xml.StartElement, v any) reply {
	var out bytes.Buffer
	must(xml.NewEncoder(&out).EncodeElement(v, root))
	return reply{status, http.Header{"Content-Type": {"text/xml"}}, out.Bytes()}
}

func jsonReply(status int, v any) reply {
	out, err := json.Marshal(v)
	must(err)
	return reply{status, http.Header{"Content-Type": {"application/json"}}, out}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

package awstest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// receiver keeps the body of a request as net/http would get it.
type receiver struct{ body io.ReadCloser }

func (r *receiver) Do(request *http.Request) (*http.Response, error) {
	r.body = request.Body
	return &http.Response{Body: http.NoBody}, nil
}

// With WriteTo, the SDK repeats one in ten requests whose answer is large, and a test that counts requests fails now and then.
func TestPlainBodies_Body_HasNoWriteTo(t *testing.T) {
	var got receiver
	request, err := http.NewRequest(http.MethodPost, "http://aws", io.NopCloser(strings.NewReader("Action=DescribeAutoScalingGroups")))
	require.NoError(t, err)
	require.Implements(t, (*io.WriterTo)(nil), request.Body)
	_, err = plainBodies{&got}.Do(request)
	require.NoError(t, err)
	require.NotImplements(t, (*io.WriterTo)(nil), got.body)
	text, err := io.ReadAll(got.body)
	require.NoError(t, err)
	require.Equal(t, "Action=DescribeAutoScalingGroups", string(text))
}

func TestServe_Client_HasPlainBodies(t *testing.T) {
	_, settings := Serve(t)
	require.IsType(t, plainBodies{}, settings.HTTPClient)
}

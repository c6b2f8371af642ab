package eks

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"sigs.k8s.io/aws-iam-authenticator/pkg/token"
)

// renewBefore is how long before its end a token is no longer used for new requests: longer than any request takes to reach
// the server, short against the 14 minutes that a token is good for.
const renewBefore = 4 * time.Minute

// signer makes tokens: a token is a presigned request for the caller's identity, which the server sends to STS
// (https://github.com/kubernetes-sigs/aws-iam-authenticator#how-does-it-work). Nothing is sent to make one.
type signer struct {
	cluster   string
	generator token.Generator
	client    *sts.Client

	mu      sync.Mutex
	current token.Token
}

// newSigner takes region and credentials from the configuration, and nothing else. A configured endpoint above all must not
// come in: the token names the host that the server is to ask, and it asks AWS's own only.
func newSigner(cluster string, from aws.Config) (*signer, error) {
	generator, err := token.NewGenerator(false, false)
	if err != nil {
		return nil, fmt.Errorf("make a token generator: %w", err)
	}
	client := sts.NewFromConfig(aws.Config{Region: from.Region, Credentials: from.Credentials})
	return &signer{cluster: cluster, generator: generator, client: client}, nil
}

// token is the current one, renewed in time.
func (s *signer) token() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Until(s.current.Expiration) > renewBefore {
		return s.current.Token, nil
	}
	fresh, err := s.generator.GetWithSTS(s.cluster, s.client)
	if err != nil {
		return "", fmt.Errorf("sign a token for cluster %s: %w", s.cluster, err)
	}
	s.current = fresh
	return fresh.Token, nil
}

// refused forgets a token that the server did not take, unless another has replaced it already.
func (s *signer) refused(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.Token == text {
		s.current = token.Token{}
	}
}

// transport authenticates each request with the current token, so that a drain may outlive any of them.
type transport struct {
	signer *signer
	next   http.RoundTripper
}

// RoundTrip repeats a refused request once, with a fresh token: the old one may have ended early with the session that
// signed it.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, used, err := t.send(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	t.signer.refused(used)
	again, ok := rewind(request)
	if !ok {
		return response, nil
	}
	response.Body.Close()
	response, _, err = t.send(again)
	return response, err
}

func (t *transport) send(request *http.Request) (response *http.Response, used string, err error) {
	used, err = t.signer.token()
	if err != nil {
		return nil, "", err
	}
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+used)
	response, err = t.next.RoundTrip(request)
	return response, used, err
}

// rewind makes a request that can be sent once more; it cannot if its body is gone.
func rewind(request *http.Request) (*http.Request, bool) {
	again := request.Clone(request.Context())
	if request.Body == nil || request.Body == http.NoBody {
		return again, true
	}
	if request.GetBody == nil {
		return nil, false
	}
	body, err := request.GetBody()
	again.Body = body
	return again, err == nil
}

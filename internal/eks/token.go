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

// renewBefore is the remaining validity below which a token is replaced. It is longer than any request takes to reach the
// server, and short compared with a token's validity of 14 minutes.
const renewBefore = 4 * time.Minute

// signer creates tokens. A token is a presigned request for the caller's identity, which the server sends to STS
// (https://github.com/kubernetes-sigs/aws-iam-authenticator#how-does-it-work). Creating one needs no request.
type signer struct {
	cluster   string
	generator token.Generator
	client    *sts.Client

	mu      sync.Mutex
	current token.Token
}

// newSigner uses only the region and the credentials of the configuration. A configured endpoint must not have an effect: the
// token names the host that the server will ask, and the server asks only AWS's own.
func newSigner(cluster string, from aws.Config) (*signer, error) {
	generator, err := token.NewGenerator(false, false)
	if err != nil {
		return nil, fmt.Errorf("create a token generator: %w", err)
	}
	client := sts.NewFromConfig(aws.Config{Region: from.Region, Credentials: from.Credentials})
	return &signer{cluster: cluster, generator: generator, client: client}, nil
}

// token returns the current token. It creates a new one shortly before the current one expires.
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

// forget drops a token that the server refused, unless another has already replaced it.
func (s *signer) forget(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.Token == text {
		s.current = token.Token{}
	}
}

// transport authenticates each request with the current token, so that a drain can outlive a token.
type transport struct {
	signer *signer
	next   http.RoundTripper
}

// RoundTrip retries a refused request once, with a new token: the old one may have expired early, together with the session
// that signed it.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, used, err := t.send(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	t.signer.forget(used)
	again, ok := rewind(request)
	if !ok {
		return response, nil
	}
	response.Body.Close()
	response, _, err = t.send(again)
	return response, err
}

func (t *transport) send(request *http.Request) (response *http.Response, used string, err error) {
	if request.URL.Scheme != "https" { // after a redirect, for example
		return nil, "", fmt.Errorf("no token is sent to %s without TLS", request.URL.Host)
	}
	used, err = t.signer.token()
	if err != nil {
		return nil, "", err
	}
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+used)
	response, err = t.next.RoundTrip(request)
	return response, used, err
}

// rewind returns a copy of the request to send again, and reports whether its body can be read again.
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

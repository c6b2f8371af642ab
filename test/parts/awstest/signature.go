package awstest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	signatureDate = "20060102T150405Z"

	// signedFor is how long a signature is valid. AWS allows 5 minutes for signed requests and 15 for the presigned
	// GetCallerIdentity of an EKS token, whatever its X-Amz-Expires says.
	signedFor    = 5 * time.Minute
	presignedFor = 15 * time.Minute
	// clockSkew is how far the signer's clock may be ahead of ours.
	clockSkew = 5 * time.Minute
)

// signature is the signature of a request, in a header or in the query (Signature Version 4, IAM user guide).
type signature struct {
	presigned          bool
	keyID, day, region string
	service            string
	date, token        string
	signedHeaders      []string
	value              string
}

// readSignature returns the signature of a request, and whether there is a complete one.
func readSignature(r *http.Request) (signature, bool) {
	fields, presigned := headerFields(r), false
	if fields["Credential"] == "" {
		fields, presigned = queryFields(r.URL.Query()), true
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || fields["Signature"] == "" {
		return signature{}, false
	}
	return signature{
		presigned: presigned,
		keyID:     scope[0], day: scope[1], region: scope[2], service: scope[3],
		date: fields["Date"], token: fields["Token"],
		signedHeaders: strings.Split(fields["SignedHeaders"], ";"),
		value:         fields["Signature"],
	}, true
}

func headerFields(r *http.Request) map[string]string {
	fields := map[string]string{"Date": r.Header.Get("X-Amz-Date"), "Token": r.Header.Get("X-Amz-Security-Token")}
	list, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return fields
	}
	for part := range strings.SplitSeq(list, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	return fields
}

func queryFields(q url.Values) map[string]string {
	return map[string]string{
		"Credential":    q.Get("X-Amz-Credential"),
		"SignedHeaders": q.Get("X-Amz-SignedHeaders"),
		"Signature":     q.Get("X-Amz-Signature"),
		"Date":          q.Get("X-Amz-Date"),
		"Token":         q.Get("X-Amz-Security-Token"),
	}
}

// check verifies that the session signed this request, and not too long ago.
func (g signature) check(r *http.Request, body []byte, sess Session) *apiError {
	if g.token != sess.Token {
		return errUnknownToken
	}
	at, err := time.Parse(signatureDate, g.date)
	if err != nil {
		return refused(http.StatusForbidden, "IncompleteSignature", "Date must be in ISO-8601 'basic format'")
	}
	if !g.fresh(at) {
		return refused(http.StatusForbidden, "SignatureDoesNotMatch", "Signature expired or not yet current: "+g.date)
	}
	want, err := g.recompute(r, body, sess, at)
	if err != nil || !hmac.Equal([]byte(want.value), []byte(g.value)) || want.day != g.day || want.region != g.region {
		return refused(http.StatusForbidden, "SignatureDoesNotMatch",
			"The request signature we calculated does not match the signature you provided.")
	}
	return nil
}

func (g signature) fresh(at time.Time) bool {
	good := signedFor
	if g.presigned {
		good = presignedFor
	}
	age := time.Since(at)
	return age < good && age > -clockSkew
}

// recompute signs the request again, with exactly the headers that the signer names.
func (g signature) recompute(r *http.Request, body []byte, sess Session, at time.Time) (signature, error) {
	again := g.unsigned(r)
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	creds := aws.Credentials{AccessKeyID: sess.AccessKeyID, SecretAccessKey: sess.SecretAccessKey, SessionToken: sess.Token}
	var err error
	if g.presigned {
		var signed string
		signed, _, err = v4.NewSigner().PresignHTTP(r.Context(), creds, again, hash, g.service, Region, at)
		if err == nil {
			again.URL, err = url.Parse(signed)
		}
	} else {
		err = v4.NewSigner(g.asWritten).SignHTTP(r.Context(), creds, again, hash, g.service, Region, at)
	}
	want, _ := readSignature(again)
	return want, err
}

// asWritten makes the signer not escape the path again, which only S3 requires.
func (g signature) asWritten(o *v4.SignerOptions) { o.DisableURIPathEscaping = g.service == "s3" }

// unsigned copies the parts of the request that the signature covers.
func (g signature) unsigned(r *http.Request) *http.Request {
	u := *r.URL
	u.Host = r.Host
	q := u.Query()
	q.Del("X-Amz-Signature")
	u.RawQuery = q.Encode()
	again := (&http.Request{Method: r.Method, URL: &u, Host: r.Host, Header: http.Header{}}).WithContext(context.WithoutCancel(r.Context()))
	for _, name := range g.signedHeaders {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	return again
}

// covers reports whether the signature covers a header.
func (g signature) covers(header string) bool {
	for _, name := range g.signedHeaders {
		if strings.EqualFold(name, header) {
			return true
		}
	}
	return false
}

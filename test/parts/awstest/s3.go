package awstest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// contentHash is the header with the hash of the signed body
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
const contentHash = "X-Amz-Content-Sha256"

// AddBucket makes an S3 bucket.
func (s *Server) AddBucket(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.buckets[name] = map[string][]byte{}
}

// Objects returns the contents of a bucket, by key.
func (s *Server) Objects(bucket string) map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.account.buckets[bucket])
}

var objectActions = map[string]action{"PutObject": putObject, "GetObject": getObject, "ListObjectsV2": listObjects}

var errNoBucket = refused(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")

func getObject(a *account, r request) (any, *apiError) {
	bucket, known := a.buckets[r.params.Get("Bucket")]
	if !known {
		return nil, errNoBucket
	}
	object, known := bucket[r.params.Get("Key")]
	if !known {
		return nil, refused(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	}
	return object, nil
}

// maxKeys is how many keys one answer has
// (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html).
const maxKeys = 1000

// objectList is a page of keys, in their order.
type objectList struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Contents              []struct{ Key string }
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
}

// listObjects lists a bucket in pages. The token of a page is the last key of the page before it.
func listObjects(a *account, r request) (any, *apiError) {
	bucket, known := a.buckets[r.params.Get("Bucket")]
	if !known {
		return nil, errNoBucket
	}
	var page objectList
	for _, key := range slices.Sorted(maps.Keys(bucket)) {
		if !strings.HasPrefix(key, r.params.Get("Prefix")) || key <= r.params.Get("ContinuationToken") {
			continue
		}
		if len(page.Contents) == maxKeys {
			page.IsTruncated, page.NextContinuationToken = true, page.Contents[maxKeys-1].Key
			break
		}
		page.Contents = append(page.Contents, struct{ Key string }{key})
	}
	return page, nil
}

// putObject replaces an object of the same key, unless the request has If-None-Match
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
func putObject(a *account, r request) (any, *apiError) {
	bucket, known := a.buckets[r.params.Get("Bucket")]
	if !known {
		return nil, errNoBucket
	}
	sum := sha256.Sum256(r.body)
	if r.params.Get(contentHash) != hex.EncodeToString(sum[:]) {
		return nil, refused(http.StatusBadRequest, "XAmzContentSHA256Mismatch",
			"The provided 'x-amz-content-sha256' header does not match what was computed.")
	}
	key := r.params.Get("Key")
	if _, exists := bucket[key]; exists && r.params.Get("IfNoneMatch") == "*" {
		return nil, refused(http.StatusPreconditionFailed, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
	}
	bucket[key] = r.body
	return nil, nil
}

// restXML is the protocol of S3: the method selects the action, and the path names the object (smithy.io, "AWS restXml
// protocol"). The path also names the bucket, since every test has only one host name.
type restXML struct{}

func (restXML) read(r *http.Request, _ []byte) (string, url.Values) {
	bucket, key, isObject := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && key == "" && query.Get("list-type") == "2":
		return "ListObjectsV2", url.Values{"Bucket": {bucket}, "Prefix": {query.Get("prefix")}, "ContinuationToken": {query.Get("continuation-token")}}
	case r.Method == http.MethodGet && key != "":
		return "GetObject", url.Values{"Bucket": {bucket}, "Key": {key}}
	case r.Method != http.MethodPut || !isObject || key == "":
		return r.Method + " " + r.URL.Path, nil
	}
	return "PutObject", url.Values{
		"Bucket": {bucket}, "Key": {key}, "ContentType": {r.Header.Get("Content-Type")}, contentHash: {r.Header.Get(contentHash)},
		"IfNoneMatch": {r.Header.Get("If-None-Match")},
	}
}

func (restXML) answer(_ string, result any) reply {
	switch result := result.(type) {
	case []byte: // an object
		return reply{status: http.StatusOK, header: http.Header{}, body: result}
	case nil:
		return reply{status: http.StatusOK, header: http.Header{}}
	}
	body, err := xml.Marshal(result)
	if err != nil {
		return reply{status: http.StatusInternalServerError, header: http.Header{}}
	}
	return reply{status: http.StatusOK, header: http.Header{"Content-Type": {"application/xml"}}, body: body}
}

func (restXML) refuse(e *apiError) reply {
	body, _ := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: e.code, Message: e.message})
	return reply{status: e.status, header: http.Header{"Content-Type": {"application/xml"}}, body: body}
}

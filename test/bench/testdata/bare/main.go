// Command bare is a function that only does what must come one after the other before the first eviction: it believes nothing, reads all
// that it needs at once, and writes in the promised order. It has no libraries but a signer, keeps nothing alive and repeats nothing.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

var (
	region      = os.Getenv("AWS_REGION")
	credentials = aws.Credentials{
		AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
	}
	signer = v4.NewSigner()
)

func main() {
	runtime := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		response, err := http.Get(runtime + "next")
		check(err)
		var event struct {
			Detail struct {
				EC2InstanceID string `json:"EC2InstanceId"`
			}
		}
		check(json.NewDecoder(response.Body).Decode(&event))
		_ = response.Body.Close()
		drain(event.Detail.EC2InstanceID)
		response, err = http.Post(runtime+response.Header.Get("Lambda-Runtime-Aws-Request-Id")+"/response", "application/json", bytes.NewReader([]byte("{}")))
		check(err)
		_ = response.Body.Close()
	}
}

// drain verifies the event, and evicts the first pod.
func drain(instance string) {
	state, name := make(chan string, 1), make(chan string, 1)
	go func() {
		state <- find(`<LifecycleState>(.*?)</`, query("autoscaling", "AUTO_SCALING", url.Values{
			"Action": {"DescribeAutoScalingInstances"}, "Version": {"2011-01-01"}, "InstanceIds.member.1": {instance},
		}))
	}()
	go func() {
		name <- find(`<privateDnsName>(.*?)</`, query("ec2", "EC2", url.Values{
			"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}, "Filter.1.Name": {"instance-id"}, "Filter.1.Value.1": {instance},
		}))
	}()
	c := connect()
	go c.send(http.MethodGet, "/version", "", nil) // opens the connection
	if got := <-state; got != "Terminating:Wait" {
		check(fmt.Errorf("%s is %s", instance, got))
	}
	node := <-name
	lease, found, pods := object{}, object{}, object{}
	var together sync.WaitGroup
	together.Go(func() {
		lease = c.send(http.MethodPost, leases, "application/json", object{"metadata": object{"name": instance}, "spec": object{
			"holderIdentity": "bare", "leaseDurationSeconds": 30, "renewTime": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
		}})
	})
	together.Go(func() { found = c.send(http.MethodGet, "/api/v1/nodes/"+node, "", nil) })
	together.Go(func() { pods = c.send(http.MethodGet, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+node, "", nil) })
	together.Wait()
	lease["metadata"].(object)["annotations"] = object{"quiesce/closed." + found["metadata"].(object)["uid"].(string): "{}"}
	c.send(http.MethodPut, leases+"/"+instance, "application/json", lease)
	c.send(http.MethodPatch, "/api/v1/nodes/"+node, "application/merge-patch+json", object{
		"metadata": object{
			"resourceVersion": found["metadata"].(object)["resourceVersion"],
			"labels":          object{"node.kubernetes.io/exclude-from-external-load-balancers": "quiesce"},
		},
		"spec": object{"unschedulable": true},
	})
	pod := pods["items"].([]any)[0].(object)["metadata"].(object)
	c.send(http.MethodPost, fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", pod["namespace"], pod["name"]), "application/json", object{
		"apiVersion": "policy/v1", "kind": "Eviction", "metadata": object{"namespace": pod["namespace"], "name": pod["name"]},
		"deleteOptions": object{"preconditions": object{"uid": pod["uid"]}},
	})
}

type object = map[string]any

const leases = "/apis/coordination.k8s.io/v1/namespaces/quiesce/leases"

// query sends a request of AWS's query protocol.
func query(service, variable string, form url.Values) []byte {
	return call(service, os.Getenv("AWS_ENDPOINT_URL_"+variable), http.MethodPost, "/", []byte(form.Encode()))
}

func call(service, endpoint, method, path string, body []byte) []byte {
	request, err := http.NewRequest(method, endpoint+path, bytes.NewReader(body))
	check(err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	hash := sha256.Sum256(body)
	check(signer.SignHTTP(context.Background(), credentials, request, hex.EncodeToString(hash[:]), service, region, time.Now()))
	response, err := http.DefaultClient.Do(request)
	check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode != http.StatusOK {
		check(fmt.Errorf("%s: %s", service, text))
	}
	return text
}

func find(pattern string, text []byte) string {
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		check(fmt.Errorf("no %s in %s", pattern, text))
	}
	return string(found[1])
}

// cluster is the API server.
type cluster struct {
	endpoint, token string
	client          *http.Client
}

func connect() cluster {
	var answer struct {
		Cluster struct {
			Endpoint             string
			CertificateAuthority struct{ Data []byte }
		}
	}
	check(json.Unmarshal(call("eks", os.Getenv("AWS_ENDPOINT_URL_EKS"), http.MethodGet, "/clusters/"+os.Getenv("CLUSTER_NAME"), nil), &answer))
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(answer.Cluster.CertificateAuthority.Data)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}, ForceAttemptHTTP2: true}
	return cluster{answer.Cluster.Endpoint, token(), &http.Client{Transport: transport}}
}

func token() string {
	request, err := http.NewRequest(http.MethodGet, "https://sts."+region+".amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", nil)
	check(err)
	request.Header.Set("x-k8s-aws-id", os.Getenv("CLUSTER_NAME"))
	empty := sha256.Sum256(nil)
	signed, _, err := signer.PresignHTTP(context.Background(), credentials, request, hex.EncodeToString(empty[:]), "sts", region, time.Now())
	check(err)
	return "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte(signed))
}

func (c cluster) send(method, path, contentType string, body object) (answer object) {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		check(err)
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequest(method, c.endpoint+path, reader)
	check(err)
	request.Header.Set("Authorization", "Bearer "+c.token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := c.client.Do(request)
	check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode >= http.StatusBadRequest {
		check(fmt.Errorf("%s %s: %s", method, path, text))
	}
	check(json.Unmarshal(text, &answer))
	return answer
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

package awstest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Staging labels of a secret's versions:
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html#term_version.
const (
	StageCurrent  = "AWSCURRENT"
	StagePending  = "AWSPENDING"
	StagePrevious = "AWSPREVIOUS"
)

// secretSuffix follows a secret's name in its ARN. In AWS it is random.
const secretSuffix = "-a1b2c3"

type secret struct {
	arn, name string
	versions  map[string]secretVersion // by stage
}

type secretVersion struct {
	id, text string
	created  time.Time
}

// AddSecret adds or replaces a secret, with its versions by staging label. It can be read by its name or by the returned ARN. If
// the name is an ARN, that is the secret's ARN.
func (s *Server) AddSecret(nameOrARN string, texts map[string]string) (arn string) {
	added := &secret{arn: secretARN(nameOrARN), name: secretName(nameOrARN), versions: map[string]secretVersion{}}
	for stage, text := range texts {
		added.versions[stage] = secretVersion{newUUID(), text, time.Now()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.secrets = slices.DeleteFunc(s.account.secrets, func(old *secret) bool { return old.arn == added.arn })
	s.account.secrets = append(s.account.secrets, added)
	return added.arn
}

// RotateSecret completes a rotation: the pending version becomes current, and the current one previous.
func (s *Server) RotateSecret(nameOrARN string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.account.secret(nameOrARN)
	if found == nil {
		panic("awstest: no secret " + nameOrARN)
	}
	pending, ok := found.versions[StagePending]
	if !ok {
		panic("awstest: nothing is pending of secret " + nameOrARN)
	}
	found.versions[StagePrevious] = found.versions[StageCurrent]
	found.versions[StageCurrent] = pending
	delete(found.versions, StagePending)
}

func secretARN(nameOrARN string) string {
	if strings.HasPrefix(nameOrARN, "arn:") {
		return nameOrARN
	}
	return "arn:aws:secretsmanager:" + Region + ":" + Account + ":secret:" + nameOrARN + secretSuffix
}

func secretName(nameOrARN string) string {
	name := nameOrARN[strings.LastIndex(nameOrARN, ":")+1:]
	return strings.TrimSuffix(name, secretSuffix)
}

func (a *account) secret(nameOrARN string) *secret {
	if i := slices.IndexFunc(a.secrets, func(s *secret) bool { return nameOrARN == s.arn || nameOrARN == s.name }); i >= 0 {
		return a.secrets[i]
	}
	return nil
}

var secretActions = map[string]action{"GetSecretValue": getSecretValue}

type secretJSON struct {
	ARN           string
	Name          string
	SecretString  string
	VersionID     string `json:"VersionId"`
	VersionStages []string
	CreatedDate   float64 // seconds since 1970
}

func getSecretValue(a *account, r request) (any, *apiError) {
	if r.params.Has("VersionId") {
		return nil, refused(http.StatusBadRequest, "InvalidParameterException", "VersionId is not modeled by awstest")
	}
	found := a.secret(r.params.Get("SecretId"))
	if found == nil {
		return nil, notFound("Secrets Manager can't find the specified secret.")
	}
	stage := StageCurrent
	if r.params.Has("VersionStage") {
		stage = r.params.Get("VersionStage")
	}
	version, ok := found.versions[stage]
	if !ok {
		return nil, notFound("Secrets Manager can't find the specified secret value for staging label: " + stage)
	}
	return secretJSON{
		found.arn, found.name, version.text, version.id, []string{stage}, float64(version.created.UnixMilli()) / 1000,
	}, nil
}

func notFound(message string) *apiError {
	return refused(http.StatusBadRequest, "ResourceNotFoundException", message)
}

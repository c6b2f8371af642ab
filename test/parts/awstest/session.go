package awstest

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
)

const (
	roleName   = "quiesce"
	roleUserID = "AROAEXAMPLEQUIESCE000" // the role's name in STS; the session's name follows a colon

	// sessionTokenBytes makes tokens as long as those of a Lambda function, since an EKS token must hold one.
	sessionTokenBytes = 660
)

// Session is an assumed role session with its own credentials, as each function process has.
type Session struct {
	RoleARN, Name                       string
	AccessKeyID, SecretAccessKey, Token string
}

// RoleARN returns the role that all sessions have assumed.
func (s *Server) RoleARN() string { return "arn:aws:iam::" + Account + ":role/" + roleName }

// Session creates a session. Two sessions may have the same name; their credentials differ.
func (s *Server) Session(name string) Session {
	sess := Session{
		RoleARN:         s.RoleARN(),
		Name:            name,
		AccessKeyID:     "ASIA" + rand.Text()[:16],
		SecretAccessKey: rand.Text() + rand.Text()[:14],
		Token:           base64.StdEncoding.EncodeToString(randomBytes(sessionTokenBytes)),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[sess.AccessKeyID] = sess
	return sess
}

// Environment returns the variables that make an AWS SDK act as the session, with this server only. It has no endpoint for STS:
// an EKS token must name the real one, for which the proxy answers.
func (s *Server) Environment(sess Session) []string {
	env := []string{
		"AWS_REGION=" + Region,
		"AWS_ACCESS_KEY_ID=" + sess.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + sess.SecretAccessKey,
		"AWS_SESSION_TOKEN=" + sess.Token,
		"AWS_EC2_METADATA_DISABLED=true",
		// The settings of the person who runs the tests must not reach the function.
		"AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	for _, name := range []string{"AUTO_SCALING", "EC2", "EKS", "SQS", "SECRETS_MANAGER", "S3", "LAMBDA", "CLOUDWATCH_LOGS", "SNS"} {
		env = append(env, "AWS_ENDPOINT_URL_"+name+"="+s.URL())
	}
	return env
}

// assumedRoleARN returns the caller's ARN in STS: the session, not the role.
func (sess Session) assumedRoleARN() string {
	return fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", Account, roleName, sess.Name)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	return b
}

// newUUID makes a version 4 UUID, the form of lifecycle action tokens and event IDs.
func newUUID() string {
	b := randomBytes(16)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

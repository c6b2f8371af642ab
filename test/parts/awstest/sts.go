package awstest

// stsServices is what the proxy leads to: STS as EKS asks it, in JSON. The signature must bind the request to a cluster, or
// a token for one would be good for all (EKS user guide; aws-iam-authenticator, "API Authorization from Outside a Cluster").
var stsServices = map[string]service{"sts": {queryJSON{}, stsActions, "x-k8s-aws-id"}}

var stsActions = map[string]action{"GetCallerIdentity": getCallerIdentity}

type callerIdentity struct {
	ARN     string `xml:"Arn" json:"Arn"`
	UserID  string `xml:"UserId" json:"UserId"`
	Account string
}

func getCallerIdentity(_ *account, r request) (any, *apiError) {
	return callerIdentity{ARN: r.sess.assumedRoleARN(), UserID: roleUserID + ":" + r.sess.Name, Account: Account}, nil
}

package awstest

// stsServices are behind the proxy: STS in JSON, as EKS uses it. The signature must bind the request to a cluster; otherwise a
// token for one cluster would be valid for all (EKS user guide; aws-iam-authenticator, "API Authorization from Outside a
// Cluster").
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

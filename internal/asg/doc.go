// Package asg is the edge to Auto Scaling: what its events say, what its groups are, and its lifecycle hooks. The one question
// that EC2 is asked is here too.
package asg

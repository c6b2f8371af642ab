// Package asg is the adapter for Auto Scaling: its events, its groups and their lifecycle hooks. It also makes the one request
// to EC2.
package asg

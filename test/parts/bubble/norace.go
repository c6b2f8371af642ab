//go:build !race

package bubble

func limit() (restore func()) { return func() {} }

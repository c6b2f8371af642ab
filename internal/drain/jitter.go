package drain

import (
	"hash/fnv"
	"strconv"
	"time"
)

// Jitter returns a duration from zero up to limit, a different one for each name and moment, so that drains that wait together do not
// retry together. It is not random: a test can repeat what happened once.
func Jitter(name string, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	hash := fnv.New64a()
	hash.Write([]byte(name))
	hash.Write(strconv.AppendInt(nil, time.Now().UnixNano(), 16))
	return time.Duration(hash.Sum64() % uint64(limit))
}

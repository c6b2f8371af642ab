package drain

import (
	"hash/fnv"
	"strconv"
	"time"
)

// Jitter is a time of up to most, a different one for each name and at each moment, so that those who wait together do not come back
// together. It is no chance: what happened once can be made to happen again.
func Jitter(name string, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	hash := fnv.New64a()
	hash.Write([]byte(name))
	hash.Write(strconv.AppendInt(nil, time.Now().UnixNano(), 16))
	return time.Duration(hash.Sum64() % uint64(most))
}

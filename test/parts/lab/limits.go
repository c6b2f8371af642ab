package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	inotifyLimit = "/proc/sys/fs/inotify/max_user_instances"
	// inotifyInstances is enough for a host full of machines: a kubelet has six, containerd and kube-proxy one each. Sixteen
	// machines reach the kernel's default limit of 128.
	inotifyInstances = 1024
)

// raiseLimits raises, and never lowers, the kernel's limit for all machines of this host together. It stays raised: another lab
// may need it by now.
func raiseLimits() error {
	text, err := os.ReadFile(inotifyLimit)
	if err != nil {
		return err
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read %s: %w", inotifyLimit, err)
	}
	if limit >= inotifyInstances {
		return nil
	}
	return os.WriteFile(inotifyLimit, []byte(strconv.Itoa(inotifyInstances)), 0o644)
}

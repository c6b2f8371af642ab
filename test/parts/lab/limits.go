package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	inotifyLimit = "/proc/sys/fs/inotify/max_user_instances"
	// inotifyInstances is what a computer full of machines needs: a kubelet has six, containerd and kube-proxy one each. The
	// kernel's own limit of 128 is reached with sixteen of them.
	inotifyInstances = 1024
)

// raiseLimits raises, and never lowers, what the kernel allows all machines of this computer together. It stays raised: another
// lab may have come to need it.
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

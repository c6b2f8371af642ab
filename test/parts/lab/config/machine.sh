# The first process of a machine: when it ends, all processes and mounts of the machine end. It has its own namespaces for
# mounts, processes and network. $1: the machine's folder; $2: kubelet; $3: kube-proxy; $4: name of the node.
set -e
mount -t proc proc /proc
mount --make-rshared /
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount -t tmpfs tmpfs /run
echo 1 >/proc/sys/net/ipv4/ip_forward

# When a daemon ends, the machine ends.
trap 'exit 1' TERM
daemon() {
	name=$1
	shift
	"$@" >"/var/log/$name.log" 2>&1 || echo "$name ended with status $?"
	tail -n 20 "/var/log/$name.log"
	kill -s TERM 1
}

until ip route show default | grep -q .; do sleep 0.05; done # until the host has connected the machine
daemon containerd containerd --config "$1/containerd.toml" &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
daemon kubelet "$2" --config "$1/kubelet.yaml" --kubeconfig "$1/kubelet.kubeconfig" --hostname-override "$4" $5 &
daemon kube-proxy "$3" --config "$1/kube-proxy.yaml" &
while :; do wait; sleep 1; done # reaps orphans

// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
)

const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "%s"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "%s"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
    use_internal_loopback = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
clusterDNS: [%s]
clusterDomain: %s
containerRuntimeEndpoint: unix://%s
evictionHard: {memory.available: 100Mi, nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
maxPods: 200
oomScoreAdj: 0
registryPullQPS: 0
resolvConf: /etc/resolv.conf
`

const controlPlaneTaint = `registerWithTaints:
- {key: node-role.kubernetes.io/control-plane, effect: NoSchedule}
`

// nodeConfig writes the files of m's container runtime and kubelet.
func (l *Lab) nodeConfig(m Machine) error {
	if err := l.write(fmt.Sprintf(containerdConfig, runtimeSocket, pauseImage), m.Name, "containerd.toml"); err != nil {
		return err
	}
	kubelet := fmt.Sprintf(kubeletConfig, l.path("pki", "ca.crt"), ClusterDNS, clusterDomain, runtimeSocket)
	if m.ControlPlane {
		kubelet += controlPlaneTaint
	}
	return l.write(kubelet, m.Name, "kubelet.yaml")
}

// labels are those that m's kubelet gives its node.
func (m Machine) labels() string {
	if m.Zone == "" {
		return ""
	}
	return "topology.kubernetes.io/zone=" + m.Zone
}

func (l *Lab) serviceRange() string {
	return "--service-cluster-ip-range=" + strings.Join(l.families(serviceCIDR4, serviceCIDR6), ",")
}

func (l *Lab) apiServerFlags(m Machine) []string {
	pki := func(name string) string { return l.path("pki", name) }
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + m.Internal.V4.Addr().String(),
		"--secure-port=6443",
		l.serviceRange(),
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--cert-dir=" + l.path(m.Name, "certs-apiserver"),
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("admin.crt"),
		"--kubelet-client-key=" + pki("admin.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + pki("ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--enable-aggregator-routing=true",
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + pki("sa.key"),
		"--service-account-signing-key-file=" + pki("sa.key"),
	}
}

// clientFlags are those of a component that calls the API server.
func (l *Lab) clientFlags(name string) []string {
	var flags []string
	for _, flag := range []string{"kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"} {
		flags = append(flags, "--"+flag+"="+l.kubeconfig(name))
	}
	return append(flags, "--leader-elect=false")
}

func (l *Lab) controllerFlags(m Machine) []string {
	return append(l.clientFlags("kube-controller-manager"),
		"--cert-dir="+l.path(m.Name, "certs-controllers"),
		"--allocate-node-cidrs=true",
		"--cluster-cidr="+strings.Join(l.families(podCIDR4, podCIDR6), ","),
		l.serviceRange(),
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+l.path("pki", "sa.key"),
		"--root-ca-file="+l.path("pki", "ca.crt"),
		"--cluster-signing-cert-file="+l.path("pki", "ca.crt"),
		"--cluster-signing-key-file="+l.path("pki", "ca.key"),
	)
}

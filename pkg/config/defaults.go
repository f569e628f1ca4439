// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fill sets what the file left out.
func (c *Config) fill() error {
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("nodeName is not set: %w", err)
		}
		c.NodeName = strings.ToLower(name) // as kubelet does
	}
	c.Source = cmp.Or(c.Source, "file:/etc/patchbay/objects")
	c.Routing.Mode = cmp.Or(c.Routing.Mode, RoutingAuto)
	c.Routing.VXLAN.Port = cmp.Or(c.Routing.VXLAN.Port, 4789)
	c.Routing.VXLAN.VNI = cmp.Or(c.Routing.VXLAN.VNI, 20546)
	c.Masquerade.Enabled = orTrue(c.Masquerade.Enabled)
	if c.Services.NodePortNICs == nil {
		c.Services.NodePortNICs = []Role{RoleInternal}
	}
	c.LoadBalancer.Class = cmp.Or(c.LoadBalancer.Class, "patchbay.net/lb")
	c.LoadBalancer.Default = orTrue(c.LoadBalancer.Default)
	c.LoadBalancer.ReplyPath = cmp.Or(c.LoadBalancer.ReplyPath, "ingress")
	c.LoadBalancer.AnnouncementExpiry = cmp.Or(c.LoadBalancer.AnnouncementExpiry, Duration(30*time.Second))
	c.Gossip.Port = cmp.Or(c.Gossip.Port, 7474)
	c.Policy.UntilSynced = cmp.Or(c.Policy.UntilSynced, "deny")
	c.Log.Level = cmp.Or(c.Log.Level, "info")
	c.Paths.fill()
	return nil
}

func (p *Paths) fill() {
	p.State = cmp.Or(p.State, "/var/lib/patchbay")
	p.Run = cmp.Or(p.Run, "/run/patchbay")
	p.BPF = cmp.Or(p.BPF, "/sys/fs/bpf/patchbay")
	p.CNIConf = cmp.Or(p.CNIConf, "/etc/cni/net.d")
	p.Sysctl = cmp.Or(p.Sysctl, "/proc/sys")
	p.Status = cmp.Or(p.Status, filepath.Join(p.State, "status"))
}

func orTrue(b *bool) *bool {
	if b != nil {
		return b
	}
	yes := true
	return &yes
}

// AgentSocket is the path of the agent's API socket.
func (p Paths) AgentSocket() string { return filepath.Join(p.Run, "agent.sock") }

// Leases is the path of the pod leases.
func (p Paths) Leases() string { return filepath.Join(p.Run, "leases.db") }

// Gate is the path of the lock that an ADD holds shared and a GC alone.
func (p Paths) Gate() string { return filepath.Join(p.Run, "cni.lock") }

// Snapshot is the path of the last objects seen.
func (p Paths) Snapshot() string { return filepath.Join(p.State, "snapshot") }

// Conflist is the path of the CNI configuration that the agent writes.
func (p Paths) Conflist() string { return filepath.Join(p.CNIConf, "00-patchbay.conflist") }

// Ready is the path of the file whose presence says that the agent was ready
// since boot, and whose time of change says when it was last alive.
func (p Paths) Ready() string { return filepath.Join(p.Run, "ready") }

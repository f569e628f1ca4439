// SPDX-License-Identifier: Apache-2.0

// Package config reads the one configuration file of a node, which the agent,
// the controller and the CLI share. It holds settings of this node and of the
// installation; what changes while the cluster runs are objects (pkg/api).
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// DefaultPath is where the programs look for the file unless told otherwise.
const DefaultPath = "/etc/patchbay/config.yaml"

// Config is the file's content with defaults filled in.
type Config struct {
	// NodeName is this node's name in the objects; the environment's
	// NODE_NAME goes before the file, the host name is the default.
	NodeName string `json:"nodeName,omitempty"`
	// Source is where objects come from: "kube" or "file:DIR".
	Source string `json:"source,omitempty"`
	// Kubeconfig is used to reach the API server; empty: the pod's own account.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// APIServers are URLs tried in order before anything else.
	APIServers []string `json:"apiServers,omitempty"`
	// CgroupPath is the cgroup2 directory for the socket hooks; empty: found.
	CgroupPath string `json:"cgroupPath,omitempty"`
	// NICs fixes the roles of NICs; those not named get a proposed one.
	NICs []NIC `json:"nics,omitempty"`
	// PodCIDRs are the cluster-wide ranges of pods.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// ServiceCIDRs are the ranges of ClusterIPs.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs,omitempty"`

	Routing      Routing      `json:"routing,omitempty"`
	Masquerade   Masquerade   `json:"masquerade,omitempty"`
	Services     Services     `json:"services,omitempty"`
	LoadBalancer LoadBalancer `json:"loadBalancer,omitempty"`
	Gossip       Gossip       `json:"gossip,omitempty"`
	Policy       Policy       `json:"policy,omitempty"`
	Log          Log          `json:"log,omitempty"`
	CNI          CNI          `json:"cni,omitempty"`
	Paths        Paths        `json:"paths,omitempty"`
}

// NIC selects NICs by exactly one of name, MAC address or subnet.
type NIC struct {
	Name   string       `json:"name,omitempty"`
	MAC    string       `json:"mac,omitempty"`
	Subnet netip.Prefix `json:"subnet,omitempty"`
	Role   Role         `json:"role"`
}

// Role is what a NIC is used for.
type Role string

// The roles a NIC can be given.
const (
	RoleInternal Role = "internal"
	RoleExternal Role = "external"
	RoleIgnored  Role = "ignored"
)

// Routing says how pods of other nodes are reached.
type Routing struct {
	Mode  RoutingMode `json:"mode,omitempty"`
	MTU   int         `json:"mtu,omitempty"` // of pods; 0: from the underlay NIC
	VXLAN VXLAN       `json:"vxlan,omitempty"`
}

// RoutingMode is one of the values below.
type RoutingMode string

// The ways to reach other nodes' pods; auto is native on a shared L2, else VXLAN.
const (
	RoutingAuto   RoutingMode = "auto"
	RoutingNative RoutingMode = "native"
	RoutingVXLAN  RoutingMode = "vxlan"
)

// VXLAN holds the tunnel's numbers.
type VXLAN struct {
	Port uint16 `json:"port,omitempty"`
	VNI  uint32 `json:"vni,omitempty"`
}

// Masquerade says which packets of pods get the node's address.
type Masquerade struct {
	Enabled *bool          `json:"enabled,omitempty"`
	Exclude []netip.Prefix `json:"exclude,omitempty"`
}

// Services holds settings of Services in general.
type Services struct {
	NodePortNICs []Role `json:"nodePortNICs,omitempty"`
}

// LoadBalancer holds settings of LoadBalancer addresses.
type LoadBalancer struct {
	Class string `json:"class,omitempty"`
	// Default: Services without a class are ours.
	Default *bool `json:"default,omitempty"`
	// ReplyPath is "ingress": back through the node it came in by.
	ReplyPath          string   `json:"replyPath,omitempty"`
	AnnouncementExpiry Duration `json:"announcementExpiry,omitempty"`
}

// Gossip holds the settings of the agents' own conversation.
type Gossip struct {
	Port    uint16 `json:"port,omitempty"`
	KeyFile string `json:"keyFile,omitempty"`
}

// Policy holds settings of network policy.
type Policy struct {
	// UntilSynced is what new pods get before policies are known: "deny" or "allow".
	UntilSynced string `json:"untilSynced,omitempty"`
}

// Log holds the log's settings.
type Log struct {
	Level string `json:"level,omitempty"` // debug, info, warn, error
}

// CNI holds what is written into the CNI configuration.
type CNI struct {
	MTU int `json:"mtu,omitempty"` // of pods' interfaces; 0: from routing
	// StatusOnExhaustion has STATUS fail, and so the node be NotReady, while no pod
	// can get an address; a taint and an event say it in any case.
	StatusOnExhaustion bool `json:"statusOnExhaustion,omitempty"`
}

// Paths are the places on disk, changed only to keep several nodes apart.
type Paths struct {
	State   string `json:"state,omitempty"`
	Run     string `json:"run,omitempty"`
	BPF     string `json:"bpf,omitempty"`
	CNIConf string `json:"cniConf,omitempty"`
	Status  string `json:"status,omitempty"`
	Sysctl  string `json:"sysctl,omitempty"` // /proc/sys, or where a container has the host's
}

// Duration is a time.Duration written as "30s".
type Duration time.Duration

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).String()), nil
}

// Load reads the file, lets the environment's NODE_NAME override, fills in
// defaults and checks the whole. It reports every fault it finds, not the first.
func Load(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("read config: %w (write it, or name another with --config)", err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	c, err := Parse(raw)
	if err != nil {
		return Config{}, fmt.Errorf("config %s: %w", path, err)
	}
	return c, nil
}

// Parse is Load for content already read.
func Parse(raw []byte) (Config, error) {
	var c Config
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return Config{}, plainly(err)
	}
	if name := os.Getenv("NODE_NAME"); name != "" {
		c.NodeName = name
	}
	if err := c.fill(); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// SourceDir returns the folder of a file source, and whether it is one.
func (c Config) SourceDir() (string, bool) {
	return strings.CutPrefix(c.Source, "file:")
}

// plainly says what is wrong with a text, without the way by which it was found.
func plainly(err error) error {
	text := err.Error()
	for _, way := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "error converting YAML to JSON: ", "json: "} {
		text = strings.TrimPrefix(text, way)
	}
	if strings.HasPrefix(text, "unknown field") {
		text += " (docs/configuration.md has all keys)"
	}
	return errors.New(text)
}

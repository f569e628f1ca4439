// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
)

// Type is the plugin's name in a configuration.
const Type = "patchbay-ipam"

// ErrConf is matched by the errors of a configuration that can't be used.
var ErrConf = errors.New("invalid configuration")

// Conf is the ipam section of a network configuration.
type Conf struct {
	Type               string         `json:"type"`
	Leases             string         `json:"leases"`
	Durable            *bool          `json:"durable"`
	CoolDown           string         `json:"coolDown"`
	Ranges             [][]RangeConf  `json:"ranges"`
	Pool               string         `json:"pool"`
	Static             []StaticConf   `json:"static"`
	Routes             []*types.Route `json:"routes"`
	StatusOnExhaustion bool           `json:"statusOnExhaustion"`
}

// RangeConf is one range of a set.
type RangeConf struct {
	Subnet     netip.Prefix   `json:"subnet"`
	RangeStart netip.Addr     `json:"rangeStart,omitzero"`
	RangeEnd   netip.Addr     `json:"rangeEnd,omitzero"`
	Gateway    netip.Addr     `json:"gateway,omitzero"`
	Exclude    []netip.Prefix `json:"exclude,omitempty"`
}

// StaticConf is an address that is one machine's, by its name or its MAC address.
type StaticConf struct {
	Address netip.Addr `json:"address"`
	Name    string     `json:"name"`
	MAC     string     `json:"mac"`
}

// PoolsFile is where the device's agent writes its pools for nodes and VMs, by
// name, as a plugin needs them: a map of ipam sections.
const PoolsFile = "/run/patchbay/pools.json"

// Pod is what the runtime says of the pod, in CNI_ARGS.
type Pod struct{ Namespace, Name, UID string }

// netConf is what of the whole configuration matters to IPAM.
type netConf struct {
	types.NetConf
	IPAM          json.RawMessage `json:"ipam"`
	MAC           string          `json:"mac"`
	RuntimeConfig struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs  []string `json:"ips"`
			Name string   `json:"name"`
		} `json:"cni"`
	} `json:"args"`
}

// envArgs are the CNI_ARGS that are understood.
type envArgs struct {
	types.CommonArgs
	IP                         types.UnmarshallableString
	K8S_POD_NAMESPACE          types.UnmarshallableString //nolint:revive // the names are the runtime's
	K8S_POD_NAME               types.UnmarshallableString //nolint:revive
	K8S_POD_UID                types.UnmarshallableString //nolint:revive
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString //nolint:revive
}

// ParsePod returns what CNI_ARGS say of the pod.
func ParsePod(args string) (Pod, error) {
	env, err := parseEnv(args)
	return Pod{Namespace: string(env.K8S_POD_NAMESPACE), Name: string(env.K8S_POD_NAME), UID: string(env.K8S_POD_UID)}, err
}

func parseEnv(args string) (envArgs, error) {
	var env envArgs
	if err := types.LoadArgs(args, &env); err != nil {
		return envArgs{}, fmt.Errorf("%w: CNI_ARGS %q: %w", ErrConf, args, err)
	}
	return env, nil
}

// Mode is how a configuration is read.
type Mode struct {
	// Lenient accepts keys and ranges that can't be used: what is to be taken
	// away must not be held up by them.
	Lenient bool
	// Gateways reserves the first address of a subnet for its gateway, unless
	// the configuration names one: for main plugins whose pods share a subnet.
	Gateways bool
}

// Network is a configuration ready for use.
type Network struct {
	Name      string
	Pools     []ipam.Pool
	Rest      ipam.Rest
	Requested []netip.Addr
	Routes    []*types.Route
	Pod       Pod
	Store     *store.Store
	// Machine is the name that a durable lease is remembered under; empty: the
	// container's id.
	Machine string
	Static  map[netip.Addr]string // by Machine, or by other machines' names
	// Avoid are addresses that another machine was found to have.
	Avoid []netip.Addr

	durable bool

	statusOnExhaustion bool
	stdin              []byte
}

// Load reads a network configuration with its ipam section, and CNI_ARGS.
// Errors match ErrConf. The options are the store's; their Durable is set by
// the configuration.
func Load(stdin []byte, args string, mode Mode, options store.Options) (*Network, error) {
	var conf netConf
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConf, err)
	}
	section, err := parseSection(conf.IPAM, mode)
	if err != nil {
		return nil, err
	}
	n := &Network{Name: conf.Name, Routes: section.Routes, statusOnExhaustion: section.StatusOnExhaustion, stdin: stdin}
	if n.Rest, err = section.rest(); err != nil {
		return nil, err
	}
	if n.Pools, err = section.pools(conf.Name, mode.Gateways); err != nil && !mode.Lenient {
		return nil, err
	}
	env, err := parseEnv(args)
	if err != nil && !mode.Lenient {
		return nil, err
	}
	n.Pod = Pod{Namespace: string(env.K8S_POD_NAMESPACE), Name: string(env.K8S_POD_NAME), UID: string(env.K8S_POD_UID)}
	if n.Requested, err = conf.requested(string(env.IP)); err != nil && !mode.Lenient {
		return nil, err
	}
	options.Durable = section.durable()
	n.durable = options.Durable
	n.Store = store.New(section.Leases, options)
	n.name(conf, section)
	return n, nil
}

// name finds out which machine the lease is for, and what is reserved for it.
func (n *Network) name(conf netConf, section Conf) {
	n.Machine = conf.Args.CNI.Name
	if n.Machine == "" && n.Pod.Name != "" {
		n.Machine = n.Pod.Namespace + "/" + n.Pod.Name
	}
	n.Static = map[netip.Addr]string{}
	for _, st := range section.Static {
		if st.MAC != "" && strings.EqualFold(st.MAC, conf.MAC) {
			n.Static[st.Address] = "" // this one's, whatever its name
			continue
		}
		n.Static[st.Address] = cmp.Or(st.Name, "MAC "+strings.ToLower(st.MAC))
	}
}

func parseSection(text json.RawMessage, mode Mode) (Conf, error) {
	if len(text) == 0 {
		return Conf{}, fmt.Errorf("%w: no ipam section", ErrConf)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if !mode.Lenient {
		decoder.DisallowUnknownFields()
	}
	var conf Conf
	if err := decoder.Decode(&conf); err != nil && !mode.Lenient {
		return Conf{}, fmt.Errorf("%w: ipam: %w", ErrConf, err)
	}
	if conf.Pool != "" {
		if err := conf.readPool(); err != nil && !mode.Lenient {
			return Conf{}, fmt.Errorf("%w: ipam: pool %s: %w", ErrConf, conf.Pool, err)
		}
	}
	if conf.Leases == "" {
		conf.Leases = store.PodLeases
	}
	if !filepath.IsAbs(conf.Leases) {
		return Conf{}, fmt.Errorf("%w: ipam: leases %q is not an absolute path", ErrConf, conf.Leases)
	}
	return conf, nil
}

// readPool takes ranges and static addresses from a pool of the device.
func (c *Conf) readPool() error {
	if len(c.Ranges) > 0 || len(c.Static) > 0 {
		return errors.New("give a pool, or ranges")
	}
	text, err := os.ReadFile(PoolsFile)
	if err != nil {
		return fmt.Errorf("read the device's pools: %w", err)
	}
	var pools map[string]Conf
	if err := json.Unmarshal(text, &pools); err != nil {
		return fmt.Errorf("read the device's pools: %w", err)
	}
	pool, ok := pools[c.Pool]
	if !ok {
		return errors.New("the device has no such pool of use Node")
	}
	c.Ranges, c.Static = pool.Ranges, pool.Static
	c.CoolDown = cmp.Or(c.CoolDown, pool.CoolDown)
	return nil
}

func (c Conf) durable() bool {
	if c.Durable != nil {
		return *c.Durable
	}
	return !strings.HasPrefix(c.Leases, "/run/")
}

// rest returns the cool-down; an address is never given earlier than 5 s after
// its release, unless the whole cool-down is shorter.
func (c Conf) rest() (ipam.Rest, error) {
	rest := ipam.DefaultRest()
	if c.CoolDown == "" {
		return rest, nil
	}
	d, err := time.ParseDuration(c.CoolDown)
	if err != nil || d < 0 {
		return ipam.Rest{}, fmt.Errorf("%w: ipam: coolDown %q is not a duration", ErrConf, c.CoolDown)
	}
	return ipam.Rest{CoolDown: d, Minimum: min(d, rest.Minimum)}, nil
}

// pools makes one pool of each set of ranges.
func (c Conf) pools(network string, gateways bool) ([]ipam.Pool, error) {
	if len(c.Ranges) == 0 {
		return nil, fmt.Errorf("%w: ipam: no ranges", ErrConf)
	}
	pools := make([]ipam.Pool, len(c.Ranges))
	for i, set := range c.Ranges {
		subnets := make([]ipam.Subnet, len(set))
		for j, r := range set {
			subnets[j] = ipam.Subnet{Prefix: r.Subnet, First: r.RangeStart, Last: r.RangeEnd, Gateway: r.Gateway, Exclude: r.Exclude}
			if gateways {
				subnets[j].Gateway = subnets[j].GatewayOrFirst()
			}
		}
		pool, err := ipam.NewPool(fmt.Sprintf("%s/%d", network, i), subnets...)
		if err != nil {
			return nil, fmt.Errorf("%w: ipam: %w", ErrConf, err)
		}
		pools[i] = pool
	}
	if err := ipam.CheckPools(pools); err != nil {
		return nil, fmt.Errorf("%w: ipam: %w", ErrConf, err)
	}
	return pools, nil
}

// requested collects the addresses that runtime and configuration ask for.
func (c netConf) requested(env string) ([]netip.Addr, error) {
	texts := append(append([]string(nil), c.RuntimeConfig.IPs...), c.Args.CNI.IPs...)
	if env != "" {
		texts = append(texts, strings.Split(env, ",")...)
	}
	var addrs []netip.Addr
	for _, text := range texts {
		bare, _, _ := strings.Cut(strings.TrimSpace(text), "/")
		addr, err := netip.ParseAddr(bare)
		if err != nil {
			return nil, fmt.Errorf("%w: requested address %q: %w", ErrConf, text, err)
		}
		addrs = append(addrs, addr.Unmap())
	}
	return addrs, nil
}

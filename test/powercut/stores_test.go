// SPDX-License-Identifier: Apache-2.0

package powercut

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/netdev/custom"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// keeper is one of the stores that are to outlive a power cut.
type keeper struct {
	name string
	// change makes the i-th change to the store in a folder. Nothing of it depends
	// on the time.
	change func(dir string, i int) error
	// contents is what the store holds, and what it says of damage.
	contents func(dir string) (text string, said, err error)
}

func keepers() []keeper {
	return []keeper{
		{"leases", changeLeases, leases},
		{"routes", changeRoutes, routes},
		{"snapshot", changeSnapshot, snapshot},
	}
}

// leaseStore is the leases of nodes and VMs.
func leaseStore(dir string, said *error) *store.Store {
	return store.New(filepath.Join(dir, "nodeleases.db"), store.Options{
		Durable: true, Damaged: func(err error) { *said = errors.Join(*said, err) },
	})
}

// changeLeases gives an address, and every third time gives one back.
func changeLeases(dir string, i int) error {
	var said error
	s := leaseStore(dir, &said)
	key := store.Key{ContainerID: fmt.Sprint("vm-", i*7%20), IfName: "eth0"}
	if i%3 == 2 {
		_, _, err := s.Release(key, 0)
		return errors.Join(err, said)
	}
	pool, err := ipam.NewPool("nodes", ipam.Subnet{Prefix: netip.MustParsePrefix("192.0.2.0/25")})
	if err != nil {
		return err
	}
	_, err = s.Allocate(store.Request{Pools: []ipam.Pool{pool}, Lease: store.Lease{Key: key, Network: "n", Owner: key.ContainerID}})
	return errors.Join(err, said)
}

// leases is who has which address. The store must go on working, too.
func leases(dir string) (text string, said, err error) {
	s := leaseStore(dir, &said)
	c, err := s.List()
	if err != nil {
		return "", said, err
	}
	var lines []string
	seen := map[netip.Addr]bool{}
	for _, l := range c.Leases {
		for _, a := range l.Addrs {
			if seen[a] {
				return "", said, fmt.Errorf("%s is two leases'", a)
			}
			seen[a] = true
		}
		lines = append(lines, fmt.Sprint(l.ContainerID, l.Addrs))
	}
	slices.Sort(lines)
	_, _, err = s.Release(store.Key{ContainerID: "nobody", IfName: "eth0"}, 0)
	return strings.Join(lines, " "), said, err
}

func routeStore(dir string, said *error) custom.Store {
	return custom.Store{Path: filepath.Join(dir, "routes.db"), Damaged: func(err error) { *said = errors.Join(*said, err) }}
}

// changeRoutes adds a custom route, and every third time takes one away.
func changeRoutes(dir string, i int) error {
	var said error
	dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(i * 7 % 20), 0}), 24)
	err := routeStore(dir, &said).Change(func(have []custom.Record) []custom.Record {
		have = slices.DeleteFunc(have, func(r custom.Record) bool { return r.Dst == dst })
		if i%3 == 2 {
			return have
		}
		return append(have, custom.Record{Route: custom.Route{Interface: "port3", Dst: dst, Metric: i}})
	})
	return errors.Join(err, said)
}

func routes(dir string) (text string, said, err error) {
	records, err := routeStore(dir, &said).List()
	return fmt.Sprint(records), said, err
}

// changeSnapshot saves the desired state with one Service more, or another.
func changeSnapshot(dir string, i int) error {
	path := filepath.Join(dir, "snapshot")
	s, err := source.LoadStore(path)
	if err != nil {
		return err
	}
	obj := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: fmt.Sprint("s-", i*7%20), ResourceVersion: fmt.Sprint(i)}}
	s.Apply(source.Event{Op: source.Upsert, Kind: source.KindService, Key: source.KeyOf(obj), Object: obj})
	return s.Save(path)
}

// snapshot says what is in it, and of one that is damaged that it is; then the
// agent begins with none.
func snapshot(dir string) (text string, said, err error) {
	s, err := source.LoadStore(filepath.Join(dir, "snapshot"))
	if errors.Is(err, source.ErrDamaged) {
		said, err = err, nil
	}
	var lines []string
	for obj := range source.All[*corev1.Service](s, source.KindService) {
		lines = append(lines, obj.Name+"="+obj.ResourceVersion)
	}
	slices.Sort(lines)
	return strings.Join(lines, " "), said, err
}

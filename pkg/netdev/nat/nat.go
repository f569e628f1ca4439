// SPDX-License-Identifier: Apache-2.0

// Package nat keeps the nftables table "inet patchbay": pods get the node's
// address on their way out of the cluster, and what stays within is not
// tracked by the kernel. What reaches the node by an interface that isn't ours
// gets neither to pods nor into the tunnel. Load balancing is not done here; that
// is the datapath's.
package nat

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// TableName is the table's name, in family inet.
const TableName = "patchbay"

// Config is what the table is made from.
type Config struct {
	Pods       []netip.Prefix // whose packets are masqueraded
	Exclude    []netip.Prefix // destinations that see the pod's own address: pods, Services, nodes…
	Masquerade bool           // false: only tracking is arranged
	NICs       []NIC          // ways out
	Links      []int          // indexes of the interfaces whose packets the datapath checks
	TunnelPort uint16         // UDP port of the tunnel, never used as a source port
	// TunnelLinks are the indexes of the interfaces that nodes' tunnel packets
	// come in by; none: there is no tunnel.
	TunnelLinks []int
	NodePorts   [2]uint16 // first and last, never used as source ports
}

// NIC is an interface of the node and the addresses that pods get who leave by it.
type NIC struct {
	Index int
	Addrs []netip.Addr // the first of each family counts
}

func (n NIC) addr(is4 bool) netip.Addr {
	if i := slices.IndexFunc(n.Addrs, func(a netip.Addr) bool { return a.Is4() == is4 }); i >= 0 {
		return n.Addrs[i]
	}
	return netip.Addr{}
}

// Apply makes the table what c says, in one transaction, unless it is so
// already. Connections that are masqueraded keep their translation.
func Apply(c Config) error {
	want := c.fingerprint()
	have, err := installed()
	if err != nil {
		return err
	}
	if have == want {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that it can be deleted
	conn.DelTable(table)
	conn.AddTable(table)
	b := builder{conn: conn, table: table}
	b.build(c, want)
	if err := errors.Join(b.errs...); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set nftables table %s: %w", TableName, err)
	}
	return nil
}

// Remove takes the table away; one that isn't there is no error.
func Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", TableName, err)
	}
	return nil
}

// fingerprint tells tables made from different configurations apart, also
// across versions of this program.
func (c Config) fingerprint() string {
	const version = "3" // of the rules that build makes
	sum := sha256.Sum256(fmt.Appendf([]byte(version), "%v", c))
	return "patchbay " + hex.EncodeToString(sum[:8])
}

// installed returns the fingerprint of the table in the kernel. It is the
// comment of each chain's last rule, so a chain that was flushed shows.
func installed() (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", fmt.Errorf("list nftables tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName })
	if i < 0 {
		return "", nil
	}
	marks := make(map[string]bool)
	for _, name := range chainNames() {
		mark, err := lastComment(conn, tables[i], name)
		if err != nil {
			return "", err
		}
		marks[mark] = true
	}
	if len(marks) != 1 {
		return "", nil
	}
	for mark := range marks {
		return mark, nil
	}
	return "", nil
}

// lastComment returns the comment of a chain's last rule, "" if there is none.
func lastComment(conn *nftables.Conn, table *nftables.Table, chain string) (string, error) {
	rules, err := conn.GetRules(table, &nftables.Chain{Name: chain, Table: table})
	if errors.Is(err, unix.ENOENT) || err == nil && len(rules) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list nftables chain %s: %w", chain, err)
	}
	comment, _ := userdata.GetString(rules[len(rules)-1].UserData, userdata.TypeComment)
	return comment, nil
}

// merge sorts prefixes and leaves out those contained in others, as sets of
// intervals must not overlap. Only those of the given family are returned.
func merge(prefixes []netip.Prefix, is4 bool) []netip.Prefix {
	var family []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() == is4 {
			family = append(family, p.Masked())
		}
	}
	slices.SortFunc(family, netip.Prefix.Compare)
	var out []netip.Prefix
	for _, p := range family {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

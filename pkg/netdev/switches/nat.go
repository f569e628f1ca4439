// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the table's name, in family inet. A device has no pods: their
// table of the same name is on the nodes.
const tableName = "patchbay"

// The chains: the way out is translated, the way in is for replies alone.
const (
	chainOut     = "switch-out"
	chainForward = "switch-forward"
)

func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// ensureNAT has what leaves the internal switch by another link take that link's
// address, and drops what others begin towards it.
func ensureNAT() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	whole, err := installed(conn)
	if err != nil || whole {
		return err
	}
	t := table()
	conn.AddTable(t) // so that it can be deleted
	conn.DelTable(t)
	conn.AddTable(t)
	out := conn.AddChain(&nftables.Chain{Name: chainOut, Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	conn.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: slices.Concat(
		link(expr.MetaKeyIIFNAME, expr.CmpOpEq), link(expr.MetaKeyOIFNAME, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})})
	forward := conn.AddChain(&nftables.Chain{Name: chainForward, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	conn.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: slices.Concat(
		link(expr.MetaKeyIIFNAME, expr.CmpOpNeq), link(expr.MetaKeyOIFNAME, expr.CmpOpEq), newConnection(),
		[]expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set nftables table %s: %w", tableName, err)
	}
	return nil
}

// installed tells whether both chains hold their rule.
func installed(conn *nftables.Conn) (bool, error) {
	for _, name := range []string{chainOut, chainForward} {
		rules, err := conn.GetRules(table(), &nftables.Chain{Name: name, Table: table()})
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("list nftables chain %s: %w", name, err)
		}
		if len(rules) != 1 {
			return false, nil
		}
	}
	return true, nil
}

// removeNAT takes the table away; one that isn't there is no error.
func removeNAT() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	ours := slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == tableName && c.Name == chainOut })
	if !ours {
		return nil
	}
	conn.DelTable(table())
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", tableName, err)
	}
	return nil
}

// link compares the name of the link that a packet came in or goes out by with the internal bridge's.
func link(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, InternalBridge)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

// newConnection matches packets that begin a connection.
func newConnection() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

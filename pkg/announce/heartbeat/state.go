// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// State is what a node tells the others of itself.
type State struct {
	NICs []NIC `json:"nics,omitempty"`
	// Leaving: its addresses are to be taken over.
	Leaving bool `json:"leaving,omitempty"`
	// Held are the addresses that it answers for.
	Held []Held `json:"held,omitempty"`
}

// NIC is a NIC with a role as its node sees it.
type NIC struct {
	Name     string         `json:"name"`
	External bool           `json:"external,omitempty"`
	Carrier  bool           `json:"carrier,omitempty"`
	MAC      [6]byte        `json:"mac"`
	Addrs    []netip.Prefix `json:"addrs,omitempty"`
	Source   netip.Addr     `json:"source"` // of its packets, out of Addrs
	// Hears are the nodes whose beats come in by it.
	Hears []string `json:"hears,omitempty"`
	// Missed are those whose beats should, and don't.
	Missed []string `json:"missed,omitempty"`
	// Outside tells how many machines other than nodes have answered on it since
	// beats are missed.
	Outside Outside `json:"machines,omitempty"`
}

// Outside is a number of machines, by its magnitude: 0, 1, 2 to 3, 4 to 7… One
// that answers late changes nothing.
type Outside uint8

// Held is an address that a node answers for.
type Held struct {
	Addr netip.Addr `json:"addr"`
	// Epoch is one more than that of the holder before.
	Epoch uint64 `json:"epoch"`
	// Offered names the node that shall take it over.
	Offered string `json:"offered,omitempty"`
}

// pageSize keeps a page in one unfragmented packet on any network.
const pageSize = 1024

// pages are a state as it is sent: the body of each packet.
type pages struct {
	digest uint64
	bodies [][]byte
}

// paginate encodes a state.
func paginate(s State) (pages, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return pages{}, fmt.Errorf("encode state: %w", err)
	}
	sum := sha256.Sum256(raw)
	p := pages{digest: binary.BigEndian.Uint64(sum[:])}
	count := (len(raw) + pageSize - 1) / pageSize
	for i := range count {
		part := raw[i*pageSize : min((i+1)*pageSize, len(raw))]
		body := binary.BigEndian.AppendUint16(nil, uint16(i))
		body = binary.BigEndian.AppendUint16(body, uint16(count))
		p.bodies = append(p.bodies, append(body, part...))
	}
	return p, nil
}

// collector joins pages of one digest to a state again.
type collector struct {
	digest uint64
	parts  [][]byte
	left   int
}

var errPage = errors.New("page of a state makes no sense")

// maxPages is more than a node with all addresses of the announced map needs.
const maxPages = 512

// add takes a page in, and returns the state once it is whole.
func (c *collector) add(digest uint64, body []byte) (State, bool, error) {
	if len(body) < 4 {
		return State{}, false, errPage
	}
	i, count := int(binary.BigEndian.Uint16(body)), int(binary.BigEndian.Uint16(body[2:]))
	if i >= count || count > maxPages {
		return State{}, false, errPage
	}
	if c.digest != digest || len(c.parts) != count {
		*c = collector{digest: digest, parts: make([][]byte, count), left: count}
	}
	if c.parts[i] != nil {
		return State{}, false, nil
	}
	c.parts[i] = append([]byte{}, body[4:]...)
	if c.left--; c.left > 0 {
		return State{}, false, nil
	}
	var raw []byte
	for _, p := range c.parts {
		raw = append(raw, p...)
	}
	*c = collector{}
	var s State
	if err := json.Unmarshal(raw, &s); err != nil {
		return State{}, false, fmt.Errorf("decode state: %w", err)
	}
	return s, true, nil
}

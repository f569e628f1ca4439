// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"net/netip"
	"time"
)

// Key names an attachment. A node has at most one lease for each.
type Key struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String returns "container/interface".
func (k Key) String() string { return k.ContainerID + "/" + k.IfName }

// Link returns the name of the host end of the attachment's veth: "pb" and the
// first 11 hex digits of the key's FNV-1a hash. A stronger hash would serve no
// one, whoever can choose a container's id is root; and the library's SHA-256
// is a twentieth of a CNI binary.
func (k Key) Link() string {
	hash := fnv.New64a()
	hash.Write([]byte(k.String()))
	return fmt.Sprintf("pb%016x", hash.Sum64())[:13]
}

// bytes returns the key as it is stored. Neither part may contain a NUL.
func (k Key) bytes() []byte { return []byte(k.ContainerID + "\x00" + k.IfName) }

func parseKey(b []byte) Key {
	id, ifName, _ := bytes.Cut(b, []byte{0})
	return Key{ContainerID: string(id), IfName: string(ifName)}
}

// Lease is what an attachment holds.
type Lease struct {
	Key
	Network      string       `json:"network"` // the CNI network's name
	Addrs        []netip.Addr `json:"addrs"`   // one for each pool, in the pools' order
	Generation   uint64       `json:"generation"`
	BootID       string       `json:"bootID"`
	Created      time.Time    `json:"created"` // for people; nothing is decided by it
	PodNamespace string       `json:"podNamespace,omitempty"`
	PodName      string       `json:"podName,omitempty"`
	PodUID       string       `json:"podUID,omitempty"`
	Netns        string       `json:"netns,omitempty"`
	MAC          string       `json:"mac,omitempty"`

	Ports []PortMapping `json:"ports,omitempty"`

	// Owner is the machine that the lease is for, by a name that outlives the
	// attachment: a durable store gives it the same addresses again.
	Owner string `json:"owner,omitempty"`

	// Switch is the bridge of a leg, and Primary the interface of the same
	// container that it came with: it goes when that does.
	Switch  string `json:"switch,omitempty"`
	Primary string `json:"primary,omitempty"`

	// Ended is set on a lease whose attachment is over, but whose link may still be
	// there: it holds its addresses until it is released.
	Ended bool `json:"ended,omitempty"`

	// Damaged is set on a lease whose record was lost: key and addresses are
	// all that is known. It is never stored.
	Damaged bool `json:"-"`
}

// PortMapping is a port of the node that leads to one of the attachment's. No
// two leases have one port of an address.
type PortMapping struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"` // zero: every address of the node
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"` // tcp, udp or sctp
}

// Overlaps reports whether both want one port of an address.
func (p PortMapping) Overlaps(o PortMapping) bool {
	return p.HostPort == o.HostPort && p.Protocol == o.Protocol &&
		(p.HostIP == o.HostIP || !p.HostIP.IsValid() || !o.HostIP.IsValid())
}

// recordVersion is written into each record.
const recordVersion = 1

// record is a lease as it is stored: a checksum over key and JSON, then the
// JSON.
type record struct {
	Version int `json:"version"`
	Lease
}

const sumSize = 4

var errRecord = errors.New("damaged record")

func encodeRecord(l Lease) ([]byte, error) {
	text, err := json.Marshal(record{Version: recordVersion, Lease: l})
	if err != nil {
		return nil, fmt.Errorf("encode lease %s: %w", l.Key, err)
	}
	out := make([]byte, sumSize, sumSize+len(text))
	binary.BigEndian.PutUint32(out, checksum(l.Key.bytes(), text))
	return append(out, text...), nil
}

// decodeRecord returns the lease stored under key. Its errors match errRecord.
func decodeRecord(key, value []byte) (Lease, error) {
	if len(value) < sumSize {
		return Lease{}, fmt.Errorf("%w: %d bytes", errRecord, len(value))
	}
	text := value[sumSize:]
	if checksum(key, text) != binary.BigEndian.Uint32(value) {
		return Lease{}, fmt.Errorf("%w: checksum differs", errRecord)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return Lease{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	if r.Version != recordVersion || !bytes.Equal(r.Key.bytes(), key) {
		return Lease{}, fmt.Errorf("%w: version %d of %s", errRecord, r.Version, r.Key)
	}
	return r.Lease, nil
}

func checksum(key, text []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, text)
}

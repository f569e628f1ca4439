// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"net/netip"
)

// Kinds of packets.
const (
	kindBeat   = 1 // says no more than the header
	kindState  = 2 // a page of the sender's state
	kindAsk    = 3 // a question to the node
	kindAnswer = 4
)

// flagWant asks for the receiver's state.
const flagWant = 1

const (
	magic     = "pbh1"
	fixedSize = len(magic) + 2 + 4*8 // and the two names, the body, the seal
	sealSize  = 16
	bodyMax   = 60 << 10
)

// header opens each packet.
type header struct {
	kind, flags byte
	from, to    string
	life        uint64 // the sender's incarnation
	echo        uint64 // the receiver's, as the sender knows it; 0: not yet
	number      uint64 // rises by each packet of the sender
	digest      uint64 // of the sender's state
}

var (
	errShort  = errors.New("packet is cut short")
	errSeal   = errors.New("packet has no seal of this cluster's key")
	errFormat = errors.New("packet of another version")
)

// sealer seals and checks packets with the cluster's key. The addresses that a
// packet travels between are under the seal: it can't be played back elsewhere.
type sealer struct{ mac hash.Hash }

func newSealer(key []byte) *sealer { return &sealer{hmac.New(sha256.New, key)} }

func (s *sealer) sum(packet []byte, from, to netip.Addr) []byte {
	s.mac.Reset()
	f, t := from.Unmap().As16(), to.Unmap().As16()
	s.mac.Write(f[:])
	s.mac.Write(t[:])
	s.mac.Write(packet)
	var room [sha256.Size]byte
	return s.mac.Sum(room[:0])[:sealSize]
}

// seal appends the seal.
func (s *sealer) seal(packet []byte, from, to netip.Addr) []byte {
	return append(packet, s.sum(packet, from, to)...)
}

// open checks the seal and returns the packet without it.
func (s *sealer) open(sealed []byte, from, to netip.Addr) ([]byte, error) {
	n := len(sealed) - sealSize
	if n < fixedSize {
		return nil, errShort
	}
	if !hmac.Equal(s.sum(sealed[:n], from, to), sealed[n:]) {
		return nil, errSeal
	}
	return sealed[:n], nil
}

// append writes the header behind b.
func (h *header) append(b []byte) []byte {
	b = append(append(b, magic...), h.kind, h.flags)
	for _, v := range []uint64{h.life, h.echo, h.number, h.digest} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, name := range []string{h.from, h.to} {
		b = append(append(b, byte(len(name))), name...)
	}
	return b
}

// parseHeader reads the header and returns the body behind it.
func parseHeader(b []byte) (h header, body []byte, err error) {
	if len(b) < fixedSize {
		return h, nil, errShort
	}
	if string(b[:len(magic)]) != magic {
		return h, nil, errFormat
	}
	b = b[len(magic):]
	h.kind, h.flags = b[0], b[1]
	b = b[2:]
	for _, v := range []*uint64{&h.life, &h.echo, &h.number, &h.digest} {
		*v, b = binary.BigEndian.Uint64(b), b[8:]
	}
	for _, name := range []*string{&h.from, &h.to} {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return h, nil, errShort
		}
		end := 1 + int(b[0])
		*name, b = string(b[1:end]), b[end:]
	}
	return h, b, nil
}

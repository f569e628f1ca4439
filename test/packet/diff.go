// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Diff returns the difference between two frames as fields of their headers,
// want as - and got as +; it is empty when the bytes are the same.
func Diff(want, got []byte) string {
	if string(want) == string(got) {
		return ""
	}
	if d := cmp.Diff(lines(want), lines(got)); d != "" {
		return d
	}
	return cmp.Diff(hex.Dump(want), hex.Dump(got))
}

// String returns a frame as text, a line per header.
func String(frame []byte) string { return strings.Join(lines(frame), "\n") }

// lines decodes a frame to one line per field.
func lines(frame []byte) []string {
	var out []string
	decoded := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	for _, l := range decoded.Layers() {
		text := gopacket.LayerString(l)
		name, fields, _ := strings.Cut(strings.TrimSuffix(text, "}"), "{")
		name = strings.TrimSpace(name)
		if l.LayerType() == gopacket.LayerTypePayload {
			out = append(out, name+" "+hex.EncodeToString(l.LayerContents()))
			continue
		}
		for _, field := range strings.Fields(fields) {
			if strings.HasPrefix(field, "Contents=") || strings.HasPrefix(field, "Payload=") {
				continue
			}
			out = append(out, name+" "+field)
		}
	}
	if fault := decoded.ErrorLayer(); fault != nil {
		out = append(out, fmt.Sprintf("undecodable: %v", fault.Error()))
	}
	return out
}

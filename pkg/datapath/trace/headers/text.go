// SPDX-License-Identifier: Apache-2.0

package headers

import (
	"fmt"
	"net"
)

// String is the protocol's name.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "ICMP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case ICMPv6:
		return "ICMPv6"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// String is a frame's headers on one line.
func (h Header) String() string {
	switch {
	case h.ARP.Op == ARPRequest:
		return fmt.Sprintf("ARP: who has %s? says %s", h.ARP.Target, h.ARP.Sender)
	case h.ARP.Op == ARPReply:
		return fmt.Sprintf("ARP: %s is at %s", h.ARP.Sender, net.HardwareAddr(h.SrcMAC[:]))
	case !h.Src.IsValid():
		return fmt.Sprintf("%d bytes, not IP", h.Length)
	}
	src, dst := h.Src.String(), h.Dst.String()
	if h.Src.Port() == 0 && h.Dst.Port() == 0 {
		src, dst = h.Src.Addr().String(), h.Dst.Addr().String()
	}
	text := fmt.Sprintf("%s %s → %s", h.Proto, src, dst)
	switch {
	case h.Later:
		text += ", a later fragment"
	case h.Proto == TCP:
		text += " " + flagsText(h.Flags)
	case h.Proto == ICMP || h.Proto == ICMPv6:
		text += fmt.Sprintf(" type %d code %d", h.Type, h.Code)
		if name := messages()[uint16(h.Proto)<<8|uint16(h.Type)]; name != "" {
			text += " (" + name + ")"
		}
	}
	return text
}

// messages names the types of ICMP that a network tells of, by protocol and type.
func messages() map[uint16]string {
	return map[uint16]string{
		1 << 8: "echo reply", 1<<8 | 3: "unreachable", 1<<8 | 8: "echo request", 1<<8 | 11: "time exceeded",
		58<<8 | 1: "unreachable", 58<<8 | 2: "packet too big", 58<<8 | 3: "time exceeded", 58<<8 | 128: "echo request", 58<<8 | 129: "echo reply",
		58<<8 | 133: "router solicitation", 58<<8 | 134: "router advertisement", 58<<8 | 135: "neighbour solicitation", 58<<8 | 136: "neighbour advertisement",
	}
}

func flagsText(flags uint8) string {
	text := ""
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK"} {
		if flags&(1<<i) == 0 {
			continue
		}
		if text != "" {
			text += ","
		}
		text += name
	}
	return text
}

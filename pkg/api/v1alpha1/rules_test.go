// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import "strings"

// ruleCase is the spec of an object, and the field that is wrong in it, as Go's
// error names it; empty for a good one.
type ruleCase struct{ kind, name, spec, wrong string }

func ruleCases() []ruleCase {
	var out []ruleCase
	for _, list := range [][]ruleCase{poolCases(), rangeCases(), blockCases(), allocationCases(), switchCases(), routeCases(), policyCases(), otherCases()} {
		out = append(out, list...)
	}
	return out
}

func poolCases() []ruleCase {
	many := "use: LoadBalancer\ncidrs: [" + strings.Repeat("10.0.0.0/24, ", 65) + "]"
	return []ruleCase{
		{"IPPool", "least", "use: LoadBalancer\ncidrs: [192.168.20.0/24]", ""},
		{"IPPool", "all fields", `use: LoadBalancer
cidrs: [192.168.20.0/24, 192.168.21.0/30]
ranges: [{first: 192.168.30.10, last: 192.168.30.20}]
exclude: [192.168.20.7, 192.168.20.64/26]
gateway: 192.168.20.1
autoAssign: false
priority: -5
namespaceSelector: {matchLabels: {team: shop}}
serviceSelector: {matchExpressions: [{key: app.kubernetes.io/name, operator: In, values: [web, api]}]}
nodeSelector: {matchExpressions: [{key: patchbay.net/external, operator: Exists}]}
coolDown: 2m30s
disabled: true`, ""},
		{"IPPool", "dual stack", "use: LoadBalancer\ncidrs: [192.168.20.0/24, 'fd00:20::/64']", ""},
		{"IPPool", "pod blocks", "use: Pod\ncidrs: [10.244.0.0/16]\nblockSize: 24", ""},
		{"IPPool", "pod blocks IPv6", "use: Pod\ncidrs: ['fd00:10:244::/56']\nblockSize: 120", ""},
		{"IPPool", "nodes", "use: Node\nranges: [{first: 'fd00::10', last: 'fd00::1:0'}]\ngateway: 'fe80::1'", ""},
		{"IPPool", "no use", "cidrs: [192.168.20.0/24]", "spec.use"},
		{"IPPool", "unknown use", "use: Everybody\ncidrs: [192.168.20.0/24]", "spec.use"},
		{"IPPool", "no addresses", "use: Node", "spec"},
		{"IPPool", "empty addresses", "use: Node\ncidrs: []\nranges: []", "spec"},
		{"IPPool", "unknown field", "use: Node\ncidrs: [192.168.20.0/24]\nsize: 3", "size"},
		{"IPPool", "host bits", "use: Node\ncidrs: [192.168.20.1/24]", "spec.cidrs[0]"},
		{"IPPool", "an address as cidr", "use: Node\ncidrs: [192.168.20.0/24, 192.168.21.1]", "spec.cidrs[1]"},
		{"IPPool", "leading zeros", "use: Node\ncidrs: [192.168.020.0/24]", "spec.cidrs[0]"},
		{"IPPool", "mapped", "use: Node\ncidrs: ['::ffff:192.168.20.0/120']", "spec.cidrs[0]"},
		{"IPPool", "multicast", "use: Node\ncidrs: [224.0.0.0/4]", "spec.cidrs[0]"},
		{"IPPool", "loopback", "use: Node\ncidrs: [127.0.0.0/8]", "spec.cidrs[0]"},
		{"IPPool", "everything", "use: Node\ncidrs: [0.0.0.0/0]", "spec.cidrs[0]"},
		{"IPPool", "link-local", "use: Node\ncidrs: ['fe80::/64']", "spec.cidrs[0]"},
		{"IPPool", "twice", "use: Node\ncidrs: [192.168.20.0/24, 192.168.20.0/24]", "spec.cidrs[1]"},
		{"IPPool", "too many", many, "spec.cidrs"},
		{"IPPool", "exclude nonsense", "use: Node\ncidrs: [192.168.20.0/24]\nexclude: [most]", "spec.exclude[0]"},
		{"IPPool", "exclude host bits", "use: Node\ncidrs: [192.168.20.0/24]\nexclude: [192.168.20.3/30]", "spec.exclude[0]"},
		{"IPPool", "exclude zone", "use: Node\ncidrs: [192.168.20.0/24]\nexclude: ['fe80::1%eth0']", "spec.exclude[0]"},
		{"IPPool", "gateway nonsense", "use: Node\ncidrs: [192.168.20.0/24]\ngateway: router", "spec.gateway"},
		{"IPPool", "gateway of another family", "use: Node\ncidrs: [192.168.20.0/24]\ngateway: 'fd00::1'", "spec.gateway"},
		{"IPPool", "gateway of another family than a range", "use: Node\nranges: [{first: 'fd00::1', last: 'fd00::2'}]\ngateway: 192.168.20.1", "spec.gateway"},
		{"IPPool", "pod ranges", "use: Pod\ncidrs: [10.0.0.0/8]\nranges: [{first: 11.0.0.1, last: 11.0.0.2}]", "spec.ranges"},
		{"IPPool", "a switch's addresses", "use: Node\nswitch: External\ncidrs: [10.0.0.0/24]\nstatic: [{name: vm, address: 10.0.0.9}, {mac: '02:00:00:00:00:0A', address: 10.0.0.8}]", ""},
		{"IPPool", "a switch for pods", "use: Pod\nswitch: External\ncidrs: [10.0.0.0/24]", "spec"},
		{"IPPool", "static for pods", "use: Pod\ncidrs: [10.0.0.0/24]\nstatic: [{name: vm, address: 10.0.0.9}]", "spec"},
		{"IPPool", "unknown switch", "use: Node\nswitch: Other\ncidrs: [10.0.0.0/24]", "spec.switch"},
		{"IPPool", "static for nobody", "use: Node\ncidrs: [10.0.0.0/24]\nstatic: [{address: 10.0.0.9}]", "spec.static[0]"},
		{"IPPool", "static for two", "use: Node\ncidrs: [10.0.0.0/24]\nstatic: [{address: 10.0.0.9, name: a, mac: '02:00:00:00:00:0A'}]", "spec.static[0]"},
		{"IPPool", "static without address", "use: Node\ncidrs: [10.0.0.0/24]\nstatic: [{address: x, name: a}]", "spec.static[0].address"},
		{"IPPool", "static with bad MAC", "use: Node\ncidrs: [10.0.0.0/24]\nstatic: [{address: 10.0.0.9, mac: '02:00'}]", "spec.static[0].mac"},
		{"IPPool", "blocks for Services", "use: LoadBalancer\ncidrs: [10.0.0.0/8]\nblockSize: 24", "spec.blockSize"},
		{"IPPool", "blocks larger than the cidr", "use: Pod\ncidrs: [10.0.0.0/24]\nblockSize: 20", "spec.blockSize"},
		{"IPPool", "blocks smaller than an address", "use: Pod\ncidrs: [10.0.0.0/24]\nblockSize: 33", "spec.blockSize"},
		{"IPPool", "blocks too large", "use: Pod\ncidrs: [10.0.0.0/8]\nblockSize: 7", "spec.blockSize"},
		{"IPPool", "blocks of two families", "use: Pod\ncidrs: [10.0.0.0/8, 'fd00::/16']\nblockSize: 26", "spec.blockSize"},
		{"IPPool", "services of a pod pool", "use: Pod\ncidrs: [10.0.0.0/8]\nserviceSelector: {}", "spec.serviceSelector"},
		{"IPPool", "namespaces of a node pool", "use: Node\ncidrs: [10.0.0.0/8]\nnamespaceSelector: {}", "spec.namespaceSelector"},
		{"IPPool", "operator unknown", "use: Node\ncidrs: [10.0.0.0/8]\nnodeSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}", "spec.nodeSelector"},
		{"IPPool", "In without values", "use: Node\ncidrs: [10.0.0.0/8]\nnodeSelector: {matchExpressions: [{key: a, operator: In}]}", "spec.nodeSelector"},
		{"IPPool", "Exists with values", "use: Node\ncidrs: [10.0.0.0/8]\nnodeSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}", "spec.nodeSelector"},
		{"IPPool", "label key", "use: Node\ncidrs: [10.0.0.0/8]\nnodeSelector: {matchExpressions: [{key: a b, operator: Exists}]}", "spec.nodeSelector"},
		{"IPPool", "label value", "use: Node\ncidrs: [10.0.0.0/8]\nnodeSelector: {matchLabels: {a: '-'}}", "spec.nodeSelector"},
		{"IPPool", "cool-down below", "use: Node\ncidrs: [10.0.0.0/8]\ncoolDown: -1s", "spec.coolDown"},
		{"IPPool", "cool-down above", "use: Node\ncidrs: [10.0.0.0/8]\ncoolDown: 24h1s", "spec.coolDown"},
		{"IPPool", "cool-down nonsense", "use: Node\ncidrs: [10.0.0.0/8]\ncoolDown: soon", "duration"},
	}
}

func rangeCases() []ruleCase {
	pool := func(name, first, last, wrong string) ruleCase {
		return ruleCase{"IPPool", "range " + name, "use: Node\nranges: [{first: '" + first + "', last: '" + last + "'}]", wrong}
	}
	return []ruleCase{
		pool("of one", "10.0.0.1", "10.0.0.1", ""),
		pool("over a byte", "10.0.0.255", "10.0.1.0", ""),
		pool("over half of all", "9.255.255.255", "200.0.0.0", ""),
		pool("to the last", "223.255.255.254", "223.255.255.255", ""),
		pool("IPv6 at the last bit", "fd00::1:0", "fd00::1:1", ""),
		pool("IPv6 wide", "2001:db8::", "fd00::", ""),
		pool("IPv6 written twice", "fd00::1", "fd00:0:0::1", ""),
		pool("backwards", "10.0.0.2", "10.0.0.1", "spec.ranges[0]"),
		pool("backwards over a byte", "10.0.1.0", "10.0.0.255", "spec.ranges[0]"),
		pool("backwards at the first bit", "200.0.0.0", "10.0.0.0", "spec.ranges[0]"),
		pool("IPv6 backwards", "fd00::2", "fd00::1", "spec.ranges[0]"),
		pool("two families", "10.0.0.1", "fd00::1", "spec.ranges[0]"),
		pool("nonsense", "10.0.0.1", "10.0.0.256", "spec.ranges[0].last"),
		pool("loopback", "127.0.0.1", "127.0.0.9", "spec.ranges[0].first"),
		pool("empty", "", "10.0.0.1", "spec.ranges[0].first"),
	}
}

func blockCases() []ruleCase {
	return []ruleCase{
		{"IPBlock", "good", "pool: pods\nnode: n1\ncidr: 10.244.0.0/26", ""},
		{"IPBlock", "draining", "pool: pods\nnode: n1\ncidr: 10.244.0.0/26\nstate: Draining", ""},
		{"IPBlock", "no pool", "node: n1\ncidr: 10.244.0.0/26", "spec.pool"},
		{"IPBlock", "empty node", "pool: pods\nnode: ''\ncidr: 10.244.0.0/26", "spec.node"},
		{"IPBlock", "host bits", "pool: pods\nnode: n1\ncidr: 10.244.0.1/26", "spec.cidr"},
		{"IPBlock", "no cidr", "pool: pods\nnode: n1", "spec.cidr"},
		{"IPBlock", "unknown state", "pool: pods\nnode: n1\ncidr: 10.244.0.0/26\nstate: Gone", "spec.state"},
	}
}

func allocationCases() []ruleCase {
	owner := "\nowners: [{namespace: shop, name: web, uid: u1}]"
	two := "\nowners: [{namespace: shop, name: web}, {namespace: shop, name: dns}]"
	return []ruleCase{
		{"IPAllocation", "reserved", "address: 203.0.113.10\npool: external" + owner, ""},
		{"IPAllocation", "active since", "address: 'fd00::10'\npool: external\nstate: Active\nsince: '2026-11-01T10:00:00Z'" + owner, ""},
		{"IPAllocation", "shared", "address: 203.0.113.10\npool: external\nsharingKey: dns" + two, ""},
		{"IPAllocation", "conflicted without owner", "address: 203.0.113.10\npool: external\nstate: Conflicted", ""},
		{"IPAllocation", "two owners without key", "address: 203.0.113.10\npool: external" + two, "spec.owners"},
		{"IPAllocation", "active without owner", "address: 203.0.113.10\npool: external\nstate: Active", "spec.owners"},
		{"IPAllocation", "owner without name", "address: 203.0.113.10\npool: external\nowners: [{namespace: shop, name: ''}]", "spec.owners[0].name"},
		{"IPAllocation", "no address", "pool: external" + owner, "spec.address"},
		{"IPAllocation", "a prefix", "address: 203.0.113.0/24\npool: external" + owner, "spec.address"},
		{"IPAllocation", "loopback", "address: '::1'\npool: external" + owner, "spec.address"},
		{"IPAllocation", "no pool", "address: 203.0.113.10" + owner, "spec.pool"},
		{"IPAllocation", "unknown state", "address: 203.0.113.10\npool: external\nstate: Maybe" + owner, "spec.state"},
		{"IPAllocation", "long key", "address: 203.0.113.10\npool: external\nsharingKey: " + strings.Repeat("k", 254) + owner, "spec.sharingKey"},
	}
}

func switchCases() []ruleCase {
	return []ruleCase{
		{"VirtualSwitch", "internal", "type: Internal\naddresses: [172.31.0.1/24, 'fd00:31::1/64']", ""},
		{"VirtualSwitch", "external", "type: External\nport: Port3\nvlan: 20\nmtu: 9000", ""},
		{"VirtualSwitch", "no type", "port: Port3", "spec.type"},
		{"VirtualSwitch", "unknown type", "type: Sideways", "spec.type"},
		{"VirtualSwitch", "external without port", "type: External", "spec.port"},
		{"VirtualSwitch", "internal with port", "type: Internal\nport: Port3\naddresses: [172.31.0.1/24]", "spec.port"},
		{"VirtualSwitch", "internal without address", "type: Internal", "spec.addresses"},
		{"VirtualSwitch", "external with address", "type: External\nport: Port3\naddresses: [172.31.0.1/24]", "spec.addresses"},
		{"VirtualSwitch", "address without length", "type: Internal\naddresses: [172.31.0.1]", "spec.addresses[0]"},
		{"VirtualSwitch", "address twice", "type: Internal\naddresses: [172.31.0.1/24, 172.31.0.1/24]", "spec.addresses[1]"},
		{"VirtualSwitch", "long port", "type: External\nport: a-name-of-16-char", "spec.port"},
		{"VirtualSwitch", "port with slash", "type: External\nport: a/b", "spec.port"},
		{"VirtualSwitch", "port with blank", "type: External\nport: 'Port 3'", "spec.port"},
		{"VirtualSwitch", "port of dots", "type: External\nport: ..", "spec.port"},
		{"VirtualSwitch", "vlan 0", "type: External\nport: Port3\nvlan: 0", "spec.vlan"},
		{"VirtualSwitch", "vlan 4095", "type: External\nport: Port3\nvlan: 4095", "spec.vlan"},
		{"VirtualSwitch", "vlan inside", "type: Internal\naddresses: [172.31.0.1/24]\nvlan: 5", "spec.vlan"},
		{"VirtualSwitch", "mtu for IPv4 only", "type: External\nport: Port3\nmtu: 576", "spec.mtu"},
	}
}

func routeCases() []ruleCase {
	return []ruleCase{
		{"NodeRoute", "reference example", "interface: Port3\ndestination: 192.168.20.0/24\nnextHop: 192.168.20.1\nmetric: 100", ""},
		{"NodeRoute", "address, default metric", "interface: eth1\ndestination: 192.168.20.9\nnextHop: 192.168.20.1", ""},
		{"NodeRoute", "on the link", "interface: eth1\ndestination: 192.168.20.0/24", ""},
		{"NodeRoute", "link-local next hop", "interface: eth1\ndestination: 'fd00:20::/64'\nnextHop: 'fe80::1'\nnodeSelector: {matchLabels: {kubernetes.io/os: linux}}", ""},
		{"NodeRoute", "no interface", "destination: 192.168.20.0/24", "spec.interface"},
		{"NodeRoute", "no destination", "interface: eth1", "spec.destination"},
		{"NodeRoute", "host bits", "interface: eth1\ndestination: 192.168.20.1/24", "spec.destination"},
		{"NodeRoute", "default route", "interface: eth1\ndestination: 0.0.0.0/0\nnextHop: 10.0.0.1", "spec.destination"},
		{"NodeRoute", "default route IPv6", "interface: eth1\ndestination: '::/0'\nnextHop: 'fe80::1'", "spec.destination"},
		{"NodeRoute", "multicast", "interface: eth1\ndestination: 224.0.0.1", "spec.destination"},
		{"NodeRoute", "nonsense", "interface: eth1\ndestination: cameras", "spec.destination"},
		{"NodeRoute", "two families", "interface: eth1\ndestination: 192.168.20.0/24\nnextHop: 'fd00::1'", "spec.nextHop"},
		{"NodeRoute", "next hop nowhere", "interface: eth1\ndestination: 192.168.20.0/24\nnextHop: 0.0.0.0", "spec.nextHop"},
		{"NodeRoute", "next hop is a prefix", "interface: eth1\ndestination: 192.168.20.0/24\nnextHop: 192.168.20.1/24", "spec.nextHop"},
		{"NodeRoute", "metric 0", "interface: eth1\ndestination: 192.168.20.0/24\nmetric: 0", "spec.metric"},
		{"NodeRoute", "interface too long", "interface: a-name-of-16-char\ndestination: 192.168.20.0/24", "spec.interface"},
		{"NodeRoute", "selector", "interface: eth1\ndestination: 192.168.20.0/24\nnodeSelector: {matchExpressions: [{key: '', operator: Exists}]}", "spec.nodeSelector"},
	}
}

func policyCases() []ruleCase {
	rule := func(name, rule, wrong string) ruleCase {
		return ruleCase{"NodePolicy", name, "priority: 10\ningress:\n- " + strings.ReplaceAll(rule, "\n", "\n  "), wrong}
	}
	return []ruleCase{
		{"NodePolicy", "empty", "priority: 0", ""},
		{"NodePolicy", "both ways", `priority: 1000
nodeSelector: {matchLabels: {role: worker}}
ingress:
- name: ssh from the office
  action: Accept
  from: [{networks: [10.9.0.0/16, 'fd00:9::/32']}]
  protocols: [{tcp: {destinationPort: {number: 22}}}]
- action: Deny
  from: [{networks: [0.0.0.0/0, '::/0']}]
  protocols: [{tcp: {}}, {udp: {destinationPort: {range: {start: 1, end: 1024}}}}, {sctp: {}}]
egress:
- action: Pass
  to: [{nodes: {}}, {namespaces: {matchLabels: {a: b}}}, {pods: {namespaceSelector: {}, podSelector: {}}}]`, ""},
		{"NodePolicy", "priority", "priority: 1001", "spec.priority"},
		{"NodePolicy", "egress action", "priority: 1\negress: [{action: Log, to: [{nodes: {}}]}]", "spec.egress[0].action"},
		rule("no peer", "action: Deny\nfrom: []", "spec.ingress[0].from"),
		rule("two kinds of peer", "action: Deny\nfrom: [{nodes: {}, namespaces: {}}]", "spec.ingress[0].from[0]"),
		rule("empty peer", "action: Deny\nfrom: [{}]", "spec.ingress[0].from[0]"),
		rule("network with host bits", "action: Deny\nfrom: [{networks: [10.0.0.1/8]}]", "spec.ingress[0].from[0].networks[0]"),
		rule("no networks", "action: Deny\nfrom: [{networks: []}]", "spec.ingress[0].from[0]"),
		rule("pod selector", "action: Deny\nfrom: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {x: '/'}}}}]", "spec.ingress[0].from[0].pods.podSelector"),
		rule("no protocol", "action: Deny\nfrom: [{nodes: {}}]\nprotocols: [{}]", "spec.ingress[0].protocols[0]"),
		rule("port 0", "action: Deny\nfrom: [{nodes: {}}]\nprotocols: [{tcp: {destinationPort: {number: 0}}}]", "destinationPort.number"),
		rule("port and range", "action: Deny\nfrom: [{nodes: {}}]\nprotocols: [{udp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}]", "udp.destinationPort"),
		rule("range backwards", "action: Deny\nfrom: [{nodes: {}}]\nprotocols: [{sctp: {destinationPort: {range: {start: 2, end: 1}}}}]", "sctp.destinationPort.range"),
		rule("long name", "action: Deny\nfrom: [{nodes: {}}]\nname: "+strings.Repeat("n", 101), "spec.ingress[0].name"),
	}
}

func otherCases() []ruleCase {
	return []ruleCase{
		{"BGPPeer", "good", "address: 192.0.2.1\nasn: 4200000000\nlocalASN: 64512", ""},
		{"BGPPeer", "all fields", "address: 'fd00::1'\nport: 1179\nasn: 64513\nlocalASN: 64512\nholdSeconds: 9\nnodeSelector: {}", ""},
		{"BGPPeer", "no address", "asn: 64513\nlocalASN: 64512", "spec.address"},
		{"BGPPeer", "asn 0", "address: 192.0.2.1\nasn: 0\nlocalASN: 64512", "spec.asn"},
		{"BGPPeer", "asn too large", "address: 192.0.2.1\nasn: 64513\nlocalASN: 4294967296", "spec.localASN"},
		{"BGPPeer", "port", "address: 192.0.2.1\nasn: 64513\nlocalASN: 64512\nport: 65536", "spec.port"},
		{"BGPPeer", "hold time", "address: 192.0.2.1\nasn: 64513\nlocalASN: 64512\nholdSeconds: 2", "spec.holdSeconds"},
		{"NodeNetworkState", "report", `status:
  version: v0.1.0
  nics: [{name: eth0, role: internal, carrier: true, addresses: [10.0.0.1/24], dynamicFamilies: [IPv4]}]
  routes: [{name: cameras, state: Refused, message: eth0 has a dynamic address}]
  blocks: [{cidr: 10.244.0.0/26, used: 3, free: 61}]
  announcements: [{address: 203.0.113.10, interfaces: [eth1]}]`, ""},
		{"NodeNetworkState", "route state", "status:\n  routes: [{name: cameras, state: Perhaps}]", "status.routes[0].state"},
	}
}

// updateCase is an object before and after a change, and the field that may
// not change so.
type updateCase struct{ kind, name, before, after, wrong string }

func updateCases() []updateCase {
	return []updateCase{
		{"IPPool", "more addresses", "use: Node\ncidrs: [10.0.0.0/24]", "use: Node\ncidrs: [10.0.0.0/23]", ""},
		{"IPPool", "use", "use: Node\ncidrs: [10.0.0.0/24]", "use: Pod\ncidrs: [10.0.0.0/24]", "spec.use"},
		{"IPBlock", "state", "pool: p\nnode: n1\ncidr: 10.0.0.0/26", "pool: p\nnode: n1\ncidr: 10.0.0.0/26\nstate: Draining", ""},
		{"IPBlock", "cidr", "pool: p\nnode: n1\ncidr: 10.0.0.0/26", "pool: p\nnode: n1\ncidr: 10.0.0.64/26", "spec.cidr"},
		{"IPBlock", "node", "pool: p\nnode: n1\ncidr: 10.0.0.0/26", "pool: p\nnode: n2\ncidr: 10.0.0.0/26", "spec.node"},
		{"IPBlock", "pool", "pool: p\nnode: n1\ncidr: 10.0.0.0/26", "pool: q\nnode: n1\ncidr: 10.0.0.0/26", "spec.pool"},
		{"IPAllocation", "state", "address: 10.0.0.1\npool: p\nstate: Cooling", "address: 10.0.0.1\npool: p\nstate: Conflicted", ""},
		{"IPAllocation", "address", "address: 10.0.0.1\npool: p\nstate: Cooling", "address: 10.0.0.2\npool: p\nstate: Cooling", "spec.address"},
		{"VirtualSwitch", "port", "type: External\nport: Port3", "type: External\nport: Port4", ""},
		{"VirtualSwitch", "type", "type: Internal\naddresses: [172.31.0.1/24]", "type: External\nport: Port3", "spec.type"},
	}
}

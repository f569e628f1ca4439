// SPDX-License-Identifier: Apache-2.0

// Package ipam is patchbay-ipam, the CNI IPAM plugin: it gives addresses out of
// the ranges in its configuration and remembers them in a store on the node. It
// runs under any main plugin that executes an IPAM plugin, and in process under
// Patchbay's own, which call Load or the verbs here.
//
//	"ipam": {
//	  "type": "patchbay-ipam",
//	  "leases": "/run/patchbay/leases.db",           the store
//	  "durable": false,                              leases outlive a reboot; default: the store is not below /run
//	  "coolDown": "60s",                             rest of a freed address
//	  "ranges": [[{"subnet": "10.244.0.0/24"}],      one address out of each set
//	             [{"subnet": "fd00:10:244::/120", "rangeStart": …, "rangeEnd": …, "gateway": …, "exclude": […]}]],
//	  "routes": [{"dst": "0.0.0.0/0", "gw": …}],     handed back in the result
//	  "pool": "nodes",                               in place of ranges: a pool of the device's, from its agent
//	  "static": [{"address": "10.244.0.9", "name": "vm-1"}, {"address": …, "mac": …}],
//	  "statusOnExhaustion": false                    STATUS fails when a set has no free address
//	}
//
// A durable store gives a machine the same addresses again, also when its
// attachment is made anew: it is told by args.cni.name, by its pod's name, or by
// the container's id. Static addresses are one machine's and nobody else's; one
// that is in no range is refused to its machine, as when the ranges were changed.
//
// Addresses are requested by the ips capability, by args.cni.ips or by IP in
// CNI_ARGS.
package ipam

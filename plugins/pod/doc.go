// SPDX-License-Identifier: Apache-2.0

// Package pod is patchbay, the CNI plugin that makes a pod's primary interface:
// a routed veth that the agent's programs are attached to.
//
// ADD goes lease → veth → agent → result, and undoes in reverse what it did if
// a step fails. It returns success when the agent says that the pod's policy
// and Services are in force. Killed at any point, the same call made again
// finds what it left by container and interface, and makes it anew. DEL goes
// the other way; it needs neither the agent nor the pod's namespace. With an agent
// the link goes behind its answer, and holds the addresses until then.
//
//	{"type": "patchbay", "mtu": 1500,
//	 "agentSocket": "/run/patchbay/agent.sock",
//	 "readyFile": "/run/patchbay/ready",             default: beside the socket
//	 "ipam": {"type": "patchbay-ipam", …}}           in process; any other type is executed
//
// Capabilities: ips, mac, and portMappings, which need patchbay-ipam: host ports
// are kept with the lease, and served by the agent as NodePorts are.
//
// The routes of an IPAM result are not needed: all that a pod sends goes to its
// gateway. A previous result is kept, this plugin's interface is added to it.
package pod

// SPDX-License-Identifier: Apache-2.0

// Package oracle says what must become of a packet, or of a connect(), that
// concerns a Service: the contract of kube-proxy, with what Patchbay adds to it,
// written as plainly as it can be. It reads Kubernetes' own objects, looks at
// nothing of the product, and is slow.
//
// The package's tests put random clusters through source/convert, service and
// datapath into maps, run the programs on packets, and compare; test/cluster
// compares Port.Choose with kube-proxy's own code.
//
//	outcome := state.Decide(oracle.Packet{From: oracle.Pod, Src: src, Dst: dst, Protocol: corev1.ProtocolTCP})
package oracle

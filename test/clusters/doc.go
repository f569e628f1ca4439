// SPDX-License-Identifier: Apache-2.0

// Package clusters has two whole clusters, each with its own folder of objects,
// agents and controller, on one external network with the same range of
// addresses. Neither knows of the other but by what is said on the wire.
package clusters

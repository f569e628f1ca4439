// SPDX-License-Identifier: Apache-2.0

// Package kubeproxy compares the oracle, test/oracle of Patchbay's own module,
// with kube-proxy's own code: which Service ports are served, at which
// addresses, by which endpoints. It has no code outside its test.
package kubeproxy

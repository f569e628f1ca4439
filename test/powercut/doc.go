// SPDX-License-Identifier: Apache-2.0

// Package powercut holds the test that the durable stores outlive a power cut:
// nodes' leases, custom routes and the snapshot. A guest changes them in turn on a
// disk of its own, whose every write and flush is logged; from the log the disk is made as it would have been after a cut at a
// random moment, with what was not flushed by then reverted at random, sector by
// sector. PATCHBAY_POWERCUTS sets how many cuts there are.
package powercut

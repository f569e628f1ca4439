// SPDX-License-Identifier: Apache-2.0

// Package store remembers leases on disk, for many processes at once: whoever
// wants to know or change something opens the file, does one transaction and
// closes it. Nobody holds it open, and a process may be killed at any system
// call: a transaction has happened wholly or not at all.
//
// Two files belong to a store: the bbolt database, and beside it a lock file,
// which waits in the order of arrival where bbolt's own lock polls every 50 ms,
// and holds the database's checksum.
// The database is made under another name and renamed, so it is never seen half
// made.
//
// A record that doesn't match its checksum is set aside, and its addresses
// stay held until its attachment is released or GC finds it gone. A database
// that can't be read is kept as <path>.damaged and begun anew, with the leases
// whose records are found in it, and with every other address reserved that
// Options.InUse finds on the node's links. Both are told to Options.Damaged.
//
// A lease ends in two steps where taking away its link takes long: End marks it,
// and whoever takes the link away releases it, whose addresses begin to rest then.
//
// Leases of pods end with the boot: the first to open the file in a new boot
// ends them, their addresses begin to rest. Leases of a durable store stay.
// Rests are measured on the boot's clock and begin anew after a boot.
package store

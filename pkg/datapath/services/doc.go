// SPDX-License-Identifier: Apache-2.0

// Package services owns the maps that load balancing reads: frontends,
// services, slots, backends and source_ranges. Nobody else writes them.
//
//	frontends  {address, port, protocol, scope} → index in services, flags
//	services   index → one 64-bit word: base and count of slots, generation
//	slots      base … base+count-1 → index in backends
//	backends   index → address, port, and the service it belongs to
//
// A change of a Service's backends never touches what a program may be
// reading: new backends and a new run of slots are written where nobody looks,
// then the word is switched by one atomic store. What the old word named rests
// for a grace period before it is used again.
//
// The maps are the only memory. What is in them is read back when they are
// opened, and from then on kept beside them to compare with.
package services
